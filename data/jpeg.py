"""Baseline JPEG through Pillow (libjpeg-turbo), and the surroundings that the pixels of a crop depend on.

JPEG is local. In luma, the decoded pixels of a block depend on that block alone. In 4:2:0 colour they depend on the
16x16 unit (MCU) and on the units around it, because chroma is upsampled smoothly. So coding `surroundings(box)` and
cropping gives the same pixels as coding the whole image and cropping, with far less work.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

LUMA_UNIT_PX = 8
COLOR_UNIT_PX = 16  # one 4:2:0 MCU: 2x2 luma blocks and one block of each chroma plane


class Box(NamedTuple):
    """A rectangle of pixels: top-left corner and size."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def moved(self, rows: int, columns: int) -> "Box":
        return self._replace(top=self.top + rows, left=self.left + columns)

    def within(self, outer: "Box") -> "Box":
        """The same rectangle in the coordinates of `outer`."""
        return Box(self.top - outer.top, self.left - outer.left, self.height, self.width)


Tables = Sequence[Sequence[int]]  # quantisation tables: of luma, and of chroma; 64 steps of 1..255 each, row by row


def encode(image: np.ndarray, quality: int, *, full_chroma: bool = False, tables: Tables | None = None) -> bytes:
    """JPEG file of an image: one channel for (H, W), YCbCr for (H, W, 3).

    Args:
        image: uint8.
        quality: 1..100, of libjpeg's quantisation tables. It has no effect if `tables` are given.
        full_chroma: code colour as 4:4:4, not as 4:2:0.
        tables: used in place of libjpeg's.

    Raises:
        ValueError: if the quality is not within 1..100.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality must be within 1..100, got {quality}")
    buffer = io.BytesIO()
    # 4:2:0 is libjpeg's default at every quality; we ask for it all the same. Gray images have no such option.
    options = {"subsampling": "4:4:4" if full_chroma else "4:2:0"} if image.ndim == 3 else {}
    # Pillow would scale given tables by the quality.
    steps = {"quality": int(quality)} if tables is None else {"qtables": [list(table) for table in tables]}
    Image.fromarray(image).save(buffer, format="JPEG", **steps, **options)
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 pixels of a JPEG file in memory."""
    with Image.open(io.BytesIO(data)) as file:
        return np.asarray(file)


def jpeg_roundtrip(
    image: np.ndarray, quality: int, *, full_chroma: bool = False, tables: Tables | None = None
) -> np.ndarray:
    """The image after one round of JPEG coding; same shape, uint8. Arguments and errors as `encode`."""
    return decode(encode(image, quality, full_chroma=full_chroma, tables=tables))


def surroundings(box: Box, shape: tuple[int, ...]) -> Box:
    """The part of an image that decides the decoded pixels inside `box`.

    Args:
        box: the crop, within the image.
        shape: the image's shape, (H, W) for luma or (H, W, 3) for colour.

    Returns:
        A box aligned to 8 pixels for luma. For colour it is aligned to 16 pixels, with one unit more on each side for
        the chroma upsampling. It ends at the edge of the image, where the coder pads as it does for the whole image.
    """
    unit, margin = (COLOR_UNIT_PX, COLOR_UNIT_PX) if len(shape) == 3 else (LUMA_UNIT_PX, 0)
    top, bottom = _aligned_span(box.top, box.height, shape[0], unit, margin)
    left, right = _aligned_span(box.left, box.width, shape[1], unit, margin)
    return Box(top, left, bottom - top, right - left)


def _aligned_span(start: int, length: int, limit: int, unit: int, margin: int) -> tuple[int, int]:
    first = max(start // unit * unit - margin, 0)
    last = min(-(-(start + length) // unit) * unit + margin, limit)
    return first, last
