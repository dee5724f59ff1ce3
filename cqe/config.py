"""The configuration of stage 1."""

import math
from dataclasses import dataclass, field
from typing import Literal

from cqe.moco import EqualQualities
from data.config import DataConfig, PairsConfig, expand_qualities
from engine.config import OptimConfig, TrainerConfig


@dataclass(frozen=True)
class EncoderConfig:
    """The quality encoder.

    Args:
        width: channels at full resolution, 64 in the paper. The representation has 4 * width numbers.
        remove_local_mean: subtract the local mean from the encoder's input, so that brightness is no cue.
    """

    width: int = 64
    remove_local_mean: bool = False

    def __post_init__(self) -> None:
        # Below 8 channels, oneDNN's strided 1x1 convolution writes past its memory (torch 2.15, AVX2, channels last).
        if self.width < 8:
            raise ValueError(f"encoder.width must be at least 8, got {self.width}")


@dataclass(frozen=True)
class MocoConfig:
    """Momentum contrast.

    Args:
        queue_length: number of negatives that are kept; a multiple of the pairs of a step.
        momentum: how much of itself the key encoder keeps in a step, 0..1.
        temperature: of the softmax over similarities, > 0.
        equal_qualities: how keys of other images count that have the query's quality: as "negatives" (the paper), not
            at all ("skipped"), or as "positives". We coded the patches ourselves, so we know which qualities are equal.
            Which quality it is, is not used.
        batch_norm: with several processes: each has statistics of its own samples ("own"), keys are dealt out among the
            processes first ("shuffled", as MoCo does it), or statistics are of all processes' samples ("synced").
    """

    queue_length: int = 65536
    momentum: float = 0.999
    temperature: float = 0.07
    equal_qualities: EqualQualities = "negatives"
    batch_norm: Literal["own", "shuffled", "synced"] = "own"

    def __post_init__(self) -> None:
        if self.queue_length < 1:
            raise ValueError(f"moco.queue_length must be at least 1, got {self.queue_length}")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"moco.momentum must be within 0..1, got {self.momentum}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"moco.temperature must be > 0, got {self.temperature}")


@dataclass(frozen=True)
class ValidationConfig:
    """How the encoder is measured while it trains: it reads the quality of off-grid crops of the validation images.

    Two readers are used: nearest neighbours, and a probe that is fitted on training images at each validation. The best
    encoder is published with its probe.

    Args:
        crop_size_px: side of the crops, in pixels.
        num_images: how many of the validation images are used, the first by name; null: all.
        qualities: JPEG qualities, in the form of data.qualities.
        num_probe_images: how many training images the probe is fitted on, evenly spread; all, if there are fewer.
    """

    crop_size_px: int = 128
    num_images: int | None = None
    qualities: list[int | str] = field(default_factory=lambda: ["10..90:10"])
    num_probe_images: int = 50

    def __post_init__(self) -> None:
        if self.num_probe_images < 2:
            raise ValueError(f"validation.num_probe_images must be at least 2, got {self.num_probe_images}")
        if self.crop_size_px < 1:
            raise ValueError(f"validation.crop_size_px must be at least 1, got {self.crop_size_px}")
        if self.num_images is not None and self.num_images < 2:
            raise ValueError(f"validation.num_images must be at least 2 (neighbours) or null, got {self.num_images}")
        expand_qualities(self.qualities, key="validation.qualities")


@dataclass(frozen=True)
class CqeConfig:
    """Stage 1.

    Args:
        trainer: how long, where, what is written.
        initial_weights: encoder file of the same architecture to start from, under a new schedule. If empty: start
            untrained.
        objective: "contrast"; or "labels", which teaches the same encoder the qualities by name, as a comparison.
        data: training patches.
        pairs: how the patches are paired.
        encoder: the network.
        moco: the contrastive learning.
        optim: optimiser and schedule.
        validation: how the encoder is measured while it trains.
    """

    trainer: TrainerConfig
    initial_weights: str = ""
    objective: Literal["contrast", "labels"] = "contrast"
    data: DataConfig = field(default_factory=DataConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    moco: MocoConfig = field(default_factory=MocoConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        if self.objective == "labels" and self.moco.batch_norm != "own":
            raise ValueError(f"moco.batch_norm {self.moco.batch_norm} is for objective contrast; with labels it is own")
        if self.optim.name == "schedule_free":
            raise ValueError("optim.name schedule_free is for stage 2: its average would have no BatchNorm statistics")
        num_pairs = self.data.batch_size * self.pairs.qualities_per_image
        if self.objective == "contrast" and self.moco.queue_length % num_pairs:
            raise ValueError(
                f"moco.queue_length ({self.moco.queue_length}) must be a multiple of the {num_pairs} pairs of a step: "
                f"data.batch_size ({self.data.batch_size}) x pairs.qualities_per_image "
                f"({self.pairs.qualities_per_image})"
            )
