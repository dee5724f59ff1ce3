"""Stage 2: train a restoration network around a frozen quality encoder (Sec. 3.2 and 3.3 of the paper).

    python train_restorer.py --config configs/restorer/paper_gray.yaml --encoder runs/cqe_paper_gray/encoder.safetensors
    torchrun --standalone --nproc_per_node=2 train_restorer.py --config configs/restorer/paper_gray.yaml --encoder ...

Writes `restorer.safetensors` (network and encoder, the best by PSNR on the validation images) into the run's folder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cqe.encoder import QualityEncoder
from cqe.quality import QualityProbe
from cqe.weights import build_encoder, encoder_architecture
from data.color import luma, to_image, to_tensor
from data.config import data_root, expand_qualities
from data.jpeg import jpeg_roundtrip
from data.patches import RestorationPatches, list_training_images, open_training_stores, open_validation_store
from engine.distributed import Process, results_over_ranks
from engine.run import find_checkpoint
from engine.run_log import RunLog
from engine.script import plan_on, run_script, train_on
from engine.stage import Stage
from evaluation.scores.metrics import MIN_SIDE_PX, means, score
from restoration.config import RestorerConfig
from restoration.fineness import EVERY_IMAGE
from restoration.networks import build_restorer
from restoration.networks.recomputing import recompute_activations
from restoration.objective import RestorationObjective
from restoration.start import open_start
from restoration.tiling import TILE_PX, restore_image
from restoration.warm_start import start_from
from restoration.weights import save_restorer


def run(config: RestorerConfig, process: Process) -> dict[str, float]:
    """Train the network; returns the last validation's metrics."""
    checkpoint = find_checkpoint(config, stage=RestorerStage.name)  # before any image is packed
    check_validation_crops(config.validation.crop_size_px)
    start = open_start(config, checkpoint)
    torch.manual_seed(config.trainer.seed)
    if config.trainer.dry_run:
        num_images = len(list_training_images(config.data, data_root(config.data.root)))
        stage = RestorerStage(config, start.encoder, start.probe, [])
        pixels = config.data.patch_size_px**2
        return plan_on(stage, num_images, pixels_per_image=pixels, config=config, process=process)
    stores = open_training_stores(config.data, data_root(config.data.root))
    validation_images = open_validation_images(config)
    dataset = RestorationPatches(stores, config.data, config.histories, seed=config.trainer.seed)
    encoder, probe = start.encoder, start.probe
    if config.train_encoder:
        encoder, probe = build_encoder(encoder_architecture(encoder)), None
    stage = RestorerStage(config, encoder, probe, validation_images)
    if start.network:
        start_from(stage.kept, start.network, config.initial_weights)
    return train_on(stage, dataset, config=config, process=process, checkpoint=checkpoint)


