"""A run's folder: who may use it, the checkpoints in it, and its config."""

import dataclasses
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from common.files import remove_partly_written
from engine.checkpoint import DamagedFile, load_checkpoint, save_checkpoint
from engine.config import TrainerConfig, save_config
from engine.distributed import Process, from_main, wait_for_all

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
# After a process was killed, its loader's workers notice within seconds, and until then they may hold its lock.
LOCK_WAIT_SECONDS = 15.0

_STEP = re.compile(r"checkpoint_(\d+)\.pt")
_BEFORE_STEPS = "checkpoint.pt"  # the only checkpoint of a run that an older version made


def checkpoint_name(step: int) -> str:
    """The file name of the checkpoint after this many steps. Names sort by step."""
    return f"checkpoint_{step:09d}.pt"


def list_checkpoints(run_dir: str | Path) -> list[Path]:
    """The checkpoints in a run's folder, the newest first."""
    found = {path: int(match[1]) for path in Path(run_dir).glob("*.pt") if (match := _STEP.fullmatch(path.name))}
    oldest = Path(run_dir) / _BEFORE_STEPS
    return sorted(found, key=found.get, reverse=True) + ([oldest] if oldest.exists() else [])


def save_step(run_dir: str | Path, step: int, state: dict, *, keep: int) -> Path:
    """Write the checkpoint after this many steps, and then remove all but the newest `keep`; returns its path.

    Raises:
        OSError: if it cannot be written; the others are then all still there.
    """
    path = Path(run_dir) / checkpoint_name(step)
    save_checkpoint(path, state)
    others = list_checkpoints(run_dir)
    place = others.index(path)
    # Those of later steps could not be read when this run was resumed, or it would have gone on from them.
    for other in (*others[:place], *others[place + keep :]):
        other.unlink(missing_ok=True)
    return path


def read_newest(run_dir: str | Path, *, stage: str) -> tuple[Path, dict]:
    """The newest checkpoint of a run's folder that can be read: its path and content. Damaged ones are passed over.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if all are damaged; or as `load_checkpoint`, if one belongs to another stage or format.
    """
    paths = list_checkpoints(run_dir)
    if not paths:
        raise FileNotFoundError(
            f"nothing to resume: no checkpoint in {run_dir}; train with trainer.resume off first, or set it to auto"
        )
    for path in paths:
        try:
            return path, load_checkpoint(path, stage=stage)
        except DamagedFile as error:
            damage = error
            logger.warning("passed over: %s", error)
    raise ValueError(f"no checkpoint in {run_dir} can be read ({damage}): start again in another trainer.run_dir")


def check_run_dir(trainer: TrainerConfig) -> None:
    """Refuse a folder that this run may not use. Writes nothing.

    Raises:
        ValueError: if a run is already there and `trainer.resume` is off.
        FileNotFoundError: if there is none and it is on.
        PermissionError: if the folder cannot be written.
    """
    run_dir = Path(trainer.run_dir)
    nearest = next(folder for folder in (run_dir, *run_dir.absolute().parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise PermissionError(f"cannot write to trainer.run_dir {run_dir} ({nearest}); choose another folder")
    has_run = bool(list_checkpoints(run_dir))
    if trainer.resume is True and not has_run:
        raise FileNotFoundError(
            f"nothing to resume: no checkpoint in {run_dir}; train with trainer.resume off first, or set it to auto"
        )
    if has_run and not trainer.resume:
        raise ValueError(
            f"{run_dir} already holds a run: set trainer.resume to go on, or choose another trainer.run_dir"
        )


@contextmanager
def locked_run_dir(trainer: TrainerConfig, process: Process) -> Iterator[None]:
    """Keep other runs out of the folder while the block runs. If the block leaves nothing in it, it is removed again.

    The system releases the lock when this process ends, however it ends.

    Raises:
        BlockingIOError: if another run holds the folder.
        ValueError, OSError: as `check_run_dir`.
    """
    from_main(lambda: check_run_dir(trainer))
    if trainer.dry_run:
        yield
        return
    if not process.is_main:
        wait_for_all()
        yield
        return
    run_dir = Path(trainer.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(run_dir / LOCK_NAME, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            logger.warning("another run uses %s; waiting up to %.0f s for its end", run_dir, LOCK_WAIT_SECONDS)
            lock.acquire(timeout=LOCK_WAIT_SECONDS)
    except Timeout:
        raise BlockingIOError(
            f"another run uses {run_dir}: wait for its end, stop it, or choose another trainer.run_dir"
        ) from None
    try:
        wait_for_all()  # an earlier run may have saved until now, so no rank looks for checkpoints before
        yield
    finally:
        if [path.name for path in run_dir.iterdir()] == [LOCK_NAME]:
            with suppress(OSError):
                (run_dir / LOCK_NAME).unlink()
                run_dir.rmdir()
        lock.release()


def open_run_dir(run_dir: str | Path, config: Any, process: Process) -> None:
    """Make the run's folder, with the resolved config in it. Call it last, when nothing can be refused any more."""
    wait_for_all()  # every rank must have looked at the folder before rank 0 writes
    if process.is_main:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
        remove_partly_written(run_dir)
        repeatable = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, resume=False))
        save_config(repeatable, Path(run_dir) / "config.yaml")
    wait_for_all()
