"""Stage 1: train the compression quality encoder by momentum contrast (Sec. 3.1 of the paper).

    python train_cqe.py --config configs/cqe/paper_gray.yaml
    torchrun --standalone --nproc_per_node=2 train_cqe.py --config configs/cqe/paper_gray.yaml

Writes `encoder.safetensors` (the best by kNN accuracy on the validation images) into the run's folder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cqe.batch_norm import with_synced_batch_norm
from cqe.config import CqeConfig
from cqe.encoder import QualityEncoder
from cqe.fitting import fit_probe, read_coded
from cqe.moco import MomentumContrast
from cqe.quality import QualityProbe, raw_rows
from cqe.supervised import QualityClassifier
from cqe.weights import encoder_architecture, load_encoder, save_encoder
from data.config import data_root, expand_qualities
from data.pairs import ContrastivePatches
from data.patches import list_training_images, open_training_stores, open_validation_store
from data.store import PixelStore
from engine.distributed import Process, dealt_over_ranks, gather_rows
from engine.run import find_checkpoint
from engine.run_log import RunLog
from engine.script import plan_on, run_script, train_on
from engine.stage import Stage
from engine.weight_files import load_exactly
from evaluation.encoder.neighbours import knn_quality, quality_crops

# Each validation fits a probe, which must not take long: `test.py probe` takes whole photos and 5,000 crops.
PROBE_PHOTO_PX = 512  # longest side of the photos
PROBE_ROWS = 1000  # number of crops


def run(config: CqeConfig, process: Process) -> dict[str, float]:
    """Train the encoder; returns the last validation's metrics."""
    checkpoint = find_checkpoint(config, stage=EncoderStage.name)  # before any image is packed
    torch.manual_seed(config.trainer.seed)
    if config.trainer.dry_run:
        num_images = len(list_training_images(config.data, data_root(config.data.root)))
        stage = EncoderStage(config, crops=(), probe_photos=(), is_resumed=checkpoint is not None)
        pixels = 2 * config.pairs.qualities_per_image * config.data.patch_size_px**2
        return plan_on(stage, num_images, pixels_per_image=pixels, config=config, process=process)
    stores = open_training_stores(config.data, data_root(config.data.root))
    crops = validation_crops(config)
    dataset = ContrastivePatches(stores, config.data, config.pairs, seed=config.trainer.seed)
    photos = probe_photos(stores, config.validation.num_probe_images)
    stage = EncoderStage(config, crops, photos, is_resumed=checkpoint is not None)
    return train_on(stage, dataset, config=config, process=process, checkpoint=checkpoint)


