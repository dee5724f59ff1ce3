"""The evaluation protocol of this field: how images are degraded, and how a system is scored on them.

The ground truth is a uint8 image. For "gray" it is a gray image as stored, or MATLAB's Y (16..235) of a colour image;
for "color" it is RGB. It is coded as a baseline JPEG at each quality, or as `evaluation.scores.degradations` has it.
The output of a system is compared with it. The score of a set is the mean over its images. The gain is the PSNR of the
output minus the PSNR of the JPEG.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.images import opened_image, read_image
from engine.distributed import gather_objects, is_main_process, share_of
from evaluation.scores.degradations import Case, Degradation, RandomJpeg, as_degradations
from evaluation.scores.image_sets import COLOR_MODES, ImageSet, read_clean, size_of
from evaluation.scores.metrics import METRICS, means, scorer
from evaluation.scores.processes import scoring_processes

GROUND_TRUTH = {
    "gray": "uint8 luma (MATLAB Y, 16..235, of colour images; gray images as stored), one-channel JPEG",
    "color": "uint8 RGB, 4:2:0 JPEG",
}

# Main memory for the images that are being scored or wait for it. For each channel, SSIM keeps three arrays of float64
# about the ground truth (measured: 30 bytes per pixel for luma, 92 for RGB, and a few in Pillow's decoder).
SCORING_BYTES = 4 * 2**30
SCORING_BYTES_PER_PIXEL = {"gray": 40, "color": 110}

ImageRestoration = Callable[[np.ndarray], np.ndarray]  # degraded image -> restored image, both uint8 and of one shape
OutputSource = Callable[[np.ndarray, Case], np.ndarray]  # (clean image, case) -> the output of a system


class Scores(NamedTuple):
    """Scores of one output of a system, its gain included, and scores of the JPEG that it was made from."""

    output: dict[str, float]
    jpeg: dict[str, float]


class LightSource(ABC):
    """An `OutputSource` that needs no network, so that the scoring processes get its outputs themselves.

    It can be pickled.
    """

    def __call__(self, clean: np.ndarray, case: Case) -> np.ndarray:
        return self.output(case.degraded(clean), case)

    @abstractmethod
    def output(self, degraded: np.ndarray, case: Case) -> np.ndarray:
        """The output for a degraded image, in its shape."""


class JpegSource(LightSource):
    """The JPEG itself, as the output of a system that restores nothing."""

    def output(self, degraded: np.ndarray, case: Case) -> np.ndarray:
        return degraded


class FileSource(LightSource):
    """Outputs of another system, in files `folder/<set>/<label of the degradation>/<image stem>.png`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, case: Case) -> Path:
        return self.folder / case.set_name / case.degradation.label / f"{case.stem}.png"

    def output(self, degraded: np.ndarray, case: Case) -> np.ndarray:
        """Read a file. Raises ValueError if it cannot be read, or has another size or number of channels."""
        path = self.path(case)
        image = read_image(path)
        if image.ndim != degraded.ndim:
            found, needed = ("gray", "colour") if image.ndim == 2 else ("colour", "one-channel gray")
            raise ValueError(f"{path} is {found}; this evaluation compares {needed} images")
        if image.shape != degraded.shape:
            raise ValueError(f"{path} is {size_of(image)}, but {case.stem} of {case.set_name} is {size_of(degraded)}")
        return image


def restored_by(restore: ImageRestoration) -> OutputSource:
    """Outputs of a function that restores degraded images."""
    return lambda clean, case: restore(case.degraded(clean))


def restored_in(folder: str | Path, sets: Sequence[ImageSet], qualities: Sequence[int | Degradation]) -> FileSource:
    """Outputs of another system, read from files `folder/<set>/<quality>/<image stem>.png`.

    Raises:
        FileNotFoundError: if the folder or a file is missing; names the first file and says how many are missing.
    """
    source = FileSource(Path(folder))
    if not source.folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give one that holds <set>/<quality>/<image stem>.png")
    wanted = [source.path(case) for _, cases in jobs_of(sets, as_degradations(qualities)) for case in cases]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing ({len(missing)} of {len(wanted)} restored images are)")
    return source


