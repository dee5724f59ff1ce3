"""Restoring many photos: choose the files and their outputs, then restore one after the other, with progress."""

import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from common.errors import is_about_memory, silence_stdout
from data.images import opened_image
from restoration.photos import Photo, read_photo, restore_photo, save_photo
from restoration.tiling import TILE_PX

PHOTO_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm",
)  # fmt: skip
# image (H, W) or (H, W, 3), uint8 or uint16 -> its JPEG quality, 1..100, and the standard error of that
QualityEstimator = Callable[[np.ndarray], tuple[float, float]]
Chooser = Callable[[Photo], "PhotoRestorer"]  # gives the network for a photo
AS_IT_WAS = "fine already, left as it was"
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} photos [{elapsed}<{remaining}]"


class Job(NamedTuple):
    """One photo to restore, and the PNG file to write; whether that may replace a file that is made meanwhile."""

    source: Path
    target: Path
    may_replace: bool = False


class PhotoRestorer(NamedTuple):
    """A network that restores photos, and a function that reads their quality.

    Attributes:
        restorer: a `Restorer` in eval mode. It runs on its device, in the precision of the surrounding autocast.
        read_quality: gives the quality of a photo and its standard error; if None, no quality is printed.
        name: what the lines about photos call the network; if empty, they do not mention it.
    """

    restorer: nn.Module
    read_quality: QualityEstimator | None = None
    name: str = ""


def plan(inputs: Sequence[str | Path], output: str | Path, *, overwrite: bool = False) -> list[Job]:
    """Decide which files to restore and which file each becomes. Nothing is written.

    Args:
        inputs: image files, and folders. Folders are searched with their sub-folders. Hidden files are skipped. If the
            output folder is inside an input folder, it is skipped too.
        output: the folder to write to. Sub-folders are kept. `a.jpg` becomes `a.png`; it becomes `a.jpg.png` if another
            input, such as `a.gif`, would also become `a.png`.
        overwrite: whether existing outputs may be replaced. Inputs are never replaced.

    Raises:
        FileNotFoundError, ValueError: if an input is missing, or a folder holds no photo.
        ValueError: if two inputs would be written to the same file, if an output is one of the inputs, or if the
            output folder is not there and is named like a photo.
        FileExistsError: if outputs exist and `overwrite` is false.
    """
    output = Path(output)
    if output.suffix.lower() in PHOTO_SUFFIXES and not output.is_dir():
        raise ValueError(f"the output is a folder, but {output} is named like a photo; give a folder's name")
    found = {os.path.abspath(source): (source, relative) for source, relative in _find(inputs, output)}
    num_named = Counter(relative.with_suffix(".png") for _, relative in found.values())
    jobs: dict[Path, Job] = {}
    for source, relative in found.values():
        short = relative.with_suffix(".png")
        place = short if num_named[short] == 1 else relative.with_name(f"{relative.name}.png")
        job = Job(source, output / place, overwrite)
        other = jobs.setdefault(job.target, job)
        if other is not job:
            raise ValueError(f"{other.source} and {source} would both become {job.target}; restore them separately")
    for source, relative in found.values():
        earlier = found.get(os.path.abspath(output / relative.with_suffix(".png")))
        if earlier and earlier[0] != source and _size(earlier[0]) == _size(source):
            raise ValueError(
                f"{earlier[0]} is an input, but may be an earlier output for {source}: it is as large, and lies where "
                "that would be written; give another output folder"
            )
    originals = {_identity(source) for source, _ in found.values()}
    existing = [job.target for job in jobs.values() if os.path.lexists(job.target)]  # a link to nothing, too
    for target in existing:
        if target.exists() and _identity(target) in originals:
            raise ValueError(f"{target} is an input and would be replaced; give another output folder")
    if existing and not overwrite:
        count = f"{len(existing)} of {len(jobs)} outputs" if len(jobs) > 1 else "the output"
        raise FileExistsError(f"{existing[0]} exists ({count}); allow overwriting, or give another output folder")
    return list(jobs.values())


