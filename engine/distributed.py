"""The processes of a run: rank and device of this one, and what all do together. One process needs no set-up."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from common.machine import choose_device
from engine.network import choose_interface

Result = TypeVar("Result")

TIMEOUT_SECONDS = 3600.0  # `TrainerConfig` has the same default


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
def process_group(device: str = "auto", *, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[Process]:
    """The run's processes as torchrun started them, or this one alone.

    Tensors on a GPU are sent by nccl, tensors on the CPU by gloo. With both, the hosts can agree when to stop without
    waiting for their GPUs.

    Args:
        device: "auto" (CUDA where there is one), "cuda" or "cpu".
        timeout_seconds: the longest wait for another process.

    Raises:
        ValueError: if "cuda" is asked for and there is none, if the name is unknown, or if this machine has fewer GPUs
            than processes.
        ConnectionError: if another process has ended or does not answer.
    """
    world_size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", _own_card())
        torch.cuda.set_device(chosen)
    if world_size == 1:
        yield Process(0, 1, chosen)
        return
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    choose_interface()
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
        yield Process(rank, world_size, chosen)
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo/" in str(error)):
            raise
        raise ConnectionError(
            f"process {rank} lost another one: it ended, or did not answer for {timeout_seconds:g} s "
            f"(in training: trainer.timeout_seconds); its own message says why ({' '.join(str(error).split())[:150]})"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _own_card() -> int:
    """The GPU of this process: its number among the processes of this machine."""
    local_rank, num_cards = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local_rank >= num_cards:
        raise ValueError(
            f"process {local_rank} of this machine has no GPU, torch sees {num_cards} (counting from 0): start "
            f"torchrun with --nproc_per_node={num_cards}, or train with trainer.device cpu"
        )
    return local_rank


def from_main(read: Callable[[], Result]) -> Result:
    """What `read` returns on rank 0, on every rank. The other machines need not have the files that it reads.

    Raises:
        ValueError, OSError: on every rank, if `read` raises it on rank 0.
    """
    if not dist.is_initialized():
        return read()
    answer: list = [None, None]
    if dist.get_rank() == 0:
        try:
            answer[0] = read()
        except (ValueError, OSError) as error:
            answer[1] = error
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


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
    return sum_over_ranks(value) / dist.get_world_size() if dist.is_initialized() else value


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks. No gradient flows."""
    if not dist.is_initialized():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


class Dealt(NamedTuple):
    """Rows of all ranks, dealt out at random: this rank's new rows, and the way back.

    Args:
        rows: as many as before.
        order: (world_size * N,): `gather_rows(f(rows))[order]` has the results in rank order again.
        own: (N,): `gather_rows(f(rows))[own]` has those of the rows that this rank had before.
    """

    rows: Tensor
    order: Tensor
    own: Tensor


def dealt_over_ranks(rows: Tensor) -> Dealt:
    """Deal the rows of all ranks, (N, ...) each, out among them at random: rank 0 draws from torch's generator."""
    if not dist.is_initialized():
        order = torch.arange(len(rows), device=rows.device)
        return Dealt(rows, order, order)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    everything = gather_rows(rows)
    places = torch.randperm(len(everything)).to(rows.device)
    dist.broadcast(places, src=0)
    order = places.argsort()
    return Dealt(everything[places.chunk(world_size)[rank]], order, order.chunk(world_size)[rank])


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
