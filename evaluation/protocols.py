"""The benchmarks as the field runs them: which images a set is, how they are degraded, and a system's score on them.

Ground truth is a uint8 image: luma as stored where a set is gray, MATLAB's Y (16..235) where luma is taken of colour,
RGB otherwise. It is coded as a baseline JPEG at each quality, and a system's output is compared with it. A set's figure
is the mean of its images' figures. The gain is an output's PSNR less that of the JPEG it was made from.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.images import list_images, read_image, to_channels
from data.jpeg import compress
from data.sets import first_few, known_sets, pixel_digest, split_digest
from data.splits import bsds500_split, refuse_other_split
from evaluation.metrics import METRICS, MIN_SIDE_PX, score

SET_FOLDERS = {
    "classic5": "classic5",
    "live1": "live1",
    "bsds500": "bsds500/test",
    "bsds500/val": "bsds500/val",  # for choosing, never for reporting
    "icb": "icb",
    "twitter": "twitter",
}
SET_SIZES = {"classic5": 5, "live1": 29, "bsds500": 200, "bsds500/val": 100}
SET_SPLITS = {"bsds500": "test", "bsds500/val": "val"}
CHANNELS = {"gray": 1, "color": 3}
PROTOCOLS = {
    "gray": "uint8 luma (MATLAB Y, 16..235, of colour images; gray images as stored), one-channel JPEG; "
    "PSNR peak 255; SSIM 11x11 Gaussian, valid region; PSNR-B 8x8; no border cropped; mean over images",
    "color": "uint8 RGB, 4:2:0 JPEG; PSNR over RGB, peak 255; SSIM 11x11 Gaussian, valid region, mean of the channels; "
    "PSNR-B 8x8, published channel order; no border cropped; mean over images",
}

# Main memory for the images that are being scored, and those waiting for it. SSIM holds 16 arrays of float64, of one
# channel at a time (measured: 130 and 132 bytes a pixel for luma and RGB).
SCORING_BYTES = 4 * 2**30
SCORING_BYTES_PER_PIXEL = 132

Restore = Callable[[np.ndarray], np.ndarray]  # degraded image -> restored image, both uint8 and of one shape

logger = logging.getLogger(__name__)


class ImageSet(NamedTuple):
    """A benchmark's name, as it appears in results, and its images in order."""

    name: str
    paths: list[Path]


class Case(NamedTuple):
    """One image of one set at one quality."""

    set_name: str
    quality: int
    stem: str


class Scores(NamedTuple):
    """An image's figures: a system's output's, its gain among them, and those of the JPEG it was made from."""

    output: dict[str, float]
    jpeg: dict[str, float]


Produce = Callable[[np.ndarray, Case], np.ndarray]  # (clean image, case) -> a system's output for that case


def open_sets(names: Sequence[str], data_root: str | Path) -> list[ImageSet]:
    """The image sets of these names: benchmarks under `data_root`, or paths to any folder, named by its last part.

    Raises:
        FileNotFoundError: if a name is neither a benchmark nor a folder, or the folder is missing.
        ValueError: if a folder is empty, holds BSDS500 images of another split, two images of one stem, or two sets
            have one name.
    """
    sets = [_open_set(name, Path(data_root)) for name in dict.fromkeys(names)]
    seen: dict[str, Path] = {}
    for name, paths in sets:
        if name in seen:
            raise ValueError(f"two sets are called {name!r} ({seen[name]}, {paths[0].parent}); evaluate them apart")
        seen[name] = paths[0].parent
    return sets


def present_sets(names: Sequence[str], data_root: str | Path) -> list[str]:
    """Those of the benchmarks that have a folder under `data_root`.

    Raises:
        FileNotFoundError: if none has.
    """
    present = [name for name in names if (Path(data_root) / SET_FOLDERS[name]).is_dir()]
    if not present:
        raise FileNotFoundError(f"{data_root} holds none of {', '.join(names)}; name the right folder with --data-root")
    return present


def read_clean(path: Path, channels: str) -> np.ndarray:
    """The ground truth of an image file: (H, W) for "gray", (H, W, 3) for "color".

    A Classic5 image stored as RGB of three equal channels is read as the gray image that it was: the luma of it, in
    16..235, would score 0.8 dB higher.

    Raises:
        ValueError: if the file cannot be read, is gray where colour is asked for, or has a side under 11 pixels.
    """
    return _as_clean(_read_stored(path), channels, path)


def _read_stored(path: Path) -> np.ndarray:
    image = read_image(path)
    if _is_gray_as_rgb(image):
        gray = np.ascontiguousarray(image[..., 0])
        if pixel_digest(gray) in known_sets()["classic5"].values():
            return gray
    return image