def evaluate(
    produce: OutputSource,
    sets: Sequence[ImageSet],
    qualities: Sequence[int | Degradation],
    color_mode: str,
    *,
    method: str,
    workers: int = 1,
) -> dict:
    """Score a system on sets of images at JPEG qualities.

    This process produces the outputs one after the other, because a network uses the whole machine. Meanwhile `workers`
    processes score the outputs and the JPEGs; the outputs of a `LightSource` are theirs too. If images are large, fewer
    are scored at once, so that they take at most `SCORING_BYTES`.

    The processes of a `process_group` share the images, and all return the same result. It does not depend on their
    number, because means are taken over the images in the order of the sets.

    Args:
        produce: the system, from `restored_by` or `restored_in`, or a `JpegSource`.
        qualities: numbers, or other degradations.
        color_mode: "gray" or "color"; "channels" of the result.
        method: name of the system in the result.
        workers: number of scoring processes.

    Returns:
        {"method", "channels", "protocol", "results": {set: {quality: {"psnr", "ssim", "psnrb", "gain", "worst_gain",
        "jpeg": {"psnr", "ssim", "psnrb"}, "images": {stem: {"psnr", "ssim", "psnrb", "gain"}}}}}}. Qualities
        are strings, the labels of the degradations. A drawn quality is in its image's scores, as "quality". PSNR,
        PSNR-B and gains are in dB. "worst_gain" is the lowest gain of an image, "jpeg" the scores of the JPEGs. PSNR is
        infinite for equal images. The gain is then infinite too: positive if only the output equals the clean image,
        negative if only the JPEG does; it is 0 if both do. The mean of gains of +inf and -inf is NaN.

    Raises:
        ValueError: as `read_clean`, `produce` and the metrics.
        ChildProcessError: if a scoring process was killed.
    """
    degradations = as_degradations(qualities)
    share = share_of(jobs_of(sets, degradations))
    images: dict[Case, Scores] = {}
    for part in gather_objects(_scored(produce, share, color_mode, method, workers)):
        images |= part
    results = {
        name: {
            each.label: _summary({path.stem: images[Case(name, each, path.stem)] for path in paths})
            for each in degradations
        }
        for name, paths in sets
    }
    protocol = describe(color_mode, degradations)
    return {"method": method, "channels": color_mode, "protocol": protocol, "results": results}


class Job(NamedTuple):
    """An image and its cases, which are scored together."""

    path: Path
    cases: list[Case]


def jobs_of(sets: Sequence[ImageSet], degradations: Sequence[Degradation]) -> list[Job]:
    """Every image of the sets, with its cases."""
    return [Job(path, [Case(name, each, path.stem) for each in degradations]) for name, paths in sets for path in paths]


def clean_cases(
    sets: Sequence[ImageSet], qualities: Sequence[int | Degradation], color_mode: str
) -> Iterator[tuple[np.ndarray, Case]]:
    """Every case with its clean image. Each image is decoded once for all qualities."""
    for path, cases in jobs_of(sets, as_degradations(qualities)):
        clean = read_clean(path, color_mode)
        for case in cases:
            yield clean, case


def describe(color_mode: str, degradations: Sequence[Degradation] = ()) -> str:
    """The protocol in words, for the result of a "gray" or "color" evaluation."""
    settings = [one.luma_settings if color_mode == "gray" else one.rgb_settings for one in METRICS.values()]
    labels: dict[str, list[str]] = {}
    for each in degradations:
        labels.setdefault(each.remark, []).append(each.label)
    remarks = [f"{', '.join(of_remark)}: {remark}" for remark, of_remark in labels.items() if remark]
    return "; ".join([GROUND_TRUTH[color_mode], *remarks, *settings, "no border cropped", "mean over images"])


class _Pending(NamedTuple):
    """A job that is being scored or waits for it, and the memory for that, in bytes."""

    cases: list[Case]
    num_bytes: int
    scores: Future


