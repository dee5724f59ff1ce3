"""What a training step costs in arithmetic and memory, worked out without computing it.

The step runs on fake tensors, which have a shape and a type but no numbers. Every tensor that it makes is counted from
its birth to its end, as an allocator would.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from common.machine import autocast
from engine.config import OptimConfig
from engine.optimizers import SOAP_LARGEST_SIZE, is_for_muon

CPU = torch.device("cpu")
FLOAT_BYTES = 4  # of a weight, of its gradient and of each number that an optimiser keeps for it


@dataclass(frozen=True)
class StepCost:
    """The cost of one training step on one device.

    Args:
        num_trained: numbers that are trained.
        num_frozen: other parameters.
        forward_macs: multiply-accumulates of the forward pass's convolutions and matrix products.
        total_flops: operations of both passes, two for a multiply-accumulate.
        kept_bytes: what stays between steps: weights, buffers, the optimiser's state, averaged weights.
        step_bytes: the largest sum of what a step makes itself: activations and gradients.
    """

    num_trained: int
    num_frozen: int
    forward_macs: int
    total_flops: int
    kept_bytes: int
    step_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Memory at the peak. An estimate: without work space of kernels, the allocator's rounding and CUDA itself."""
        return self.kept_bytes + self.step_bytes


def step_cost(
    module: nn.Module,
    to_inputs: Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]],
    batch: Mapping[str, Tensor],
    *,
    optim: OptimConfig,
    dtype: torch.dtype,
    num_parts: int = 1,
) -> StepCost:
    """The cost of a step. The module is not changed and computes nothing.

    Args:
        module: as `engine.stage.Stage.module`.
        to_inputs: as `Stage.inputs`.
        batch: of one device. Only shapes and types are read, so it may be on the meta device.
        optim: says what is kept for each trained number.
        dtype: of autocast.
        num_parts: how many such batches make a step, one after the other (`trainer.micro_batches`).
    """
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with FakeTensorMode() as mode:
        fakes = {f"module.{name}": mode.from_tensor(tensor) for name, tensor in state.items()}
        inputs = to_inputs({name: torch.empty(value.shape, dtype=value.dtype) for name, value in batch.items()})
        with _Counter() as counter:
            forward_flops = functional_call(_BothPasses(module), fakes, (inputs, dtype, counter))
    num_trained = sum(parameter.numel() for parameter in trained.values())
    # Of earlier parts, to which later ones are added.
    gradient_bytes = FLOAT_BYTES * num_trained if num_parts > 1 else 0
    return StepCost(
        num_trained=num_trained,
        num_frozen=sum(parameter.numel() for parameter in module.parameters()) - num_trained,
        forward_macs=forward_flops // 2,
        total_flops=num_parts * counter.flops,
        kept_bytes=sum(tensor.nbytes for tensor in state.values()) + FLOAT_BYTES * _num_kept(trained, optim),
        step_bytes=counter.peak + sum(num_parts * tensor.nbytes for tensor in inputs) + gradient_bytes,
    )


class _BothPasses(nn.Module):
    """Both passes of a module in one call: parts of a network may be computed again in the backward pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: tuple[Tensor, ...], dtype: torch.dtype, counter: "_Counter") -> int:
        """Returns the operations of the forward pass."""
        with autocast(CPU, dtype):
            total = self.module(*inputs)["total"]
        forward_flops = counter.flops
        total.backward()
        return forward_flops


def _num_kept(trained: Mapping[str, nn.Parameter], optim: OptimConfig) -> int:
    """Numbers in the optimiser's state and in the average.

    Muon keeps one for a number that it trains, all others two. SOAP keeps two square matrices more for each dimension.
    """
    num_kept = 0
    for name, parameter in trained.items():
        copies = optim.has_average + (1 if is_for_muon(name, parameter, optim) else 2)
        num_kept += copies * parameter.numel()
        if optim.name == "soap" and parameter.ndim > 1:
            num_kept += 2 * sum(size**2 for size in parameter.shape if size <= SOAP_LARGEST_SIZE)
    return num_kept


class _Counter(TorchDispatchMode):
    """Counts the operations inside the block, and the bytes of all tensors made there that are alive.

    `torch.utils.flop_counter.FlopCounterMode` is not used beside it: it keeps tensors alive.

    Attributes:
        flops: operations of convolutions and matrix products, two for a multiply-accumulate.
        peak: the largest sum of bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.peak = self._now = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        operation = getattr(function, "overloadpacket", None)
        if operation in flop_registry:
            self.flops += flop_registry[operation](*args, **(kwargs or {}), out_val=made)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:  # a view shares the storage of its base
            self._alive.add(key)
            self._now += size
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._now -= size