def _as_clean(image: np.ndarray, channels: str, path: Path) -> np.ndarray:
    if channels == "color" and image.ndim == 2:
        raise ValueError(f"{path} is a gray image; a colour evaluation needs colour images, so use --channels gray")
    if min(image.shape[:2]) < MIN_SIDE_PX:
        raise ValueError(f"{path} is {_size(image)}; the metrics need sides of at least {MIN_SIDE_PX} pixels")
    return to_channels(image, CHANNELS[channels], name=path)


def check_images(sets: Sequence[ImageSet], channels: str) -> None:
    """Read every image once, so that a broken or unfit one stops the run before any work. Errors as in `read_clean`.

    Warns where scores are not comparable: of a benchmark's images with other pixels than the known ones, and of gray
    images of other sets that are stored as RGB.
    """
    for name, paths in sets:
        digests, gray_as_rgb = {}, []
        for path in paths:
            image = _read_stored(path)
            _as_clean(image, channels, path)
            digests[path.stem] = pixel_digest(image)
            if _is_gray_as_rgb(image):
                gray_as_rgb.append(path.name)
        if unlike := _unlike_known(name, digests):
            logger.warning("%s: other pixels than the known copy has (%s): scores are not comparable", name, unlike)
        elif gray_as_rgb and channels == "gray":
            images = first_few(gray_as_rgb)
            logger.warning(
                "%s: gray images stored as RGB (%s); the luma taken of them spans 16..235, which scores about 0.8 dB "
                "more than the gray levels would: store them as gray, or compare with nothing else",
                name,
                images,
            )


def restored_by(restore: Restore) -> Produce:
    """Outputs of a function from degraded to restored image; the identity scores the JPEG itself."""
    return lambda clean, case: restore(compress(clean, case.quality))