class _Made(LightSource):
    """Outputs that were made already."""

    def __init__(self, outputs: dict[Case, np.ndarray]) -> None:
        self.outputs = outputs

    def output(self, degraded: np.ndarray, case: Case) -> np.ndarray:
        return self.outputs[case]


def _scored(
    produce: OutputSource, jobs: Sequence[Job], color_mode: str, method: str, workers: int
) -> dict[Case, Scores]:
    """The scores of every case."""
    images: dict[Case, Scores] = {}
    waiting: deque[_Pending] = deque()
    total = sum(len(job.cases) for job in jobs)
    hidden = None if is_main_process() else True  # None: the bar is only shown on a terminal
    with scoring_processes(workers) as pool, tqdm(total=total, desc=method, unit="image", disable=hidden) as bar:
        is_light = isinstance(produce, LightSource)
        for job in jobs:
            source = produce if is_light else _made(produce, job, color_mode, bar)
            num_bytes = _scoring_bytes(job, color_mode)
            while not _has_room(waiting, num_bytes, workers):
                bar.update(_collect(waiting, images) * is_light)
            waiting.append(_Pending(job.cases, num_bytes, pool.submit(_score, source, job, color_mode)))
        while waiting:
            bar.update(_collect(waiting, images) * is_light)
    return images


def _made(produce: OutputSource, job: Job, color_mode: str, bar: tqdm) -> _Made:
    """The outputs of a system for an image, made here."""
    clean, outputs = read_clean(job.path, color_mode), {}
    for case in job.cases:
        outputs[case] = produce(clean, case)
        bar.update()
    return _Made(outputs)


def _score(source: LightSource, job: Job, color_mode: str) -> list[Scores]:
    """The scores of an image's cases, in order. A scoring process does this."""
    clean, scores, shift = read_clean(job.path, color_mode), [], None
    for case in job.cases:
        if case.degradation.shift != shift:
            shift, score = case.degradation.shift, scorer(case.ground_truth(clean))
        degraded = case.degraded(clean)
        output = source.output(degraded, case)
        jpeg = score(degraded)
        restored = jpeg if np.array_equal(output, degraded) else score(output)
        drawn = {"quality": case.quality} if isinstance(case.degradation, RandomJpeg) else {}
        scores.append(Scores(drawn | restored | {"gain": gain_of(restored["psnr"], jpeg["psnr"])}, jpeg))
    return scores


def gain_of(psnr_db: float, jpeg_psnr_db: float) -> float:
    """The gain in dB; 0 if both are infinite."""
    return 0.0 if psnr_db == jpeg_psnr_db else psnr_db - jpeg_psnr_db  # inf - inf would be NaN


def _scoring_bytes(job: Job, color_mode: str) -> int:
    with opened_image(job.path) as file:
        num_pixels = file.width * file.height
    return num_pixels * (SCORING_BYTES_PER_PIXEL[color_mode] + COLOR_MODES[color_mode] * len(job.cases))


def _has_room(waiting: deque[_Pending], num_bytes: int, workers: int) -> bool:
    """Whether one more image may be submitted: the queue must stay short and fit into memory. One is always allowed."""
    total = num_bytes + sum(pending.num_bytes for pending in waiting)
    return not waiting or len(waiting) < 2 * workers and total <= SCORING_BYTES


def _collect(waiting: deque[_Pending], images: dict[Case, Scores]) -> int:
    """Wait for the first pending image and keep its scores; returns how many they are."""
    pending = waiting.popleft()
    images.update(zip(pending.cases, pending.scores.result(), strict=True))
    return len(pending.cases)


def _summary(images: dict[str, Scores]) -> dict:
    gains = [scores.output["gain"] for scores in images.values()]
    return means(scores.output for scores in images.values()) | {
        "gain": sum(gains) / len(gains),
        "worst_gain": min(gains),
        "jpeg": means(scores.jpeg for scores in images.values()),
        "images": {stem: scores.output for stem, scores in images.items()},
    }
