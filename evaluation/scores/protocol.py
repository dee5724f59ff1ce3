"""The evaluation protocol of this field: how images are degraded, and how a system is scored on them.

The ground truth is a uint8 image. For "gray" it is a gray image as stored, or MATLAB's Y (16..235) of a colour image;
for "color" it is RGB. It is coded as a baseline JPEG at each quality. The output of a system is compared with it. The
score of a set is the mean over its images. The gain is the PSNR of the output minus the PSNR of the JPEG.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.images import read_image
from data.jpeg import jpeg_roundtrip
from evaluation.scores.image_sets import ImageSet, read_clean, size_of
from evaluation.scores.metrics import METRICS, means, score

GROUND_TRUTH = {
    "gray": "uint8 luma (MATLAB Y, 16..235, of colour images; gray images as stored), one-channel JPEG",
    "color": "uint8 RGB, 4:2:0 JPEG",
}

# Main memory for the images that are being scored or wait for it. SSIM holds 16 arrays of float64, of one channel at a
# time (measured: 130 bytes per pixel for luma, 132 for RGB).
SCORING_BYTES = 4 * 2**30
SCORING_BYTES_PER_PIXEL = 132

ImageRestoration = Callable[[np.ndarray], np.ndarray]  # degraded image -> restored image, both uint8 and of one shape


class Case(NamedTuple):
    """One image of a set at one quality."""

    set_name: str
    quality: int
    stem: str


class Scores(NamedTuple):
    """Scores of one output of a system, its gain included, and scores of the JPEG that it was made from."""

    output: dict[str, float]
    jpeg: dict[str, float]


OutputSource = Callable[[np.ndarray, Case], np.ndarray]  # (clean image, case) -> the output of a system


def restored_by(restore: ImageRestoration) -> OutputSource:
    """Outputs of a function that restores degraded images. With the identity, the JPEG itself is scored."""
    return lambda clean, case: restore(jpeg_roundtrip(clean, case.quality))


def restored_in(folder: str | Path, sets: Sequence[ImageSet], qualities: Sequence[int]) -> OutputSource:
    """Outputs of another system, read from files `folder/<set>/<quality>/<image stem>.png`.

    Raises:
        FileNotFoundError: if the folder or a file is missing; names the first file and says how many are missing.
        ValueError: raised later, by the returned function, if a file cannot be read, or if its size or number of
            channels is not that of the clean image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give one that holds <set>/<quality>/<image stem>.png")
    wanted = [_restored_path(folder, case) for _, case in _cases(sets, qualities)]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing ({len(missing)} of {len(wanted)} restored images are)")

    def read(clean: np.ndarray, case: Case) -> np.ndarray:
        path = _restored_path(folder, case)
        image = read_image(path)
        if image.ndim != clean.ndim:
            found, needed = ("gray", "colour") if image.ndim == 2 else ("colour", "one-channel gray")
            raise ValueError(f"{path} is {found}; this evaluation compares {needed} images")
        if image.shape != clean.shape:
            raise ValueError(f"{path} is {size_of(image)}, but {case.stem} of {case.set_name} is {size_of(clean)}")
        return image

    return read


def evaluate(
    produce: OutputSource,
    sets: Sequence[ImageSet],
    qualities: Sequence[int],
    color_mode: str,
    *,
    method: str,
    workers: int = 1,
) -> dict:
    """Score a system on sets of images at JPEG qualities.

    The calling thread produces the outputs one after the other, because a network uses the whole machine. Meanwhile
    `workers` threads score the outputs and the JPEGs. If images are large, fewer are scored at once, so that they take
    at most `SCORING_BYTES`.

    Args:
        produce: the system, from `restored_by` or `restored_in`.
        color_mode: "gray" or "color"; "channels" of the result.
        method: name of the system in the result.
        workers: number of scoring threads.

    Returns:
        {"method", "channels", "protocol", "results": {set: {quality: {"psnr", "ssim", "psnrb", "gain", "worst_gain",
        "jpeg": {"psnr", "ssim", "psnrb"}, "images": {stem: {"psnr", "ssim", "psnrb", "gain"}}}}}}. Qualities
        are strings. PSNR, PSNR-B and gains are in dB. "worst_gain" is the lowest gain of an image, "jpeg" the scores of
        the JPEGs. PSNR is infinite for equal images. The gain is then infinite too: positive if only the output equals
        the clean image, negative if only the JPEG does; it is 0 if both do. The mean of gains of +inf and -inf is NaN.

    Raises:
        ValueError: as `read_clean`, `produce` and the metrics.
    """
    qualities = list(dict.fromkeys(qualities))
    images: dict[Case, Scores] = {}
    waiting: deque[_Pending] = deque()
    total = sum(len(paths) for _, paths in sets) * len(qualities)
    # disable=None: the bar is only shown on a terminal.
    with ThreadPoolExecutor(workers) as pool, tqdm(total=total, desc=method, unit="image", disable=None) as bar:
        try:
            for clean, case in clean_cases(sets, qualities, color_mode):
                output, num_bytes = produce(clean, case), _scoring_bytes(clean)
                while not _has_room(waiting, num_bytes, workers):
                    _collect(waiting, images, bar)
                waiting.append(_Pending(case, num_bytes, pool.submit(_score, output, clean, case.quality)))
            while waiting:
                _collect(waiting, images, bar)
        finally:
            pool.shutdown(cancel_futures=True)
    results = {name: {str(quality): _summary(images, name, quality) for quality in qualities} for name, _ in sets}
    return {"method": method, "channels": color_mode, "protocol": describe(color_mode), "results": results}


