"""A training whose loader worker fails, in a process of its own; started by test_loader.py, not by pytest.

    python tests/engine/failing_worker.py FAILURE RUN_DIR

FAILURE: the worker "raises", is "killed", or finds the memory "full" while it reads a sample.
"""

import os
import signal
import sys
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import user_errors
from engine.config import TrainerConfig
from engine.distributed import Process
from engine.loader import build_loader
from engine.loop import train
from tests.engine.line import Config, LineStage


class Samples(Dataset):
    """Sample 5 is the bad one."""

    def __init__(self, failure: str) -> None:
        self.failure = failure

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Tensor]:
        if position[1] == 5:
            if self.failure == "raises":
                raise ValueError("photos/5.png is damaged")
            if self.failure == "full":
                raise RuntimeError("not enough memory: you tried to allocate 9 bytes")
            os.kill(os.getpid(), signal.SIGKILL)
        return {name: torch.tensor(0.5) for name in ("x", "y", "z")}


def main() -> None:
    failure, run_dir = sys.argv[1:]
    trainer = TrainerConfig(run_dir=run_dir, max_steps=100, device="cpu", precision="float32")
    loader = partial(build_loader, Samples(failure), batch_size=2, num_workers=2)
    with user_errors("failing_worker.py"):
        train(
            LineStage(),
            loader,
            steps_per_epoch=500,
            batch_size=2,
            config=Config(trainer),
            process=Process(0, 1, torch.device("cpu")),
            checkpoint=None,
        )


if __name__ == "__main__":
    main()
