"""Trainings in processes of their own, that can be killed. `make faults` runs the tests here; they take minutes."""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

import train_cqe
import train_restorer
from tests.synthetic import write_config

MAINS = {"cqe": train_cqe.main, "restorer": train_restorer.main}


def start(stage: str, settings: dict, folder: Path) -> BaseProcess:
    """Begin `train_<stage>.py --resume auto`. What it prints is added to `folder/output.txt`.

    A server forks the processes, so that only the server must import torch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = write_config(folder / "given.yaml", settings)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_train, args=(stage, config, folder / "output.txt"))
    process.start()
    return process


def finish(stage: str, settings: dict, folder: Path) -> int:
    """Train until the process ends; returns its exit status."""
    process = start(stage, settings, folder)
    process.join()
    return process.exitcode


def _train(stage: str, config: Path, output: Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as where no server is in between
    sys.argv = [f"train_{stage}.py", "--config", str(config), "--resume", "auto"]
    MAINS[stage]()
