"""The configuration of stage 2."""

import math
from dataclasses import dataclass, field
from typing import Literal

from data.config import DataConfig, HistoriesConfig, expand_qualities
from engine.config import OptimConfig, TrainerConfig
from restoration.networks import NetworkConfig


@dataclass(frozen=True)
class LossConfig:
    """MAE + weighted FFT loss, Eq. 8-10.

    Args:
        fft_weight: lambda of Eq. 10, >= 0.
        fft_norm: scaling of the transform, as in torch.fft. The paper uses "backward", which means no scaling.
    """

    fft_weight: float = 0.1
    fft_norm: Literal["backward", "ortho", "forward"] = "backward"

    def __post_init__(self) -> None:
        if not 0 <= self.fft_weight < math.inf:
            raise ValueError(f"loss.fft_weight must be 0 or more, got {self.fft_weight}")


@dataclass(frozen=True)
class ValidationConfig:
    """How the network is measured while it trains.

    Args:
        qualities: JPEG qualities, in the form of data.qualities.
        num_images: how many of the validation images are used, the first by name; null: all.
        crop_size_px: only the top left corner of this size is measured, in pixels; null: whole images.
        num_pictures: how many strips of input, output and clean image are written to TensorBoard.
    """

    qualities: list[int | str] = field(default_factory=lambda: [10, 20, 30, 40])
    num_images: int | None = 20
    crop_size_px: int | None = None
    num_pictures: int = 2

    def __post_init__(self) -> None:
        expand_qualities(self.qualities, key="validation.qualities")
        if self.num_images is not None and self.num_images < 1:
            raise ValueError(f"validation.num_images must be at least 1 or null, got {self.num_images}")


@dataclass(frozen=True)
class RestorerConfig:
    """Stage 2.

    Args:
        trainer: how long, where, what is written.
        encoder: the quality encoder, by name or file: `encoder.safetensors` of a stage 1 run, a published encoder, or a
            restoration network, whose encoder is taken. Not read if the encoder comes with `initial_weights`.
            A network that takes no encoder needs none, and one that is given is not read.
        train_encoder: true: the encoder starts untrained, in the architecture of `encoder`, and is trained with the
            network (model-2 of the paper's Table 5). false: it is used as it is, frozen (the paper's method).
        network: which restoration network.
        data: training patches.
        histories: what happened to the patches besides one coding: other encoders, two codings, none.
        loss: reconstruction loss.
        optim: optimiser and schedule.
        validation: how the network is measured while it trains.
        initial_weights: trained weights, by name or file, to start from, under a new schedule. Their network must equal
            the configured one, or have fewer residual blocks (new blocks start as the identity), or, for most "fast"
            networks, smaller widths. It brings its encoder. It may also be for luma although RGB is configured, at
            equal widths; `encoder` is then used. If empty: start untrained.
        recompute_activations: keep only the inputs of the network's blocks for the backward pass and compute the rest
            again. A step takes about a third longer and far less memory; its result is the same.
    """

    trainer: TrainerConfig
    encoder: str | None = None
    train_encoder: bool = False
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    histories: HistoriesConfig = field(default_factory=HistoriesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    initial_weights: str = ""
    recompute_activations: bool = False

    def __post_init__(self) -> None:
        if self.network.takes_encoder and self.encoder is None:
            raise ValueError(f"encoder is required: the network '{self.network.name}' is built around one")
        if self.histories.full_chroma_share and self.data.channels == 1:
            raise ValueError(
                f"histories.full_chroma_share is {self.histories.full_chroma_share}, but luma (data.channels 1) has no "
                "chroma; set it to 0"
            )
        if self.train_encoder and not self.network.takes_encoder:
            raise ValueError(f"train_encoder is on, but the network '{self.network.name}' takes no encoder")
        if self.train_encoder and self.network.takes_encoder and not self.network.reads_encoder:
            raise ValueError(
                f"train_encoder is on, but network.{self.network.name}.fusion is none: it does not read the encoder"
            )
        if self.train_encoder and self.initial_weights:
            raise ValueError("train_encoder starts with an untrained encoder, but initial_weights brings a trained one")
        if self.train_encoder and self.optim.name == "schedule_free":
            raise ValueError(
                "optim.name schedule_free cannot train the encoder: its average would have no BatchNorm statistics"
            )
        if self.recompute_activations and not self.network.recomputes:
            raise ValueError(f"recompute_activations is on, but the network '{self.network.name}' cannot do that")
