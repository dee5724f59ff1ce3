"""What each process of a training on several machines does in test_nodes.py; started by torchrun, not by pytest.

    torchrun --nnodes=2 ... tests/engine/node_worker.py FOLDER FAULT

Trains both stages by the configs `cqe.yaml` and `restorer.yaml` of FOLDER. The working folder is FOLDER/$MACHINE, so
relative paths are on the "disk" of one machine. FAULT: "none"; or before the third step of stage 1 and only at
the first start, the last process is "killed" or falls "silent".
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import engine.script
import train_cqe
import train_restorer
from common.errors import user_errors
from cqe.config import CqeConfig
from engine.config import parse_config
from engine.distributed import Process, process_group
from restoration.config import RestorerConfig

FAULT_STEP = 2


def train_both(folder: Path, process: Process) -> None:
    """Train stage 1, then stage 2, by the configs in a folder; run folders are relative to the working folder."""
    for run, config_class, name in (
        (train_cqe.run, CqeConfig, "cqe"),
        (train_restorer.run, RestorerConfig, "restorer"),
    ):
        run(parse_config(config_class, ["--config", str(folder / f"{name}.yaml"), "--trainer.resume", "auto"]), process)


def fail(fault: str) -> None:
    """Let this process fail before a step."""
    build_loader = engine.script.build_loader

    def build(dataset, first_step: int, last_step: int, **options) -> Iterator:
        for step, batch in enumerate(build_loader(dataset, first_step, last_step, **options), start=first_step):
            if step == FAULT_STEP and fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if step == FAULT_STEP and fault == "silent":
                time.sleep(600)
            yield batch

    engine.script.build_loader = build


def main() -> None:
    folder, fault = Path(sys.argv[1]), sys.argv[2]
    os.chdir(folder / os.environ["MACHINE"])
    torch.set_num_threads(1)
    seconds = 5 if fault == "silent" else 300
    with user_errors("node_worker.py"), process_group("cpu", timeout_seconds=seconds) as process:
        is_first_start = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if fault != "none" and is_first_start and process.rank == process.world_size - 1:
            fail(fault)
        train_both(folder, process)


if __name__ == "__main__":
    main()
