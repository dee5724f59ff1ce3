"""Many photos: which files are restored, where each goes, and one after the other with progress."""

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

from restoration.photos import Photo, has_color, read_photo, restore_photo, save_photo
from restoration.tiling import TILE_PX

PHOTO_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm",
)  # fmt: skip
# An image, (H, W) or (H, W, 3), uint8 or uint16 -> the quality, 1..100, and its standard error.
QualityEstimator = Callable[[np.ndarray], tuple[float, float]]
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} photos [{elapsed}<{remaining}]"


class Job(NamedTuple):
    """One photo to restore, and the PNG file that it becomes."""

    source: Path
    target: Path


class PhotoRestorer(NamedTuple):
    """What restores photos.

    Attributes:
        restorer: a `Restorer` in eval mode; it runs on its device, in the precision of the surrounding autocast.
        read_quality: gives a photo's quality and its standard error; None where neither is to be printed.
    """

    restorer: nn.Module
    read_quality: QualityEstimator | None = None


def plan(inputs: Sequence[str | Path], output: str | Path, *, overwrite: bool = False) -> list[Job]:
    """Decide which files to restore and where each goes; nothing is written.

    Args:
        inputs: image files, and folders, which are searched with their sub-folders. Hidden files are left out, and so
            is the output folder where it lies within one.
        output: the folder to write to. Sub-folders are kept; `a.jpg` becomes `a.png`, or `a.jpg.png` where another
            input (`a.gif`) would have that name too.
        overwrite: whether outputs that exist may be replaced. Inputs never are.

    Raises:
        FileNotFoundError, ValueError: if an input is missing, or a folder holds no photo.
        ValueError: if two inputs would be written to one file, or an output is one of the inputs.
        FileExistsError: if outputs exist and `overwrite` is false.
    """
    output = Path(output)
    found = {os.path.abspath(source): (source, relative) for source, relative in _find(inputs, output)}
    num_named = Counter(relative.with_suffix(".png") for _, relative in found.values())
    jobs: dict[Path, Job] = {}
    for source, relative in found.values():
        short = relative.with_suffix(".png")
        job = Job(source, output / (short if num_named[short] == 1 else relative.with_name(f"{relative.name}.png")))
        other = jobs.setdefault(job.target, job)
        if other is not job:
            raise ValueError(f"{other.source} and {source} would both become {job.target}; restore them separately")
    originals = {_identity(source) for source, _ in found.values()}
    existing = [job.target for job in jobs.values() if job.target.exists()]
    for target in existing:
        if _identity(target) in originals:
            raise ValueError(f"{target} is an input and would be replaced; give another output folder")
    if existing and not overwrite:
        count = f"{len(existing)} of {len(jobs)} outputs" if len(jobs) > 1 else "the output"
        raise FileExistsError(f"{existing[0]} exists ({count}); add --overwrite, or give another output folder")
    return list(jobs.values())


def make_folder(folder: str | Path) -> None:
    """Make the output folder and try it, before any work is spent.

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


def restore_files(
    gray: PhotoRestorer, color: PhotoRestorer, jobs: Sequence[Job], *, tile_px: int = TILE_PX
) -> list[str]:
    """Restore photos; those that fail are left out and the others still restored.

    Prints the JPEG quality that each photo is read to have, `a.jpg: JPEG quality about 23 +- 4`. Shows a progress bar
    on a terminal, and prints a further line per photo elsewhere.

    Args:
        gray, color: for photos without colour, and with; may be one and the same.
        jobs: from `plan`, with the output folder made.
        tile_px: see `restoration.tiling`.

    Returns:
        One line per photo that could not be restored, naming it and the reason.
    """
    failures = []
    with tqdm(total=len(jobs), disable=None, bar_format=_BAR) as bar:
        for number, job in enumerate(jobs, start=1):
            bar.set_description_str(job.source.name)
            try:
                done = _restore(gray, color, job, bar, tile_px=tile_px)
            # Whatever happens to one photo, also what nobody thought of, the others are to be restored.
            except Exception as error:
                message = _reason(error, tile_px)
                failures.append(message if str(job.source) in message else f"{job.source}: {message}")
            else:
                if bar.disable:
                    print(done, flush=True)
            bar.update(number - bar.n)
    return failures


def _restore(gray: PhotoRestorer, color: PhotoRestorer, job: Job, bar: tqdm, *, tile_px: int) -> str:
    """Restore one photo; the line that says so. Nothing of it stays in memory."""
    started = time.perf_counter()
    photo = read_photo(job.source)
    restorer, read_quality = color if has_color(photo) else gray
    if read_quality is not None:
        quality, spread = read_quality(photo.pixels)
        reading = f"JPEG quality about {quality:.0f} +- {max(spread, 1):.0f}"
        bar.write(f"{job.source}: {reading}", file=sys.stdout)
    photo = restore_photo(restorer, photo, tile_px=tile_px, on_tile=bar.update)
    save_photo(photo, job.target)
    height, width = photo.pixels.shape[:2]
    seconds, what = time.perf_counter() - started, _described(photo, restorer.channels)
    return f"{job.source} -> {job.target}  {width}x{height}  {seconds:.1f} s  {what}"


def _reason(error: Exception, tile_px: int) -> str:
    """Why a photo was not restored, in one line."""
    message = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return f"no GPU memory left with tiles of {tile_px} pixels; make --tile smaller"
    # torch has no error of its own for main memory.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in message:
        return f"not enough memory with tiles of {tile_px} pixels; make --tile smaller, or cut the picture into parts"
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        return message
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {message}"


def _find(inputs: Sequence[str | Path], output: Path) -> Iterator[tuple[Path, Path]]:
    """(file, its path within the output folder) of everything asked for."""
    for given in map(Path, inputs):
        if given.is_file():
            yield given, Path(given.name)
            continue
        if not given.is_dir():
            raise FileNotFoundError(f"{given} does not exist; give image files, or folders of them")
        found = sorted(path for path in given.rglob("*") if _is_photo(path.relative_to(given)) and path.is_file())
        if output.resolve() != given.resolve():  # what was restored before, in a folder within this one, is no input
            found = [path for path in found if output.resolve() not in path.resolve().parents]
        if not found:
            raise ValueError(f"{given} holds no photos; files ending in {', '.join(PHOTO_SUFFIXES)} are restored")
        yield from ((path, path.relative_to(given)) for path in found)


def _is_photo(relative: Path) -> bool:
    return relative.suffix.lower() in PHOTO_SUFFIXES and not any(part.startswith(".") for part in relative.parts)


def _identity(path: Path) -> tuple[int, int]:
    """What two names of one file have in common: links, and `A.png` for `a.png` where case does not count."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _described(photo: Photo, channels: int) -> str:
    """What was restored, for the line of a photo."""
    if photo.pixels.ndim == 2:
        return "16-bit gray" if photo.pixels.dtype == np.uint16 else "gray"
    return "luma restored, chroma as it was" if channels == 1 else "colour"
