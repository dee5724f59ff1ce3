"""Parts of images that figures magnify. A module of its own: the command line needs no matplotlib."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evaluation.scores.image_sets import size_of


class Crop(NamedTuple):
    """A part of an image. `left` and `top` are its first column and row; all in pixels."""

    left: int
    top: int
    width: int
    height: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """This part of an (H, W) or (H, W, 3) image."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]

    def __str__(self) -> str:
        return ",".join(map(str, self))


def check_crops(crops: Sequence[Crop], image: np.ndarray, name: object) -> None:
    """Refuse a crop that reaches outside the image. Raises ValueError."""
    for crop in crops:
        if crop.of(image).shape[:2] != (crop.height, crop.width):
            raise ValueError(f"the crop {crop} reaches outside {name}, which is {size_of(image)} pixels")


def most_changed(change: np.ndarray, width: int, height: int) -> Crop:
    """The part of this size, or as large as the image allows, where the sum of squared changes is largest.

    Args:
        change: (H, W) or (H, W, channels), for example the difference of two images.
        width, height: of the part, in pixels.
    """
    power = np.square(change.astype(np.float64)).reshape(*change.shape[:2], -1).sum(axis=2)  # (H, W)
    height, width = min(height, power.shape[0]), min(width, power.shape[1])
    sums = np.pad(power, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)  # (H + 1, W + 1): of all above and left
    boxes = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = np.unravel_index(boxes.argmax(), boxes.shape)
    return Crop(int(left), int(top), width, height)