class RestorerStage(Stage):
    """The restoration network; its encoder, if any, is frozen inside it, unless the config says that it is trained."""

    name = "restorer"
    best_metric = "psnr"
    weights_name = "restorer.safetensors"
    splits_validation = True

    def __init__(
        self,
        config: RestorerConfig,
        encoder: QualityEncoder | None,
        probe: QualityProbe | None,
        validation_images: Sequence[np.ndarray],
    ) -> None:
        self.config = config
        self.kept = build_restorer(config.network, encoder, config.data.channels)
        self.kept.fineness = EVERY_IMAGE  # large validation images are measured as the others are
        if config.train_encoder:
            self.kept.train_encoder()
        recompute_activations(self.kept, config.recompute_activations)
        self.module = RestorationObjective(self.kept, config.loss)
        self.validation_images = validation_images
        self.probe = probe  # the encoder's; it is published with that encoder only
        self.probe_of = {} if encoder is None else {name: t.clone() for name, t in encoder.state_dict().items()}

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return batch["degraded"].float() / 255, batch["clean"].float() / 255

    def blank_batch(self, num_samples: int) -> dict[str, Tensor]:
        size = self.config.data.patch_size_px
        patches = torch.empty(num_samples, self.config.data.channels, size, size, dtype=torch.uint8, device="meta")
        return {"degraded": patches, "clean": patches}

    @torch.no_grad()
    def validate(self, kept: nn.Module, log: RunLog, step: int) -> dict[str, float]:
        """The mean of every metric over all qualities, and of PSNR for each. The ranks share the images."""
        qualities = expand_qualities(self.config.validation.qualities)
        num_images = len(self.validation_images)
        places = [(quality, index) for quality in qualities for index in range(num_images)]
        results = results_over_ranks(lambda place: self._validated(kept, *places[place]), len(places))
        if not results:  # rank 0 has them
            return {}
        for (quality, index), (_, strip) in zip(places, results, strict=True):
            if strip is not None:
                log.picture(f"quality_{quality}/{index}: input, output, truth", strip, step)
        scores = [score_of_image for score_of_image, _ in results]
        by_quality = {
            f"psnr_q{quality}": means(scores[first : first + num_images])["psnr"]
            for quality, first in zip(qualities, range(0, len(places), num_images), strict=True)
        }
        return means(scores) | by_quality

    def _validated(self, kept: nn.Module, quality: int, index: int) -> tuple[dict[str, float], Tensor | None]:
        """An image's scores at a quality; and input, output, truth side by side, (C, H, 3W), if it is to be shown."""
        clean = self.validation_images[index]
        degraded = jpeg_roundtrip(clean, quality)
        if max(degraded.shape[:2]) > TILE_PX:  # more might not fit into memory
            restored = restore_image(kept, degraded)
        else:
            restored = to_image(kept(to_tensor(degraded)[None].to(next(kept.parameters()).device))[0])
        is_shown = index < self.config.validation.num_pictures
        strip = torch.cat([to_tensor(image) for image in (degraded, restored, clean)], dim=2) if is_shown else None
        return score(restored, clean), strip

    def publish(self, kept: nn.Module, path: Path) -> None:
        save_restorer(kept, self.config.network, path, probe=self._own_probe())

    def context(self) -> dict:
        encoder, probe = self.kept.encoder, self._own_probe()
        return {
            "encoder": encoder and encoder_architecture(encoder.network),
            "probe": probe and dict(probe.state_dict()),
        }

    def _own_probe(self) -> QualityProbe | None:
        """The probe, if it belongs to the network's encoder.

        A run that goes on from an older version's checkpoint has that checkpoint's encoder, but the probe of the
        encoder's file, which may have changed since.
        """
        encoder = {} if self.kept.encoder is None else self.kept.encoder.network.state_dict()
        fits = all(torch.equal(tensor.cpu(), self.probe_of[name].cpu()) for name, tensor in encoder.items())
        return self.probe if fits else None


def check_validation_crops(crop_size_px: int | None) -> None:
    """Refuse crops that the metrics cannot measure. Raises ValueError."""
    if crop_size_px is not None and crop_size_px < MIN_SIDE_PX:
        raise ValueError(f"validation.crop_size_px must be at least {MIN_SIDE_PX} or null, got {crop_size_px}")


def open_validation_images(config: RestorerConfig) -> list[np.ndarray]:
    """The first validation images, luma or RGB.

    Raises:
        ValueError: if one is too small to be measured.
    """
    root, size = data_root(config.data.root), config.validation.crop_size_px
    store = open_validation_store(config.data, root, num_images=config.validation.num_images)
    for name, shape in zip(store.names, store.shapes, strict=True):
        if min(shape) < MIN_SIDE_PX:
            raise ValueError(f"{name} is {shape[1]}x{shape[0]} pixels; metrics need sides of at least {MIN_SIDE_PX}")
    images = [store[index][:size, :size] for index in range(len(store))]
    return [np.ascontiguousarray(image) if config.data.channels == 3 else luma(image) for image in images]


def main() -> None:
    run_script("train_restorer.py", RestorerConfig, run, description="Stage 2: train a restoration network.")


if __name__ == "__main__":
    main()
