"""The image sets that are scored: their files, and their pixels as ground truth."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.images import list_images, read_image, to_channels
from data.known_sets import first_few, known_digests, known_gray_digests, measured_folders, pixel_digest, split_digest
from data.splits import bsds500_split, refuse_other_split
from evaluation.scores.metrics import MIN_SIDE_PX

COLOR_MODES = {"gray": 1, "color": 3}
logger = logging.getLogger(__name__)


class ImageSet(NamedTuple):
    """The name of a set in results, and its images in order."""

    name: str
    paths: list[Path]


def open_sets(names: Sequence[str], data_root: str | Path) -> list[ImageSet]:
    """The image sets of these names. A name is a benchmark under `data_root`, or the path of any folder.

    Such a folder's set is called by the last part of the path.

    Raises:
        FileNotFoundError: if a name is neither a benchmark nor a folder, or if the benchmark's folder is missing.
        ValueError: if a folder holds no image, BSDS500 images of another split, or two images of one stem; or if two
            sets have the same name.
    """
    sets = [_open_set(name, Path(data_root)) for name in dict.fromkeys(names)]
    seen: dict[str, Path] = {}
    for name, paths in sets:
        if name in seen:
            raise ValueError(f"two sets are called {name!r} ({seen[name]}, {paths[0].parent}); evaluate them apart")
        seen[name] = paths[0].parent
    return sets


def present_sets(names: Sequence[str], data_root: str | Path) -> list[str]:
    """The benchmarks of these that have a folder under `data_root`.

    Raises:
        FileNotFoundError: if none has.
    """
    known = measured_folders()
    present = [name for name in names if (Path(data_root) / known[name].path).is_dir()]
    if not present:
        raise FileNotFoundError(f"{data_root} holds none of {', '.join(names)}; name the folder that holds the sets")
    return present


def read_clean(path: Path, color_mode: str) -> np.ndarray:
    """The ground truth of an image file: (H, W) for "gray", (H, W, 3) for "color".

    A Classic5 image that is stored as RGB with three equal channels is read as one gray channel. Its luma (16..235)
    would score 0.8 dB too high.

    Raises:
        ValueError: if the file cannot be read, is gray although colour is needed, or has a side under 11 pixels.
    """
    return _as_ground_truth(_read_stored(path), color_mode, path)


def check_images(sets: Sequence[ImageSet], color_mode: str, *, num_cut_px: int = 0) -> None:
    """Read every image once, so that a bad one stops the run before any work. Errors as in `read_clean`.

    Up to `num_cut_px` rows and columns will be cut off each image; it must stay large enough for the metrics.

    Warns if scores are not comparable: if a benchmark's pixels are not the known ones, or if another set has gray
    images that are stored as RGB.
    """
    for name, paths in sets:
        digests, gray_as_rgb = {}, []
        for path in paths:
            image = _read_stored(path)
            _as_ground_truth(image, color_mode, path, num_cut_px)
            digests[path.stem] = pixel_digest(image)
            if _is_gray_as_rgb(image):
                gray_as_rgb.append(path.name)
        if unlike := _unlike_known(name, digests):
            logger.warning("%s: other pixels than the known copy has (%s): scores are not comparable", name, unlike)
        elif gray_as_rgb and color_mode == "gray":
            logger.warning(
                "%s: gray images stored as RGB (%s). Their luma spans 16..235, which scores about 0.8 dB higher than "
                "their gray levels would. Store them as gray, or do not compare these scores with others",
                name,
                first_few(gray_as_rgb),
            )


def _read_stored(path: Path) -> np.ndarray:
    """An image as it is stored, except that a known gray image stored as RGB gets one channel again."""
    image = read_image(path)
    if _is_gray_as_rgb(image):
        gray = np.ascontiguousarray(image[..., 0])
        if pixel_digest(gray) in known_gray_digests():
            return gray
    return image


def _as_ground_truth(image: np.ndarray, color_mode: str, path: Path, num_cut_px: int = 0) -> np.ndarray:
    if color_mode == "color" and image.ndim == 2:
        raise ValueError(
            f"{path} is a gray image; a colour evaluation needs colour images; measure luma (gray) instead"
        )
    if min(image.shape[:2]) < MIN_SIDE_PX + num_cut_px:
        cut = f", and --shift cuts {num_cut_px} off" * bool(num_cut_px)
        raise ValueError(f"{path} is {size_of(image)}; the metrics need sides of at least {MIN_SIDE_PX} pixels{cut}")
    return to_channels(image, COLOR_MODES[color_mode], name=path)


def _is_gray_as_rgb(image: np.ndarray) -> bool:
    # In a colour image the first row usually shows it; then the other rows are not compared.
    return image.ndim == 3 and bool((image[0] == image[0, :, :1]).all() and (image == image[..., :1]).all())


def _unlike_known(name: str, digests: dict[str, str]) -> str:
    """The images of a benchmark whose pixels are not the known ones, in words. Empty if there are none to name."""
    measured = measured_folders().get(name)
    if measured is None:
        return ""
    set_name, _, place = measured.path.partition("/")
    known = known_digests().get(set_name, {})
    if place in known:  # one digest for the whole folder; `_open_set` has warned already if images are missing
        is_known = len(digests) != measured.folder.num_images or split_digest(digests) == known[place]
        return "" if is_known else "JPEG decoders may differ by a level"
    return first_few([stem for stem, digest in digests.items() if digest not in known.values()]) if known else ""


def _open_set(name: str, data_root: Path) -> ImageSet:
    known = measured_folders()
    if name in known:
        path, folder = known[name]
        if not (data_root / path).is_dir():
            raise FileNotFoundError(
                f"{data_root / path} does not exist; docs/data.md says how to get it, --data-root names another place"
            )
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
    return ImageSet(set_name(name), paths)


def set_name(name: str) -> str:
    """What the set of this name or path is called: a benchmark's own name, or the last part of a folder's path."""
    return name if name in measured_folders() else Path(os.path.abspath(name)).name


def size_of(image: np.ndarray) -> str:
    """Width and height as text: 640x480."""
    return f"{image.shape[1]}x{image.shape[0]}"
