"""A training with Muon on images drawn from the step's number; as a program, on the processes of torchrun.

torchrun --standalone --nproc_per_node=2 tests/engine/muon_worker.py RUN_DIR
"""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.config import OptimConfig, TrainerConfig
from engine.distributed import Process, process_group
from engine.loop import train
from engine.run import find_checkpoint
from engine.run_folder import read_newest
from engine.stage import Stage
from tests.engine.line import Config

BATCH_SIZE = 4


class Objective(nn.Module):
    """Three convolutions that are to return their input."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, 6, 3, padding=1)
        self.body = nn.Conv2d(6, 6, 3, padding=1)
        self.tail = nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"total": (self.tail(self.body(self.head(x)).relu()) - x).square().mean()}


class ImageStage(Stage):
    name = "images"
    best_metric = "score"
    weights_name = "weights.txt"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = self.kept = Objective()

    def inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return (batch["x"],)

    def blank_batch(self, num_samples: int) -> dict[str, Tensor]:
        return {"x": torch.empty(num_samples, 1, 8, 8, device="meta")}

    def validate(self, kept: nn.Module, log: object, step: int) -> dict[str, float]:
        return {"score": 0.0}

    def publish(self, kept: nn.Module, path: Path) -> None:
        path.touch()


def train_muon(
    run_dir: Path, process: Process | None = None, *, stop_at: int | None = None, **trainer: int | bool
) -> dict:
    """Train, and return the checkpoint; `stop_at` is a step before which SIGTERM arrives."""
    process = process or Process(0, 1, torch.device("cpu"))

    def batches(first_step: int, last_step: int) -> Iterator[dict[str, Tensor]]:
        for step in range(first_step, last_step):
            if step == stop_at:
                signal.raise_signal(signal.SIGTERM)
            images = torch.rand(BATCH_SIZE, 1, 8, 8, generator=torch.Generator().manual_seed(step))
            yield {"x": images.chunk(process.world_size)[process.rank]}

    settings = TrainerConfig(run_dir=str(run_dir), device="cpu", precision="float32", **trainer)
    optim = OptimConfig(name="muon", lr=0.02, adam_lr=0.003, weight_decay=0.1, lr_warmup_steps=1, grad_clip_norm=1.0)
    config = Config(settings, optim)
    found = find_checkpoint(config, stage="images")
    train(
        ImageStage(),
        batches,
        steps_per_epoch=10,
        batch_size=BATCH_SIZE,
        config=config,
        process=process,
        checkpoint=found,
    )
    return read_newest(run_dir, stage="images")[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group("cpu") as this_process:
        train_muon(Path(sys.argv[1]), this_process, max_steps=4)