def restored_in(folder: str | Path, sets: Sequence[ImageSet], qualities: Sequence[int]) -> Produce:
    """Outputs that another system left as files: `folder/<set>/<quality>/<image stem>.png`.

    Raises:
        FileNotFoundError: if the folder or any file is missing; names the first and says how many.
        ValueError: later, from the returned function, if a file is unreadable, of another size or kind than the clean
            image.
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
            raise ValueError(f"{path} is {found}; this evaluation compares {needed} images (--channels)")
        if image.shape != clean.shape:
            raise ValueError(f"{path} is {_size(image)}, but {case.stem} of {case.set_name} is {_size(clean)}")
        return image

    return read


def evaluate(
    produce: Produce,
    sets: Sequence[ImageSet],
    qualities: Sequence[int],
    channels: str,
    *,
    method: str,
    workers: int = 1,
) -> dict:
    """Score a system on sets of images at JPEG qualities.

    Outputs are produced one after the other in the calling thread (a network uses the machine by itself); `workers`
    threads score them, and the JPEGs, meanwhile: fewer of large images, so that these take `SCORING_BYTES` at most.

    Args:
        produce: the system, from `restored_by` or `restored_in`.
        channels: "gray" or "color".
        method: the system's name in the result.

    Returns:
        {"method", "channels", "protocol", "results": {set: {quality: {"psnr", "ssim", "psnrb", "gain", "worst_gain",
        "jpeg": {"psnr", "ssim", "psnrb"}, "images": {stem: {"psnr", "ssim", "psnrb", "gain"}}}}}}, the qualities as
        strings; PSNR, PSNR-B and gains in dB. "worst_gain" is the lowest of an image, "jpeg" the JPEGs' own figures.
        PSNR is infinite for equal images, and so is the gain, with its sign, where either image alone equals the clean
        one; it is 0 where both do. A mean of gains of both infinities is no number.

    Raises:
        ValueError: as `read_clean`, `produce` and the metrics do.
    """
    qualities = list(dict.fromkeys(qualities))
    images: dict[Case, Scores] = {}
    waiting: deque[_Pending] = deque()
    total = sum(len(paths) for _, paths in sets) * len(qualities)
    # disable=None: a bar on a terminal, silence elsewhere.
    with ThreadPoolExecutor(workers) as pool, tqdm(total=total, desc=method, unit="image", disable=None) as bar:
        try:
            for clean, case in _clean_cases(sets, qualities, channels):
                output, num_bytes = produce(clean, case), _scoring_bytes(clean)
                while not _has_room(waiting, num_bytes, workers):
                    _collect(waiting, images, bar)
                waiting.append(_Pending(case, num_bytes, pool.submit(_score, output, clean, case.quality)))
            while waiting:
                _collect(waiting, images, bar)
        finally:
            pool.shutdown(cancel_futures=True)
    results = {name: {str(quality): _summary(images, name, quality) for quality in qualities} for name, _ in sets}
    return {"method": method, "channels": channels, "protocol": PROTOCOLS[channels], "results": results}


def _open_set(name: str, data_root: Path) -> ImageSet:
    if name in SET_FOLDERS:
        paths = list_images(data_root / SET_FOLDERS[name])
        if name in SET_SPLITS:
            refuse_other_split(paths, SET_SPLITS[name])
        if len(paths) != SET_SIZES.get(name, len(paths)):
            logger.warning("%s has %d images here, not %d: not comparable", name, len(paths), SET_SIZES[name])
    elif Path(name).is_dir():
        paths = list_images(name)
        trained = [path for path in paths if bsds500_split(path.stem) == "train"]
        if trained:
            raise ValueError(
                f"{name} holds BSDS500 training images, {trained[0].name} for one ({len(trained)} of {len(paths)}); "
                f"a score needs unseen ones, such as bsds500/test"
            )
    else:
        raise FileNotFoundError(f"{name} is neither a set ({', '.join(SET_FOLDERS)}) nor a folder")
    path_of_stem: dict[str, Path] = {}
    for path in paths:
        if path_of_stem.setdefault(path.stem, path) != path:
            raise ValueError(f"{path} and {path_of_stem[path.stem].name} differ only in their suffix; rename one")
    return ImageSet(name if name in SET_FOLDERS else Path(os.path.abspath(name)).name, paths)


def _is_gray_as_rgb(image: np.ndarray) -> bool:
    # The first row decides nearly always, and the others need not be compared.
    return image.ndim == 3 and bool((image[0] == image[0, :, :1]).all() and (image == image[..., :1]).all())


def _unlike_known(name: str, digests: dict[str, str]) -> str:
    """Which images of a benchmark are not the known ones, in words; nothing where all are, or none are known."""
    if name in SET_SPLITS:  # known as a whole; one that is incomplete has been warned of
        split = SET_SPLITS[name]
        is_known = len(digests) != SET_SIZES[name] or split_digest(digests) == known_sets()["bsds500"][split]
        return "" if is_known else "JPEG decoders may differ by a level"
    known = known_sets().get(name, {}).values()
    return first_few([stem for stem, digest in digests.items() if digest not in known]) if known else ""


def _cases(sets: Sequence[ImageSet], qualities: Sequence[int]) -> Iterator[tuple[Path, Case]]:
    for name, paths in sets:
        for path, quality in product(paths, qualities):
            yield path, Case(name, quality, path.stem)


def _clean_cases(
    sets: Sequence[ImageSet], qualities: Sequence[int], channels: str
) -> Iterator[tuple[np.ndarray, Case]]:
    """Every case with its ground truth, decoded once for all qualities."""
    last_path, clean = None, None
    for path, case in _cases(sets, qualities):
        if path != last_path:
            last_path, clean = path, read_clean(path, channels)
        yield clean, case


def _score(restored: np.ndarray, clean: np.ndarray, quality: int) -> Scores:
    degraded = compress(clean, quality)
    jpeg = score(degraded, clean)
    output = jpeg if np.array_equal(restored, degraded) else score(restored, clean)
    return Scores(output | {"gain": _gain(output["psnr"], jpeg["psnr"])}, jpeg)


def _gain(psnr_db: float, jpeg_psnr_db: float) -> float:
    return 0.0 if psnr_db == jpeg_psnr_db else psnr_db - jpeg_psnr_db  # two infinities have no difference


class _Pending(NamedTuple):
    """An image that is being scored, or waits for it, and the memory that takes."""

    case: Case
    num_bytes: int
    scores: Future


def _scoring_bytes(clean: np.ndarray) -> int:
    return clean.shape[0] * clean.shape[1] * SCORING_BYTES_PER_PIXEL


def _has_room(waiting: deque[_Pending], num_bytes: int, workers: int) -> bool:
    """Whether one more image may be scored: few at a time, of large ones no more than fit into memory, always one."""
    total = num_bytes + sum(pending.num_bytes for pending in waiting)
    return not waiting or len(waiting) < 2 * workers and total <= SCORING_BYTES


def _collect(waiting: deque[_Pending], images: dict[Case, Scores], bar: tqdm) -> None:
    """Wait for the first of those waiting."""
    pending = waiting.popleft()
    images[pending.case] = pending.scores.result()
    bar.update()


def _summary(images: dict[Case, Scores], name: str, quality: int) -> dict:
    chosen = {case.stem: scores for case, scores in images.items() if case[:2] == (name, quality)}
    gains = [scores.output["gain"] for scores in chosen.values()]
    return _means(scores.output for scores in chosen.values()) | {
        "gain": sum(gains) / len(gains),
        "worst_gain": min(gains),
        "jpeg": _means(scores.jpeg for scores in chosen.values()),
        "images": {stem: scores.output for stem, scores in chosen.items()},
    }


def _means(scores: Iterable[dict[str, float]]) -> dict[str, float]:
    scores = list(scores)
    return {metric: float(np.mean([figures[metric] for figures in scores])) for metric in METRICS}


def _restored_path(folder: Path, case: Case) -> Path:
    return folder / case.set_name / str(case.quality) / f"{case.stem}.png"


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
