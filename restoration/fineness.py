"""When an image is so fine that a network returns it as it was.

Near quality 100 our networks add more error than the coding did, because they take details of the picture for
artifacts. There are two limits. The first is on the quality that the encoder reads; it is compared before any work. The
second is on the change that the network would make; it also holds for networks whose encoder has no probe. `test.py
calibrate` chooses both for a network and writes them into its file. docs/photos.md has the figures.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from cqe.quality import QualityReader

LEAST_CHANGE = 1.7  # of networks that were not calibrated; configs/restorer/README.md says how it was chosen


class FineLimits(NamedTuple):
    """The limits of a network. The defaults serve networks that were not calibrated.

    Attributes:
        quality: an image that is read at this quality or above is left alone; None: readings play no part.
        change: an image is left alone if no block of 64x64 pixels would change by this much: root mean square, in grey
            levels of 255. It is measured in blocks, so that a damaged line of text on a large white page still counts.
    """

    quality: float | None = None
    change: float = LEAST_CHANGE

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> "FineLimits":
        """The limits in the description of a weight file; the defaults if there are none. Raises ValueError."""
        limits = cls(**(stored or {}))
        for name, value in limits._asdict().items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
            if not (is_number or (name == "quality" and value is None)):
                raise ValueError(f"the limit '{name}' of fine images is {value!r}, not a number of 0 or more")
        return limits

    def __str__(self) -> str:
        if self.quality is None and self.change == 0:
            return "every image is restored"
        read = "" if self.quality is None else f"is read at quality {self.quality:g} or above, or "
        return f"an image is returned as it was if it {read}would change by less than {self.change:g} grey levels"


class Fineness(NamedTuple):
    """A network's limits, and a reader of its encoder; None: qualities cannot be read."""

    limits: FineLimits = FineLimits()
    reader: QualityReader | None = None

    def is_read(self, image: np.ndarray) -> bool:
        """Whether an image, of any kind that the reader takes, is read as fine."""
        if self.limits.quality is None or self.reader is None:
            return False
        return self.reader.read(image).quality >= self.limits.quality


EVERY_IMAGE = Fineness(FineLimits(change=0))  # none is returned as it was


def fineness_of(restorer: nn.Module) -> Fineness:
    """What `restoration.weights` kept beside a network; the default limits for a network that has nothing."""
    return getattr(restorer, "fineness", Fineness())
