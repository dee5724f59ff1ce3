"""How a clean image becomes the JPEG that a system restores: coded once, twice, or at a quality drawn for each image.

Every degradation has a label, which names it in results and in folders of restored images.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from data.jpeg import decode, encode, jpeg_roundtrip

DRAWN_RANGE = (10, 95)  # lowest and highest quality to draw from if none are given


class Jpeg(NamedTuple):
    """JPEG once or twice, at the same qualities for every image.

    Attributes:
        qualities: of the one or two codings, in order; each 1..100.
        shift: rows and columns cut off the top left before the second coding.
    """

    qualities: tuple[int, ...]
    shift: tuple[int, int] = (0, 0)

    @property
    def label(self) -> str:
        """`10`; for two codings, `30+50`."""
        return "+".join(map(str, self.qualities))

    @property
    def remark(self) -> str:
        """What the protocol says of it; nothing if every image is coded once, at the quality of the label."""
        if len(self.qualities) == 1:
            return ""
        rows, columns = self.shift
        return f"JPEG twice, {columns} columns and {rows} rows cut off the top left in between"

    def qualities_of(self, set_name: str, stem: str) -> tuple[int, ...]:
        return self.qualities


class RandomJpeg(NamedTuple):
    """JPEG once, at a quality drawn for each image. The quality depends on the seed, the set and the image alone."""

    lowest: int
    highest: int
    seed: int
    shift: tuple[int, int] = (0, 0)

    @property
    def label(self) -> str:
        return "random"

    @property
    def remark(self) -> str:
        return f"the quality of each image is drawn from {self.lowest}..{self.highest}, seed {self.seed}"

    def qualities_of(self, set_name: str, stem: str) -> tuple[int, ...]:
        # A hash, because the numbers of a random generator may change with its library's version.
        digest = hashlib.sha256(f"{self.seed}/{set_name}/{stem}".encode()).digest()
        return (self.lowest + int.from_bytes(digest) % (self.highest - self.lowest + 1),)


Degradation = Jpeg | RandomJpeg


class Case(NamedTuple):
    """One image of a set under one degradation."""

    set_name: str
    degradation: Degradation
    stem: str

    @property
    def quality(self) -> int:
        """The quality of the last coding."""
        return self._qualities[-1]

    @property
    def _qualities(self) -> tuple[int, ...]:
        return self.degradation.qualities_of(self.set_name, self.stem)

    def ground_truth(self, clean: np.ndarray) -> np.ndarray:
        """The part of a clean image, (H, W) or (H, W, 3) uint8, that the degraded image shows."""
        rows, columns = self.degradation.shift
        return np.ascontiguousarray(clean[rows:, columns:])

    def degraded(self, clean: np.ndarray) -> np.ndarray:
        """The clean image after its codings, in the shape of its ground truth."""
        return decode(self.encoded(clean))

    def encoded(self, clean: np.ndarray) -> bytes:
        """The JPEG file of the last coding."""
        *earlier, last = self._qualities
        for quality in earlier:
            clean = jpeg_roundtrip(clean, quality)
        return encode(self.ground_truth(clean), last)


def as_degradations(qualities: Iterable[int | Degradation]) -> list[Degradation]:
    """Degradations, each once and in order; a number is the quality of one coding.

    Raises:
        ValueError: if two of them have one label, by which results could not tell them apart.
    """
    found = list(dict.fromkeys(Jpeg((each,)) if isinstance(each, int) else each for each in qualities))
    labels = [each.label for each in found]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"{twice[0]} is asked for in two ways; measure them apart")
    return found
