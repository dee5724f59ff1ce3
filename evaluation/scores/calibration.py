"""Chooses the limits by which a network leaves fine images alone (`restoration.fineness`).

Each image is restored once at each quality, without limits. All pairs of limits are then tried on what was measured.
"""

from collections.abc import Iterator, Sequence
from itertools import product, starmap
from typing import NamedTuple

import numpy as np
from torch import nn
from tqdm import tqdm

from cqe.quality import QualityReader
from data.color import to_image, to_tensor
from data.jpeg import jpeg_roundtrip
from evaluation.report import Section
from evaluation.scores.image_sets import ImageSet
from evaluation.scores.metrics import psnr
from evaluation.scores.protocol import clean_cases, gain_of
from restoration.fineness import EVERY_IMAGE, FineLimits
from restoration.tiling import largest_change, restore_tensor

QUALITIES = (10, 30, 50, 70, 80, 85, 88, 90, 92, 94, 96, 98, 100)
QUALITY_LIMITS = np.arange(800, 951) / 10  # 80 to 95, tried in steps of 0.1
CHANGE_LIMITS = np.arange(0, 41) / 10  # without readings
SMALL_CHANGE_LIMITS = CHANGE_LIMITS[:18]  # beside a limit on the quality, a larger one would leave smooth photos alone
TOLERANCE_DB = 0.001  # of the mean gain over all qualities


class Outcome(NamedTuple):
    """What a network does to one image at one quality. An image that every limit leaves alone has gain and change 0.

    Attributes:
        reading: the quality read; NaN if the network's encoder has no probe.
        change: the largest root mean square of a block, in grey levels.
        gain: PSNR of the output minus PSNR of the JPEG, in dB.
    """

    set_name: str
    image: str
    quality: int
    reading: float
    change: float
    gain: float


def measure(
    restorer: nn.Module,
    reader: QualityReader | None,
    sets: Sequence[ImageSet],
    qualities: Sequence[int],
    color_mode: str,
) -> Iterator[Outcome]:
    """Outcomes without limits. The limits that the restorer has are removed."""
    restorer.fineness = EVERY_IMAGE
    total = sum(len(paths) for _, paths in sets) * len(qualities)
    for clean, case in tqdm(clean_cases(sets, qualities, color_mode), total=total, unit="image", disable=None):
        degraded = jpeg_roundtrip(clean, case.quality)
        case_of = (case.set_name, case.stem, case.quality)
        reading = reader.read(degraded).quality if reader else np.nan
        if reading >= QUALITY_LIMITS[-1]:
            yield Outcome(*case_of, reading, 0, 0)
            continue
        x = to_tensor(degraded)[None]
        restored = restore_tensor(restorer, x)
        gain = gain_of(psnr(to_image(restored[0]), clean), psnr(degraded, clean))
        yield Outcome(*case_of, reading, 255 * largest_change(restored - x).item(), gain)


def choose(outcomes: Sequence[Outcome], *, max_loss_db: float = 0) -> FineLimits:
    """The limits with the highest mean gain, of those with a mean gain of at least 0 at every quality of every set.

    With `max_loss_db`, the mean gain at a quality may be as far below 0: an image that was a coarse JPEG itself loses
    many dB near quality 100, and alone would decide the limits.

    Where several are as good, within `TOLERANCE_DB`, the ones that leave most images alone are taken.

    Raises:
        ValueError: if no limits are good enough.
    """
    measured = _Measured.of(outcomes)
    if np.isnan(measured.readings).any():
        tried = [FineLimits(None, change) for change in CHANGE_LIMITS.tolist()]
    else:
        tried = list(starmap(FineLimits, product(QUALITY_LIMITS.tolist(), SMALL_CHANGE_LIMITS.tolist())))
    gains = np.array([measured.mean_gains(limits) for limits in tried])  # (limits, sets and qualities)
    means = np.where((gains >= -max_loss_db).all(axis=1), gains.mean(axis=1), -np.inf)
    if means.max() == -np.inf:
        raise ValueError(
            f"no limits keep the mean loss at {max_loss_db:g} dB or less at every quality; train the network longer"
        )
    good = [limits for limits, mean in zip(tried, means, strict=True) if mean >= means.max() - TOLERANCE_DB]
    return max(good, key=lambda limits: (measured.is_left(limits).sum(), limits.change))


def gains_section(outcomes: Sequence[Outcome], limits: FineLimits, title: str) -> Section:
    """A table of the gains with these limits, with a row for each set and quality."""
    measured = _Measured.of(outcomes)
    is_left, gains = measured.is_left(limits), measured.with_limits(limits)
    rows = [["set", "quality", "mean gain (dB)", "lowest gain (dB)", "images", "left alone"]]
    for index, (set_name, quality) in enumerate(measured.keys):
        here = measured.groups == index
        counts = [str(here.sum()), str(is_left[here].sum())]
        rows.append([set_name, str(quality), f"{gains[here].mean():+.3f}", f"{gains[here].min():+.2f}", *counts])
    return Section(title, rows, [str(limits)])


class _Measured(NamedTuple):
    """Outcomes as arrays (N,), and the set and quality of each as a number that counts in `keys`."""

    readings: np.ndarray
    changes: np.ndarray
    gains: np.ndarray
    groups: np.ndarray
    keys: list[tuple[str, int]]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "_Measured":
        keys = list(dict.fromkeys((outcome.set_name, outcome.quality) for outcome in outcomes))
        groups = np.array([keys.index((outcome.set_name, outcome.quality)) for outcome in outcomes])
        readings, changes, gains = np.array([outcome[3:] for outcome in outcomes]).T
        return cls(readings, changes, gains, groups, keys)

    def is_left(self, limits: FineLimits) -> np.ndarray:
        hardly_changed = self.changes < limits.change
        return hardly_changed if limits.quality is None else hardly_changed | (self.readings >= limits.quality)

    def with_limits(self, limits: FineLimits) -> np.ndarray:
        return np.where(self.is_left(limits), 0, self.gains)

    def mean_gains(self, limits: FineLimits) -> np.ndarray:
        """The mean gain of each of `keys`."""
        return np.bincount(self.groups, self.with_limits(limits)) / np.bincount(self.groups)
