"""The processes of a run: rank and device of this one, and what all do together. One process needs no set-up."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from common.machine import choose_device

Result = TypeVar("Result")

VALIDATION_TIMEOUT = timedelta(hours=1)  # the other ranks wait while rank 0 validates


@dataclass(frozen=True)
class Process:
    """This process among those of the run, and the device it trains on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


@contextmanager
def process_group(device: str = "auto") -> Iterator[Process]:
    """The run's processes as torchrun started them, or this one alone.

    Tensors on a GPU are sent by nccl, tensors on the CPU by gloo. With both, the hosts can agree when to stop without
    waiting for their GPUs.

    Args:
        device: "auto" (CUDA where there is one), "cuda" or "cpu".

    Raises:
        ValueError: if "cuda" is asked for and there is none, or if the name is unknown.
    """
    world_size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(chosen)
    if world_size == 1:
        yield Process(0, 1, chosen)
        return
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=VALIDATION_TIMEOUT)
    try:
        yield Process(rank, world_size, chosen)
    finally:
        dist.destroy_process_group()


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks, in rank order, on every rank: (N, D) -> (world_size * N, D). No gradient flows."""
    if not dist.is_initialized():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def results_over_ranks(function: Callable[[int], Result], count: int) -> list[Result]:
    """`function` of 0..count-1, computed by all ranks, each its share. Rank 0 gets the results in order, the others [].

    The results travel between the ranks, so they must be picklable.
    """
    if not dist.is_initialized():
        return [function(index) for index in range(count)]
    rank, world_size = dist.get_rank(), dist.get_world_size()
    own = {index: function(index) for index in range(rank, count, world_size)}
    parts = [None] * world_size if rank == 0 else None
    dist.gather_object(own, parts)
    found = {index: result for part in parts or [] for index, result in part.items()}
    return [found[index] for index in sorted(found)]


def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Give every rank the values that rank 0 has in these tensors, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all ranks."""
    if not dist.is_initialized():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def largest_over_ranks(*values: float) -> list[float]:
    """The largest of the ranks' values, for each argument. The hosts do this alone; no GPU is involved."""
    if not dist.is_initialized():
        return list(values)
    largest = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest.tolist()


def is_main_process() -> bool:
    """Whether this is rank 0, or the only process."""
    return not dist.is_initialized() or dist.get_rank() == 0


def share_of(items: Sequence[Result]) -> Sequence[Result]:
    """This rank's share of a list that every rank has: every world_size-th item, from the rank's own on."""
    return items[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else items


def gather_objects(value: Result) -> list[Result]:
    """The values of all ranks, in rank order, on every rank; anything that can be pickled. The hosts do this alone.

    Within `failing_together`, this rank ends here if another one has failed.
    """
    if not dist.is_initialized():
        return [value]
    gathered = _exchange((True, value))
    if not all(is_fine for is_fine, _ in gathered):
        sys.exit()
    return [value for _, value in gathered]


@contextmanager
def failing_together() -> Iterator[None]:
    """A block that all ranks leave together: if some fail in it, the first of them raises its error.

    The others exit without a word, and with status 0, so that torchrun waits for the one that has an error to tell.
    Inside the block, ranks wait for each other only by `gather_objects`, as often on every rank.
    """
    try:
        yield
    except Exception:
        if dist.is_initialized():
            first_failed = [is_fine for is_fine, _ in _exchange((False, None))].index(False)
            if first_failed != dist.get_rank():
                sys.exit()
        raise
    gather_objects(None)


def _exchange(value: tuple[bool, Result]) -> list[tuple[bool, Result]]:
    gathered: list = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def wait_for_all() -> None:
    """Wait until every rank has reached this call."""
    if dist.is_initialized():
        dist.barrier()
