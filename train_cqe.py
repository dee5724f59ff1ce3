"""Stage 1: train the compression quality encoder by momentum contrast (Sec. 3.1 of the paper).

    python train_cqe.py --config configs/cqe/paper_gray.yaml
    torchrun --standalone --nproc_per_node=2 train_cqe.py --config configs/cqe/paper_gray.yaml

Writes `encoder.safetensors` (the best by kNN accuracy on the validation images) into the run's folder.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from cqe.encoder import QualityEncoder
from cqe.moco import MomentumContrast
from cqe.published import save_encoder
from data.datasets import ContrastivePatches, DataConfig, expand_qualities, open_training_stores, open_validation_store
from data.loaders import build_loader, data_root
from engine.config import OptimConfig, TrainerConfig, parse_config
from engine.distributed import Process, gather_rows, main_first, process_group
from engine.errors import user_errors
from engine.logging import RunLog
from engine.loop import Stage, train
from engine.run import check_run_dir
from evaluation.representation import knn_quality, quality_crops, represent


@dataclass(frozen=True)
class EncoderConfig:
    """The quality encoder.

    Args:
        width: channels at full resolution; the paper's is 64, which makes the representation 256 numbers (4 * width).
        remove_local_mean: take the local mean off the encoder's input, so that brightness is no cue.
    """

    width: int = 64
    remove_local_mean: bool = False

    def __post_init__(self) -> None:
        # Below 8 channels, oneDNN's strided 1x1 convolution (torch 2.15, AVX2, channels last) writes past its memory.
        if self.width < 8:
            raise ValueError(f"encoder.width must be at least 8, got {self.width}")


@dataclass(frozen=True)
class MocoConfig:
    """Momentum contrast.

    Args:
        queue_length: negatives kept, a multiple of data.batch_size.
        momentum: share of itself that the key encoder keeps at each step, 0..1.
        temperature: of the softmax over similarities, > 0.
    """

    queue_length: int = 65536
    momentum: float = 0.999
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.queue_length < 1:
            raise ValueError(f"moco.queue_length must be at least 1, got {self.queue_length}")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"moco.momentum must be within 0..1, got {self.momentum}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"moco.temperature must be > 0, got {self.temperature}")


@dataclass(frozen=True)
class ValidationConfig:
    """How the encoder is measured while it trains: kNN quality reading on off-grid crops.

    Args:
        crop_size_px: side of the crops, in pixels.
        num_images: how many of the validation images, the first by name; null: all.
        qualities: as data.qualities.
    """

    crop_size_px: int = 128
    num_images: int | None = None
    qualities: list[int | str] = field(default_factory=lambda: ["10..90:10"])

    def __post_init__(self) -> None:
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
        data: training patches.
        encoder: the network.
        moco: the contrast.
        optim: optimiser and schedule.
        validation: measurement on the way.
    """

    trainer: TrainerConfig
    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    moco: MocoConfig = field(default_factory=MocoConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        if self.moco.queue_length % self.data.batch_size:
            raise ValueError(
                f"moco.queue_length ({self.moco.queue_length}) must be a multiple of "
                f"data.batch_size ({self.data.batch_size})"
            )


class EncoderStage(Stage):
    """The encoder in its momentum contrast; what is kept is the query encoder."""

    name = "cqe"
    best_metric = "knn_accuracy"
    weights_name = "encoder.safetensors"

    def __init__(self, config: CqeConfig, crops: tuple[Tensor, Tensor, Tensor]) -> None:
        encoder = QualityEncoder(
            config.data.channels, width=config.encoder.width, remove_local_mean=config.encoder.remove_local_mean
        )
        self.module = MomentumContrast(
            encoder,
            representation_size=encoder.representation_size,
            queue_length=config.moco.queue_length,
            momentum=config.moco.momentum,
            temperature=config.moco.temperature,
            gather=gather_rows,
        )
        self.kept = encoder
        self.crops = crops

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return batch["query"].float() / 255, batch["key"].float() / 255

    def validate(self, kept: nn.Module, log: RunLog, step: int) -> dict[str, float]:
        crops, qualities, images = self.crops
        return knn_quality(represent(kept, crops), qualities, images)

    def publish(self, kept: nn.Module, path: Path) -> None:
        save_encoder(kept, path)


def validation_crops(config: CqeConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Crops of the validation images, their qualities and image indices."""
    root, num_images = data_root(config.data.root), config.validation.num_images
    return quality_crops(
        open_validation_store(config.data, root, num_images=num_images),
        expand_qualities(config.validation.qualities),
        channels=config.data.channels,
        crop_size_px=config.validation.crop_size_px,
    )


def run(config: CqeConfig, process: Process) -> dict[str, float]:
    """Train the encoder; returns the last validation's metrics."""
    check_run_dir(config.trainer)  # before anything is packed
    torch.manual_seed(config.trainer.seed)
    with main_first(process):
        stores = open_training_stores(config.data, data_root(config.data.root))
        crops = validation_crops(config)
    dataset = ContrastivePatches(stores, config.data, seed=config.trainer.seed)
    stage = EncoderStage(config, crops)
    placed = {"rank": process.rank, "world_size": process.world_size, "pin_memory": process.device.type == "cuda"}
    return train(
        stage,
        partial(build_loader, dataset, **placed),
        steps_per_epoch=len(dataset) // config.data.batch_size,
        batch_size=config.data.batch_size,
        config=config,
        process=process,
    )


def main() -> None:
    with user_errors("train_cqe.py"):
        config = parse_config(CqeConfig, description="Stage 1: train the compression quality encoder.")
        with process_group(config.trainer.device) as process:
            run(config, process)


if __name__ == "__main__":
    main()
