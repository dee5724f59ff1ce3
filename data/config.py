"""The configuration of the data: training patches, pairs and histories, JPEG qualities, and where the sets are."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

DATA_ROOT_VARIABLE = "DATA_ROOT"
DEFAULT_PACK_DIR = "runs/packed"
MAX_PATCH_PX = 8192


def data_root(given: str = "") -> Path:
    """The folder that holds the image sets: the one given, else the variable DATA_ROOT, else `datasets`."""
    return Path(given or os.environ.get(DATA_ROOT_VARIABLE) or "datasets")


@dataclass(frozen=True)
class DataConfig:
    """Which images the training patches are cut from, and how.

    Args:
        root: folder that holds the sets. If empty: the variable DATA_ROOT, or `datasets`.
        train: folders under `root` to train on.
        val: folder under `root` to validate on.
        pack_dir: where decoded pixels are kept, once per set.
        channels: 1 for luma, 3 for RGB.
        patch_size_px: side of a training patch, in pixels.
        qualities: JPEG qualities drawn with equal odds: numbers, or ranges such as "5..95" and "10..90:10".
        aligned_share: share of patches whose corner is on the coding grid (8x8 for luma, 16x16 for 4:2:0 colour), 0..1;
            the others start anywhere.
        full_range_share: share of luma patches in JFIF's range 0..255, 0..1; the others are in 16..235, as the test
            images are.
        batch_size: images of one step, over all processes together. Stage 2 cuts one patch of each image, stage 1 one
            pair for each of its `pairs.qualities_per_image`.
        num_workers: loader processes per training process; 0 loads in the training process itself.
        on_error: what an image of `train` that cannot be read does: "raise" ends the training and names it; "skip"
            says so once and puts the next image in its place, so all other samples stay as they are.
    """

    root: str = ""
    train: list[str] = field(default_factory=lambda: ["div2k", "bsds500/train"])
    val: str = "bsds500/val"
    pack_dir: str = DEFAULT_PACK_DIR
    channels: int = 1
    patch_size_px: int = 256
    qualities: list[int | str] = field(default_factory=lambda: ["10..90:10"])
    aligned_share: float = 1.0
    full_range_share: float = 0.0
    batch_size: int = 8
    num_workers: int = 4
    on_error: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels must be 1 (luma) or 3 (RGB), got {self.channels}")
        for name in ("patch_size_px", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} must be at least 1, got {getattr(self, name)}")
        if self.patch_size_px > MAX_PATCH_PX:
            raise ValueError(f"data.patch_size_px must be at most {MAX_PATCH_PX}, got {self.patch_size_px}")
        for name in ("aligned_share", "full_range_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name} must be within 0..1, got {getattr(self, name)}")
        if self.num_workers < 0:
            raise ValueError(f"data.num_workers must be 0 or more, got {self.num_workers}")
        if not self.train:
            raise ValueError("data.train names no folder; give at least one, such as [bsds500/train]")
        expand_qualities(self.qualities)


@dataclass(frozen=True)
class PairsConfig:
    """How stage 1's pairs are drawn, beyond what `data` says.

    Args:
        qualities_per_image: how many qualities each image of a batch is coded at; 1 in the paper. With more, and with
            `moco.equal_qualities` "positives", the pairs of one image are negatives of each other. The encoder cannot
            tell those apart by their content.
        double_share: share of patches that are coded twice, 0..1; the second time on another grid. Their label stays
            the first quality. The two patches of a pair are treated one by one, so the second coding is no cue.
        second_qualities: qualities of the second coding, in the form of data.qualities.
        resized_share: share of patches that are made smaller after coding, 0..1; their label stays.
        scales: smallest and largest scale of a resize, within 0.5..1.
    """

    qualities_per_image: int = 1
    double_share: float = 0.0
    second_qualities: list[int | str] = field(default_factory=lambda: ["70..95"])
    resized_share: float = 0.0
    scales: list[float] = field(default_factory=lambda: [0.7, 0.95])

    def __post_init__(self) -> None:
        if self.qualities_per_image < 1:
            raise ValueError(f"pairs.qualities_per_image must be at least 1, got {self.qualities_per_image}")
        if not (self.double_share >= 0 and self.resized_share >= 0 and self.double_share + self.resized_share <= 1):
            raise ValueError(
                f"pairs.double_share and pairs.resized_share must be 0 or more and at most 1 together, "
                f"got {self.double_share} and {self.resized_share}"
            )
        if len(self.scales) != 2 or not 0.5 <= self.scales[0] <= self.scales[1] <= 1:
            raise ValueError(f"pairs.scales must be two numbers in order, within 0.5..1, got {self.scales}")
        expand_qualities(self.second_qualities, key="pairs.second_qualities")


@dataclass(frozen=True)
class HistoriesConfig:
    """What happened to stage 2's patches besides one 4:2:0 coding by libjpeg. By default, nothing.

    Photos that were cropped after coding are patches off the grid: see data.aligned_share.

    Args:
        clean_share: share of patches that are not coded at all, 0..1: the network should leave them as they are.
        full_chroma_share: share of colour codings that are 4:4:4, 0..1.
        foreign_tables_share: share of codings with quantisation tables of other encoders than libjpeg, 0..1. They are
            drawn at random, and are about as coarse as libjpeg's at the quality drawn.
        double_share: share of the coded patches that are coded twice, 0..1; before the second time, 0 to 7 rows and
            columns are cut off, in colour 0 to 15.
        second_qualities: qualities of the second coding, in the form of data.qualities.
    """

    clean_share: float = 0.0
    full_chroma_share: float = 0.0
    foreign_tables_share: float = 0.0
    double_share: float = 0.0
    second_qualities: list[int | str] = field(default_factory=lambda: ["70..95"])

    def __post_init__(self) -> None:
        for name in ("clean_share", "full_chroma_share", "foreign_tables_share", "double_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"histories.{name} must be within 0..1, got {getattr(self, name)}")
        expand_qualities(self.second_qualities, key="histories.second_qualities")

    @property
    def is_plain(self) -> bool:
        """Whether every patch is coded once, by libjpeg, in 4:2:0."""
        return self.clean_share == self.full_chroma_share == self.foreign_tables_share == self.double_share == 0


def expand_qualities(spec: Sequence[int | str], *, key: str = "data.qualities") -> list[int]:
    """The qualities of a list such as [10, "20..40:10", "90..95"], in order. Repeated ones are drawn more often.

    Raises:
        ValueError: if an entry cannot be read or is not within 1..100, or if the list is empty; names `key`.
    """
    qualities: list[int] = []
    for entry in spec:
        match = _QUALITY_RANGE.fullmatch(str(entry))
        first, last, step = match.groups() if match else ("0", None, None)
        numbers = range(int(first), int(last or first) + 1, int(step or 1))
        if not numbers or numbers[0] < 1 or numbers[-1] > 100:
            raise ValueError(f"{key}: '{entry}' is no quality within 1..100 and no range such as '10..90:10'")
        qualities.extend(numbers)
    if not qualities:
        raise ValueError(f"{key} is empty; name at least one quality within 1..100")
    return qualities


_QUALITY_RANGE = re.compile(r"(\d+)(?:\.\.(\d+)(?::([1-9]\d*))?)?")  # 10, 10..90 or 10..90:5
