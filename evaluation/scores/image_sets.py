"""The sets of images that scores are measured on: which files they are, and their pixels as ground truth."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.images import list_images, read_image, to_channels
from data.known_sets import measured_folders
from data.splits import bsds500_split, refuse_other_split
from evaluation.scores.metrics import MIN_SIDE_PX

CHANNELS = {"gray": 1, "color": 3}
logger = logging.getLogger(__name__)


class ImageSet(NamedTuple):
    """A benchmark's name, as it appears in results, and its images in order."""

    name: str
    paths: list[Path]


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
    known = measured_folders()
    present = [name for name in names if (Path(data_root) / known[name].path).is_dir()]
    if not present:
        raise FileNotFoundError(f"{data_root} holds none of {', '.join(names)}; name the folder that holds the sets")
    return present


def read_clean(path: Path, channels: str) -> np.ndarray:
    """The ground truth of an image file: (H, W) for "gray", (H, W, 3) for "color".

    Raises:
        ValueError: if the file cannot be read, is gray where colour is asked for, or has a side under 11 pixels.
    """
    image = read_image(path)
    if channels == "color" and image.ndim == 2:
        raise ValueError(
            f"{path} is a gray image; a colour evaluation needs colour images; measure luma (gray) instead"
        )
    if min(image.shape[:2]) < MIN_SIDE_PX:
        raise ValueError(f"{path} is {size_of(image)}; the metrics need sides of at least {MIN_SIDE_PX} pixels")
    return to_channels(image, CHANNELS[channels], name=path)


def check_images(sets: Sequence[ImageSet], channels: str) -> None:
    """Read every image once, so that a broken or unfit one stops the run before any work. Errors as in `read_clean`."""
    for _, paths in sets:
        for path in paths:
            read_clean(path, channels)


def _open_set(name: str, data_root: Path) -> ImageSet:
    known = measured_folders()
    if name in known:
        path, folder = known[name]
        paths = list_images(data_root / path)
        if folder.split:
            refuse_other_split(paths, folder.split)
        if folder.num_images not in (None, len(paths)):
            logger.warning("%s has %d images here, not %d: not comparable", name, len(paths), folder.num_images)
    elif Path(name).is_dir():
        paths = list_images(name)
        trained = [path for path in paths if bsds500_split(path.stem) == "train"]
        if trained:
            raise ValueError(
                f"{name} holds BSDS500 training images, {trained[0].name} for one ({len(trained)} of {len(paths)}); "
                f"a score needs unseen ones, such as bsds500/test"
            )
    else:
        raise FileNotFoundError(f"{name} is neither a set ({', '.join(known)}) nor a folder")
    path_of_stem: dict[str, Path] = {}
    for path in paths:
        if path_of_stem.setdefault(path.stem, path) != path:
            raise ValueError(f"{path} and {path_of_stem[path.stem].name} differ only in their suffix; rename one")
    return ImageSet(name if name in known else Path(os.path.abspath(name)).name, paths)


def size_of(image: np.ndarray) -> str:
    """Width and height as words: 640x480."""
    return f"{image.shape[1]}x{image.shape[0]}"
