"""Batches of a training set by global step, so that any step of any run can be drawn again."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

PREFETCHED_BATCHES = 4  # of each worker, which fills them while a validation runs; uint8: a few megabytes each


class StepSampler(Sampler):
    """The positions (epoch, index) of one rank's share of each global batch, from a step on.

    An epoch has `len(dataset) // batch_size` steps; the few images left over change from epoch to epoch with the order.

    Args:
        num_samples: images of an epoch.
        batch_size: samples of one step over all ranks.
        rank, world_size: which consecutive share of each batch to yield.
        first_step, last_step: global steps to yield, the last one excluded.

    Raises:
        ValueError: if the batch is larger than the epoch, or does not divide among the ranks.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, rank: int, world_size: int, first_step: int, last_step: int
    ) -> None:
        if batch_size % world_size:
            raise ValueError(f"data.batch_size ({batch_size}) must be a multiple of the {world_size} processes")
        if num_samples < batch_size:
            raise ValueError(
                f"data.batch_size is {batch_size}, but the training set has only {num_samples} images: "
                f"lower it or add images"
            )
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

    It is passed through once in a run, so its workers live as long as it does.

    Args:
        dataset: has a length, and answers positions (epoch, index).
        first_step, last_step: global steps, the last one excluded.
        batch_size: samples of one step over all ranks.
        num_workers: loader processes of this rank; 0 loads in the process itself.
        rank, world_size: which share of each batch is this process's.
        pin_memory: batches in memory from which a GPU copies without waiting.

    Raises:
        ValueError: as `StepSampler`.
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
        generator=torch.Generator(),  # its own: a resumed run must not draw a second time from the global one
        worker_init_fn=_leave_signals_to_the_trainer,
    )


@contextmanager
def batches_of(loader: Iterable) -> Iterator[Iterator]:
    """The loader's batches; its workers have ended when the block is left, whatever ended it.

    Python would wait for them for ever when it exits: it ends them by SIGTERM, which they ignore.

    Raises:
        ValueError, OSError: one line with what a worker raised, where it was an error of one of these types.
        ChildProcessError: if a worker was killed. The error may come up anywhere in the block.
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
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise ChildProcessError(
            "a loader worker was killed, most often because memory ran out: lower data.num_workers or "
            f"data.patch_size_px ({' '.join(str(error).split())})"
        ) from error
    finally:
        _end_workers(batches)


def _reason_in_worker(error: Exception) -> str | None:
    """The last line of a worker's traceback, which torch puts into the message; None where no worker raised it."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines and lines[0].startswith("Caught ") and "in DataLoader worker" in lines[0] else None


def _end_workers(batches: Any) -> None:
    """torch has no public way to end them, and an error's traceback keeps the iterator alive, which would do it."""
    if hasattr(batches, "_shutdown_workers"):  # it has workers
        batches._shutdown_workers()
        for worker in batches._workers:
            worker.kill()  # one that is still busy with a sample


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C and SIGTERM reach a whole process group; the trainer stops after its step and needs the batch in hand."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
