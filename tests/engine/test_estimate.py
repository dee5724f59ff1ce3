"""The cost of a step, against what can be counted by hand."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from engine.config import OptimConfig
from engine.estimate import StepCost, step_cost
from engine.optimizers import build_optimizer
from tests.engine.muon_worker import Objective

SIZE = 32
NUM_NUMBERS = 2 * SIZE * SIZE
NUM_BYTES = 4 * NUM_NUMBERS


class Chain(nn.Module):
    """A product with a weight and a number of sigmoids, each of which keeps its output for the backward pass."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.frozen = nn.Parameter(torch.zeros(7), requires_grad=False)
        self.length = length

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.weight + x
        for _ in range(self.length):
            x = x.sigmoid()
        return {"total": x.sum()}


def inputs(batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return (batch["x"].float() / 255,)


def cost(module: nn.Module, *, dtype: torch.dtype = torch.float32, **optim) -> StepCost:
    batch = {"x": torch.empty(2, 1, SIZE, SIZE, dtype=torch.uint8, device="meta")}
    return step_cost(module, inputs, batch, optim=OptimConfig(**optim), dtype=dtype)


@pytest.mark.parametrize("length", [1, 5])
def test_the_peak_is_what_is_kept_for_the_backward_pass_and_one_gradient(length: int) -> None:
    found = cost(Chain(length))
    # The input, the outputs of the sigmoids, and the gradient of the last one's input. The sum before the first sigmoid
    # is gone by then, unless there is no other. Scalars take a few bytes more.
    tensors = 1 + length + 1
    assert tensors * NUM_BYTES <= found.step_bytes <= tensors * NUM_BYTES + 64
    assert (found.num_trained, found.num_frozen) == (1, 7)


def test_the_arithmetic_is_that_of_the_convolutions() -> None:
    found = cost(Objective())
    macs = [9 * channels * NUM_NUMBERS for channels in (1 * 6, 6 * 6, 6 * 1)]
    assert found.forward_macs == sum(macs)
    # The backward pass does it again for each weight, and for each input but the first layer's.
    assert found.total_flops == 2 * (3 * sum(macs) - macs[0])


@pytest.mark.parametrize(
    ("optim", "copies"),
    [
        ({}, 2),
        ({"ema_decay": 0.9}, 3),
        ({"name": "muon"}, 1),
        ({"name": "muon", "ema_decay": 0.9}, 2),
        ({"name": "schedule_free", "schedule": "constant"}, 3),
    ],
)
def test_weights_and_the_optimisers_state_are_kept(optim: dict, copies: int) -> None:
    module = Objective()
    of_adam = [*module.head.parameters(), *module.tail.parameters(), module.body.bias]
    numbers = (1 + copies) * sum(parameter.numel() for parameter in module.parameters())
    numbers += sum(parameter.numel() for parameter in of_adam) if optim.get("name") == "muon" else 0
    assert cost(module, **optim).kept_bytes == 4 * numbers


def test_soaps_matrices_are_counted() -> None:
    module, optim = Objective(), OptimConfig(name="soap", betas=(0.95, 0.95))
    optimizer = build_optimizer(module, optim)
    for _ in range(2):  # it makes its matrices in the first step, and their eigenvectors too
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    tensors = [tensor for tensor in tree_leaves(optimizer.state_dict()["state"]) if isinstance(tensor, torch.Tensor)]
    kept = sum(tensor.numel() for tensor in tensors) + sum(parameter.numel() for parameter in module.parameters())
    assert cost(module, name="soap", betas=(0.95, 0.95)).kept_bytes == 4 * kept


def test_half_precision_needs_less_and_nothing_is_computed() -> None:
    module = Objective()
    assert cost(module, dtype=torch.bfloat16).step_bytes < 0.8 * cost(module).step_bytes
    assert all(parameter.grad is None and type(parameter) is nn.Parameter for parameter in module.parameters())


def test_parts_add_up_in_arithmetic_and_share_memory() -> None:
    batch = {"x": torch.empty(2, 1, SIZE, SIZE, dtype=torch.uint8, device="meta")}
    one, three = (
        step_cost(Objective(), inputs, batch, optim=OptimConfig(), dtype=torch.float32, num_parts=parts)
        for parts in (1, 3)
    )
    assert three.total_flops == 3 * one.total_flops and three.kept_bytes == one.kept_bytes
    # The inputs of two more parts wait, and the gradients of earlier parts.
    assert three.step_bytes - one.step_bytes == 2 * NUM_BYTES + 4 * one.num_trained