class EncoderStage(Stage):
    """The encoder under its objective. The (query) encoder is kept."""

    name = "cqe"
    best_metric = "knn_accuracy"
    weights_name = "encoder.safetensors"
    eager_because = "the forward pass moves the key encoder and the queue, and gathers keys of all processes"

    def __init__(
        self,
        config: CqeConfig,
        crops: tuple[Tensor, Tensor, Tensor],
        probe_photos: Sequence[np.ndarray],
        *,
        is_resumed: bool = False,  # all weights then come from the checkpoint
    ) -> None:
        self.config = config
        encoder = QualityEncoder(
            config.data.channels, width=config.encoder.width, remove_local_mean=config.encoder.remove_local_mean
        )
        if config.initial_weights and not is_resumed:
            trained = load_encoder(config.initial_weights, channels=config.data.channels)
            check_architecture(encoder, trained, config.initial_weights)
            load_exactly(encoder, trained.state_dict(), config.initial_weights)
        self.module = build_objective(encoder, config)
        self.kept = encoder
        self.crops = crops
        self.probe_photos = probe_photos
        self.probe: QualityProbe | None = None  # fitted to the encoder that was validated last

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        # (images, qualities, ...) -> (pairs, ...)
        query, key, quality = (batch[name].flatten(0, 1) for name in ("query", "key", "quality"))
        return query.float() / 255, key.float() / 255, quality

    def blank_batch(self, num_samples: int) -> dict[str, Tensor]:
        data, pairs = self.config.data, (num_samples, self.config.pairs.qualities_per_image)
        size = data.patch_size_px
        patches = torch.empty(*pairs, data.channels, size, size, dtype=torch.uint8, device="meta")
        return {"query": patches, "key": patches, "quality": torch.empty(pairs, dtype=torch.long, device="meta")}

    def begin_step(self, inputs: Sequence[Tensor], num_parts: int) -> None:
        if isinstance(self.module, MomentumContrast):
            _, key_patches, quality = inputs
            self.module.begin_step(key_patches, quality, num_parts)

    def validate(self, kept: nn.Module, log: RunLog, step: int) -> dict[str, float]:
        crops, qualities, images = self.crops
        rows = raw_rows(kept, crops)
        directions = F.normalize(rows, dim=1)
        photos = self.probe_photos
        self.probe = fit_probe(*read_coded(kept, photos, num_images=len(photos), num_rows=PROBE_ROWS)).probe
        log.points("representation", directions, [f"Q{quality}" for quality in qualities.tolist()], step)
        error = (self.probe(rows) - qualities).abs().mean().item()
        return knn_quality(directions, qualities, images) | {"probe_mae": error}

    def publish(self, kept: nn.Module, path: Path) -> None:
        save_encoder(kept, path, self.probe)


def check_architecture(encoder: QualityEncoder, trained: QualityEncoder, path: str) -> None:
    """Refuse weights of another architecture. Another input, for example, does not show in any tensor's shape.

    Raises:
        ValueError: naming the first key that differs.
    """
    wanted = encoder_architecture(encoder)
    for key, value in encoder_architecture(trained).items():
        if value != wanted[key]:
            raise ValueError(f"initial_weights {path} has {key} {value}, but the config has {wanted[key]}")


def build_objective(encoder: QualityEncoder, config: CqeConfig) -> MomentumContrast | QualityClassifier:
    """What trains the encoder: momentum contrast, or a layer that names the training qualities."""
    size = encoder.representation_size
    if config.objective == "labels":
        qualities = expand_qualities(config.data.qualities)
        return QualityClassifier(encoder, representation_size=size, qualities=qualities)
    return MomentumContrast(
        with_synced_batch_norm(encoder) if config.moco.batch_norm == "synced" else encoder,
        representation_size=size,
        queue_length=config.moco.queue_length,
        momentum=config.moco.momentum,
        temperature=config.moco.temperature,
        equal_qualities=config.moco.equal_qualities,
        gather=gather_rows,
        deal=dealt_over_ranks if config.moco.batch_norm == "shuffled" else None,
    )


def validation_crops(config: CqeConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Crops of the validation images, their qualities and image indices."""
    root, num_images = data_root(config.data.root), config.validation.num_images
    return quality_crops(
        open_validation_store(config.data, root, num_images=num_images),
        expand_qualities(config.validation.qualities),
        channels=config.data.channels,
        crop_size_px=config.validation.crop_size_px,
    )


def probe_photos(stores: Sequence[PixelStore], num_images: int) -> list[np.ndarray]:
    """Top left corners of training images, evenly spread over all stores, as views of the packed pixels."""
    places = [
        (store, index) for store in stores for index, name in enumerate(store.names) if name not in store.unreadable
    ]
    chosen = np.linspace(0, len(places) - 1, min(num_images, len(places))).astype(int)
    photos = [store[index][:PROBE_PHOTO_PX, :PROBE_PHOTO_PX] for store, index in (places[place] for place in chosen)]
    if len(photos) < 2:
        raise ValueError(f"data.train holds {len(photos)} image(s); the probe of the validation needs two or more")
    return photos


def main() -> None:
    run_script("train_cqe.py", CqeConfig, run, description="Stage 1: train the compression quality encoder.")


if __name__ == "__main__":
    main()
