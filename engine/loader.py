"""Batches of a training set by global step: a resumed run draws the same ones."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from common.errors import is_about_memory
from engine.signals import SAVE_SIGNALS, STOP_SIGNALS

PREFETCHED_BATCHES = 4  # of each worker, which fills them while a validation runs; a few megabytes each (uint8)


class StepSampler(Sampler):
    """The positions (epoch, index) of one rank's share of each global batch, from a step on.

    An epoch has `len(dataset) // batch_size` steps. The order changes each epoch, so other images are left over.

    Args:
        num_samples: images of an epoch.
        batch_size: samples of one step over all ranks.
        rank, world_size: which consecutive share of each batch to yield.
        first_step, last_step: global steps to yield, without the last one.

    Raises:
        ValueError: as `check_batch`.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, rank: int, world_size: int, first_step: int, last_step: int
    ) -> None:
        check_batch(num_samples, batch_size, world_size)
        self.steps_per_epoch = num_samples // batch_size
        self.batch_size = batch_size
        self.steps = range(first_step, last_step)
        self.share = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.steps:
            epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
            yield [(epoch, step_of_epoch * self.batch_size + place) for place in self.share]


def check_batch(num_samples: int, batch_size: int, world_size: int) -> None:
    """Raise ValueError if the batch is larger than the epoch, or does not divide among the ranks."""
    if batch_size % world_size:
        raise ValueError(f"data.batch_size ({batch_size}) must be a multiple of the {world_size} processes")
    if num_samples < batch_size:
        raise ValueError(
            f"data.batch_size is {batch_size}, but the training set has only {num_samples} images: "
            f"lower it or add images"
        )


def check_parts(batch_size: int, micro_batches: int, world_size: int) -> None:
    """Raise ValueError if the batch does not divide into equal parts on each of the ranks."""
    if batch_size % (world_size * micro_batches):
        raise ValueError(
            f"data.batch_size ({batch_size}) must be a multiple of {world_size} process(es) times "
            f"trainer.micro_batches ({micro_batches})"
        )


def build_loader(
    dataset: Dataset,
    first_step: int,
    last_step: int,
    *,
    batch_size: int,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader:
    """Loader over the global steps first_step..last_step - 1; each item is this rank's share of one batch.

    A run iterates over it once.

    Args:
        dataset: has a length, and takes positions (epoch, index).
        first_step, last_step: global steps, without the last one.
        batch_size: samples of one step over all ranks.
        num_workers: loader processes of this rank; 0 loads in the process itself.
        rank, world_size: which share of each batch to load.
        pin_memory: put batches in pinned memory, from which a GPU copies in the background.

    Raises:
        ValueError: as `check_batch`.
    """
    sampler = StepSampler(
        len(dataset), batch_size, rank=rank, world_size=world_size, first_step=first_step, last_step=last_step
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        prefetch_factor=PREFETCHED_BATCHES if num_workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own, because a resumed run must not draw again from the global one
        worker_init_fn=_leave_signals_to_the_trainer,
    )


@contextmanager
def batches_of(loader: Iterable) -> Iterator[Iterator]:
    """The loader's batches, for a `with` block. The workers end with the block, also after an error.

    Otherwise Python would never exit: at its end it sends SIGTERM to the workers and waits for them, but they ignore
    SIGTERM.

    Raises:
        ValueError, OSError: if a worker raised one of these; the message is one line.
        ChildProcessError: if a worker was killed, or found no memory. torch may raise this anywhere in the block.
    """
    batches = iter(loader)
    try:
        yield batches
    except (ValueError, OSError) as error:
        reason = _reason_in_worker(error)
        if reason is None:
            raise
        raise type(error)(f"a loader worker failed: {reason}") from error
    except RuntimeError as error:
        is_full = _reason_in_worker(error) is not None and is_about_memory(error)
        if not (is_full or str(error).startswith("DataLoader worker (pid")):
            raise
        raise ChildProcessError(
            "a loader worker failed or was killed, most often because memory ran out: lower data.num_workers or "
            f"data.patch_size_px ({_reason_in_worker(error) or ' '.join(str(error).split())})"
        ) from error
    finally:
        _end_workers(batches)


def _reason_in_worker(error: Exception) -> str | None:
    """The last line of a worker's traceback, which torch puts into the message; None if no worker raised the error."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines and lines[0].startswith("Caught ") and "in DataLoader worker" in lines[0] else None


def _end_workers(batches: Any) -> None:
    """End the iterator's workers. torch does that when it deletes the iterator, but an error's traceback keeps it."""
    if hasattr(batches, "_shutdown_workers"):  # it has workers
        batches._shutdown_workers()
        for worker in batches._workers:
            worker.kill()  # those that are still busy with a sample


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Signals reach the whole process group, but the trainer finishes its step and needs its workers."""
    for number in (*STOP_SIGNALS, *SAVE_SIGNALS):
        signal.signal(number, signal.SIG_IGN)