def describe(color_mode: str) -> str:
    """The protocol in words, for the result of a "gray" or "color" evaluation."""
    settings = [one.luma_settings if color_mode == "gray" else one.rgb_settings for one in METRICS.values()]
    return "; ".join([GROUND_TRUTH[color_mode], *settings, "no border cropped", "mean over images"])


def _cases(sets: Sequence[ImageSet], qualities: Sequence[int]) -> Iterator[tuple[Path, Case]]:
    for name, paths in sets:
        for path, quality in product(paths, qualities):
            yield path, Case(name, quality, path.stem)


def clean_cases(
    sets: Sequence[ImageSet], qualities: Sequence[int], color_mode: str
) -> Iterator[tuple[np.ndarray, Case]]:
    """Every case with its ground truth. Each image is decoded once for all qualities."""
    last_path, clean = None, None
    for path, case in _cases(sets, qualities):
        if path != last_path:
            last_path, clean = path, read_clean(path, color_mode)
        yield clean, case


def _score(restored: np.ndarray, clean: np.ndarray, quality: int) -> Scores:
    degraded = jpeg_roundtrip(clean, quality)
    jpeg = score(degraded, clean)
    output = jpeg if np.array_equal(restored, degraded) else score(restored, clean)
    return Scores(output | {"gain": gain_of(output["psnr"], jpeg["psnr"])}, jpeg)


def gain_of(psnr_db: float, jpeg_psnr_db: float) -> float:
    """The gain in dB; 0 if both are infinite."""
    return 0.0 if psnr_db == jpeg_psnr_db else psnr_db - jpeg_psnr_db  # inf - inf would be NaN


class _Pending(NamedTuple):
    """An image that is being scored or waits for it, and the memory for that, in bytes."""

    case: Case
    num_bytes: int
    scores: Future


def _scoring_bytes(clean: np.ndarray) -> int:
    return clean.shape[0] * clean.shape[1] * SCORING_BYTES_PER_PIXEL


def _has_room(waiting: deque[_Pending], num_bytes: int, workers: int) -> bool:
    """Whether one more image may be submitted: the queue must stay short and fit into memory. One is always allowed."""
    total = num_bytes + sum(pending.num_bytes for pending in waiting)
    return not waiting or len(waiting) < 2 * workers and total <= SCORING_BYTES


def _collect(waiting: deque[_Pending], images: dict[Case, Scores], bar: tqdm) -> None:
    """Wait for the first pending image and keep its scores."""
    pending = waiting.popleft()
    images[pending.case] = pending.scores.result()
    bar.update()


def _summary(images: dict[Case, Scores], name: str, quality: int) -> dict:
    chosen = {case.stem: scores for case, scores in images.items() if case[:2] == (name, quality)}
    gains = [scores.output["gain"] for scores in chosen.values()]
    return means(scores.output for scores in chosen.values()) | {
        "gain": sum(gains) / len(gains),
        "worst_gain": min(gains),
        "jpeg": means(scores.jpeg for scores in chosen.values()),
        "images": {stem: scores.output for stem, scores in chosen.items()},
    }


def _restored_path(folder: Path, case: Case) -> Path:
    return folder / case.set_name / str(case.quality) / f"{case.stem}.png"
