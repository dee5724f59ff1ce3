"""The eight symmetries of the square, flips and quarter turns: as views without a copy, and regions of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

NUM_SYMMETRIES = 8


def symmetry(image: np.ndarray, index: int) -> np.ndarray:
    """One of the eight symmetries of an image, as a view.

    Args:
        image: (H, W) or (H, W, C).
        index: 0..7; 0 is the image itself. The lowest two bits are the number of quarter turns; the third bit mirrors.

    Raises:
        ValueError: if the index is not within 0..7.
    """
    if not 0 <= index < NUM_SYMMETRIES:
        raise ValueError(f"symmetry index must be within 0..7, got {index}")
    across = image.swapaxes(0, 1)
    turned = (image, across[::-1], image[::-1, ::-1], across[:, ::-1])[index % 4]
    return turned[:, ::-1] if index >= 4 else turned


def inverse(index: int) -> int:
    """The symmetry that undoes this one: the opposite turn, or the same mirroring again."""
    return -index % 4 if index < 4 else index


class SymmetryView(NamedTuple):
    """One symmetry of an image. Only the regions that are cut out are computed.

    Args:
        image: (H, W, C) uint8, as it is stored.
        index: 0..7, as in `symmetry`.
    """

    image: np.ndarray
    index: int

    @property
    def shape(self) -> tuple[int, ...]:
        return symmetry(self.image, self.index).shape

    def cut(self, region: tuple[slice, slice], convert: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """`convert(symmetry(image, index)[region])` as a contiguous copy. `convert` must work pixel by pixel.

        The region is copied and converted in the orientation in which it is stored, and turned last, channel by
        channel. This takes a tenth of the time of copying the turned view, where neighbouring pixels are far apart
        in memory.
        """
        turned = symmetry(self.image, self.index)[region]
        stored = np.ascontiguousarray(symmetry(turned, inverse(self.index)))
        turned = symmetry(convert(stored) if convert else stored, self.index)
        copy = np.empty(turned.shape, turned.dtype)
        for channel in np.ndindex(turned.shape[2:]):
            copy[..., *channel] = turned[..., *channel]
        return copy