def make_folder(folder: str | Path) -> None:
    """Make the output folder and try to write to it, before any other work.

    Raises:
        ValueError: if it cannot be made or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise ValueError(f"cannot write to the folder {folder} ({reason}); give another output folder") from None


def restore_files(choose: Chooser, jobs: Sequence[Job], *, tile_px: int = TILE_PX) -> list[str]:
    """Restore photos. If one fails, the others are still restored.

    Prints the JPEG quality that is read from each photo: `a.jpg: JPEG quality about 23 +- 4`. Shows a progress bar on a
    terminal; elsewhere, prints one more line per photo.

    Args:
        choose: gives the network for a photo.
        jobs: from `plan`. The output folder exists.
        tile_px: see `restoration.tiling`.

    Returns:
        One line for each photo that could not be restored, with its name and the reason.
    """
    failures = []
    with tqdm(total=len(jobs), disable=None, bar_format=_BAR) as bar:
        for number, job in enumerate(jobs, start=1):
            bar.set_description_str(job.source.name)
            try:
                done = _restore(choose, job, bar, tile_px=tile_px)
            # Any error, even an unexpected one, must not stop the other photos.
            except Exception as error:
                message = _reason(error, tile_px)
                failures.append(message if str(job.source) in message else f"{job.source}: {message}")
            else:
                if bar.disable:
                    _say(done, bar)
            bar.update(number - bar.n)
    return failures


def _restore(choose: Chooser, job: Job, bar: tqdm, *, tile_px: int) -> str:
    """Restore and write one photo, and return a line about it. Nothing of the photo stays in memory."""
    started = time.perf_counter()
    photo = read_photo(job.source)
    restorer, read_quality, name = choose(photo)
    by = f", by {name}" if name else ""
    bar.set_description_str(f"{job.source.name}{by}")
    if read_quality is not None:
        quality, spread = read_quality(photo.pixels)
        reading = f"JPEG quality about {quality:.0f} +- {max(spread, 1):.0f}"
        _say(f"{job.source}: {reading}", bar)
    restored = restore_photo(restorer, photo, tile_px=tile_px, on_tile=bar.update)
    save_photo(restored, job.target, may_replace=job.may_replace)
    is_as_it_was = restored is photo
    if is_as_it_was and not bar.disable:
        _say(f"{job.source}: {AS_IT_WAS}", bar)
    height, width = photo.pixels.shape[:2]
    seconds, what = time.perf_counter() - started, AS_IT_WAS if is_as_it_was else _described(photo, restorer.channels)
    return f"{job.source} -> {job.target}  {width}x{height}  {seconds:.1f} s  {what}{by}"


def _say(line: str, bar: tqdm) -> None:
    """Print a line above the progress bar. Where nobody can read it (`| head`, `>&-`, a full disk), the photos are
    restored all the same."""
    if sys.stdout is None:
        return
    try:
        bar.write(line, file=sys.stdout)
        sys.stdout.flush()
    except OSError:
        silence_stdout()


def _reason(error: Exception, tile_px: int) -> str:
    """Why a photo was not restored, in one line."""
    message = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return f"no GPU memory left with tiles of {tile_px} pixels; use smaller tiles"
    if is_about_memory(error):
        return f"not enough memory with tiles of {tile_px} pixels; use smaller tiles, or cut the picture into parts"
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        return message
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {message}"


def _find(inputs: Sequence[str | Path], output: Path) -> Iterator[tuple[Path, Path]]:
    """Every file to restore, with its path relative to the output folder."""
    for given in map(Path, inputs):
        if given.is_file():
            yield given, Path(given.name)
            continue
        if not given.is_dir():
            raise FileNotFoundError(f"{given} does not exist; give image files, or folders of them")
        found = sorted(path for path in given.rglob("*") if _is_photo(path.relative_to(given)) and path.is_file())
        if output.resolve() != given.resolve():  # earlier outputs, in a folder inside this one, are not inputs
            found = [path for path in found if output.resolve() not in path.resolve().parents]
        if not found:
            raise ValueError(f"{given} holds no photos; files ending in {', '.join(PHOTO_SUFFIXES)} are restored")
        yield from ((path, path.relative_to(given)) for path in found)


def _is_photo(relative: Path) -> bool:
    return relative.suffix.lower() in PHOTO_SUFFIXES and not any(part.startswith(".") for part in relative.parts)


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height; None if the file cannot be read."""
    try:
        with opened_image(path) as opened:
            return opened.size
    except (ValueError, OSError):
        return None


def _identity(path: Path) -> tuple[int, int]:
    """The same for all names of one file: links, or `A.png` and `a.png` on a system that ignores case."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _described(photo: Photo, channels: int) -> str:
    """The end of the line about a photo: what was restored in it."""
    if photo.pixels.ndim == 2:
        return "16-bit gray" if photo.pixels.dtype == np.uint16 else "gray"
    return "luma restored, chroma as it was" if channels == 1 else "colour"
