"""What can happen to an image: several codings, each on a grid of its own, or a change of size.

`double_jpeg` and `resized` take and return whole images. All is local: a region that is large enough gives the pixels
of a crop.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.jpeg import Box, Tables, jpeg_roundtrip, surroundings


class Coding(NamedTuple):
    """One coding of an image: the arguments of `jpeg_roundtrip`, and what is cut off before it.

    Attributes:
        shift: rows and columns that are cut off the top left first, so that the coding has another grid.
    """

    quality: int
    full_chroma: bool = False
    tables: Tables | None = None
    shift: tuple[int, int] = (0, 0)


def coded_part(
    cut: Callable[[Box], np.ndarray], shape: tuple[int, ...], box: Box, codings: Sequence[Coding]
) -> tuple[np.ndarray, np.ndarray]:
    """A part of an image after some codings, exactly as if the whole image had been coded, and the same part uncoded.

    Args:
        cut: returns the clean pixels of a box, (h, w) or (h, w, 3) uint8.
        shape: of the whole image when all codings are done, (H, W) or (H, W, 3).
        box: the part, in that image.
        codings: first to last; may be none.

    Returns:
        The coded and the clean pixels of the box.
    """
    if not codings:
        return (clean := cut(box)), clean
    *earlier, last = codings
    around = surroundings(box, shape)
    rows, columns = last.shift
    before = (shape[0] + rows, shape[1] + columns, *shape[2:])
    coded, clean = coded_part(cut, before, around.moved(rows, columns), earlier)
    coded = jpeg_roundtrip(coded, last.quality, full_chroma=last.full_chroma, tables=last.tables)
    inner = box.within(around).slices
    return coded[inner], clean[inner]


def double_jpeg(coded: np.ndarray, second_quality: int, *, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Cut rows and columns off the top left of a coded image, as an edit does, and code it again.

    Args:
        coded: (H, W) or (H, W, 3) uint8, decoded from a JPEG.
        second_quality: 1..100.
        shift: rows and columns cut off; (0, 0) keeps both codings on one grid.

    Returns:
        (H - rows, W - columns[, 3]) uint8.
    """
    rows, columns = shift
    return jpeg_roundtrip(np.ascontiguousarray(coded[rows:, columns:]), second_quality)


def resized(coded: np.ndarray, scale: float) -> np.ndarray:
    """A coded image at another size, bicubic with antialiasing (Pillow).

    Args:
        coded: (H, W) or (H, W, 3) uint8.
        scale: of both sides, > 0; sides are rounded.

    Raises:
        ValueError: if nothing would be left of the image.
    """
    height, width = (round(side * scale) for side in coded.shape[:2])
    if min(height, width) < 1:
        raise ValueError(f"scale {scale} leaves nothing of an image of {coded.shape[1]}x{coded.shape[0]} pixels")
    return np.asarray(Image.fromarray(coded).resize((width, height), Image.Resampling.BICUBIC))
