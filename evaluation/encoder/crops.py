"""Crops of images that were coded at known qualities, under several conditions.

The place of a crop depends on (seed, image, quality, repeat, crop size) alone. More sizes, conditions or qualities
change no other crop.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.jpeg import COLOR_UNIT_PX, LUMA_UNIT_PX, jpeg_roundtrip
from data.recompression import double_jpeg, resized
from evaluation.scores.image_sets import ImageSet, read_clean

CONDITIONS = {
    "aligned": "crop corner on the JPEG grid: 8x8 for luma, 16x16 for colour",
    "offgrid": "crop corner off the 8x8 grid, in one direction or both",
    "double": "JPEG, cut by 0 to 7 rows and columns, JPEG again at the second quality, crop anywhere; read: the first",
    "resized": "JPEG, then bicubic resizing by the scale, crop anywhere",
    "unseen": "as offgrid, at qualities between those that the ridge probe was fitted at",
}
MAX_SHIFT_PX = 7  # a shift by 8 would be on the grid again


class Crops(NamedTuple):
    """Square crops of coded images, with their labels; one row for each image, quality and repeat."""

    pixels: np.ndarray  # (N, S, S) or (N, S, S, 3) uint8
    qualities: np.ndarray  # (N,) int64, of the first coding
    images: np.ndarray  # (N,) int64, index of the image


@dataclass(frozen=True)
class Drawing:
    """How crops are drawn.

    Args:
        sizes_px: sides of the crops.
        crops_per_image: crops of each image at each quality, each at its own place.
        second_quality: quality of the second coding, for `double`.
        scale: scale of both sides, for `resized`.
        seed: seed of places and shifts, at least 0.
        workers: threads that code images.
    """

    sizes_px: tuple[int, ...] = (128,)
    crops_per_image: int = 1
    second_quality: int = 90
    scale: float = 0.8
    seed: int = 0
    workers: int = 1


def between(qualities: Iterable[int]) -> list[int]:
    """The qualities half-way between neighbours, and as far beyond both ends: 5, 15, ..., 95 for 10, 20, ..., 90.

    Halves are rounded down. Qualities outside 1..100 and those given are left out. A single quality has none.
    """
    seen = sorted(set(qualities))
    if len(seen) < 2:
        return []
    extended = [2 * seen[0] - seen[1], *seen, 2 * seen[-1] - seen[-2]]
    middles = [(low + high) // 2 for low, high in pairwise(extended)]
    return [middle for middle in middles if 1 <= middle <= 100 and middle not in seen]


def draw_crops(
    image_set: ImageSet, color_mode: str, condition: str, qualities: Sequence[int], drawing: Drawing
) -> dict[int, Crops]:
    """Crops of every image at every quality under one condition, keyed by their size in pixels.

    Args:
        color_mode: "gray" (luma as the protocol has it) or "color".
        condition: one of `CONDITIONS`.
        qualities: of the JPEG coding that the encoder is to read, 1..100.

    Raises:
        ValueError: if an image cannot be read, has other channels, or has no room for the crops. The image is named.
    """

    def crops_of(index: int) -> list[list[np.ndarray]]:
        clean = read_clean(image_set.paths[index], color_mode)
        for size_px in drawing.sizes_px:
            check_room(image_set.paths[index], clean.shape, condition, size_px, drawing)
        rows = []
        for quality in qualities:
            coded, repeats = jpeg_roundtrip(clean, quality), range(drawing.crops_per_image)
            rows += [_cut(coded, condition, drawing, (index, quality, repeat)) for repeat in repeats]
        return rows

    num_images = len(image_set.paths)
    with ThreadPoolExecutor(drawing.workers) as pool:
        rows = [row for part in pool.map(crops_of, range(num_images)) for row in part]  # N rows, a crop of each size
    labels = np.tile(np.repeat(qualities, drawing.crops_per_image), num_images)
    images = np.repeat(np.arange(num_images), len(qualities) * drawing.crops_per_image)
    stacks = zip(*rows, strict=True)
    return {size: Crops(np.stack(crops), labels, images) for size, crops in zip(drawing.sizes_px, stacks, strict=True)}


def check_room(path: Path, shape: tuple[int, ...], condition: str, size_px: int, drawing: Drawing) -> None:
    """Refuse an image that is too small for crops under a condition.

    Raises:
        ValueError: names the image and the size that is left of it under the condition.
    """
    height, width = shape[:2]
    if condition == "double":
        height, width = height - MAX_SHIFT_PX, width - MAX_SHIFT_PX
    elif condition == "resized":
        height, width = round(height * drawing.scale), round(width * drawing.scale)
    has_one_place = (height, width) == (size_px, size_px)
    if min(height, width) < size_px or has_one_place and condition in ("offgrid", "unseen"):
        raise ValueError(
            f"{path} is {shape[1]}x{shape[0]}, which leaves {width}x{height} for condition '{condition}': "
            f"no place for a crop of {size_px}x{size_px} pixels; choose smaller crops or leave the condition out"
        )


def _cut(coded: np.ndarray, condition: str, drawing: Drawing, key: tuple[int, ...]) -> list[np.ndarray]:
    """Bring a coded image under a condition and cut one crop of each size from it."""
    if condition == "double":
        shift = np.random.default_rng([drawing.seed, *key]).integers(MAX_SHIFT_PX + 1, size=2)
        coded = double_jpeg(coded, drawing.second_quality, shift=tuple(shift))
    elif condition == "resized":
        coded = resized(coded, drawing.scale)
    crops = []
    for size_px in drawing.sizes_px:
        rng = np.random.default_rng([drawing.seed, *key, size_px])
        top, left = _corner(coded.shape, size_px, condition, rng)
        crops.append(coded[top : top + size_px, left : left + size_px].copy())  # not a view that keeps the whole image
    return crops


def _corner(shape: tuple[int, ...], size_px: int, condition: str, rng: np.random.Generator) -> tuple[int, int]:
    last_top, last_left = shape[0] - size_px, shape[1] - size_px
    if condition == "aligned":
        unit = COLOR_UNIT_PX if len(shape) == 3 else LUMA_UNIT_PX
        return unit * int(rng.integers(last_top // unit + 1)), unit * int(rng.integers(last_left // unit + 1))
    while True:  # ends: `check_room` made sure that there is a place off the grid
        top, left = int(rng.integers(last_top + 1)), int(rng.integers(last_left + 1))
        is_on_grid = top % LUMA_UNIT_PX == 0 and left % LUMA_UNIT_PX == 0
        if not (is_on_grid and condition in ("offgrid", "unseen")):
            return top, left
