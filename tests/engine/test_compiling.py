"""Compiled training: the same numbers, and eager training where compiling fails."""

import logging
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from engine.compiling import compiled

CPU = torch.device("cpu")


class Counting(nn.Module):
    """A layer with normalisation, whose buffers change with each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        error = self.norm(self.layer(x)) * self.frozen - y
        return {"total": error.square().mean(), "mae": error.abs().mean()}


def steps(module: nn.Module, call: nn.Module, num_steps: int = 3) -> list[float]:
    """Losses of a few steps; `call` is the module or what stands for it."""
    optimizer = torch.optim.SGD([value for value in module.parameters() if value.requires_grad], lr=0.1)
    losses = []
    for step in range(num_steps):
        generator = torch.Generator().manual_seed(step)
        terms = call(torch.rand(5, 3, generator=generator), torch.rand(5, 2, generator=generator))
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        losses += [terms["total"].item(), terms["mae"].item()]
    return losses


def as_uncompiled(call: Callable[[nn.Module], nn.Module]) -> tuple[dict, dict]:
    """What a module has become, called as it is and by what `call` makes of it: losses and state."""
    ends = []
    for choice in (lambda module: module, call):
        torch.manual_seed(0)
        module = Counting()
        losses = steps(module, choice(module))
        ends.append({"losses": losses, "state": dict(module.state_dict())})
    return ends[0], ends[1]


def test_the_cpu_compiles_where_it_is_told_to_and_only_there() -> None:
    module = Counting()
    assert compiled(module, False, CPU) is module and compiled(module, "auto", CPU) is module
    assert compiled(module, "auto", torch.device("cuda")) is not module
    assert list(compiled(module, True, CPU).parameters()) == list(module.parameters())


@pytest.mark.parametrize("is_compiled", [True, False])
def test_the_first_call_finds_out_whether_calls_are_compiled(
    monkeypatch: pytest.MonkeyPatch, is_compiled: bool
) -> None:
    def failing(*inputs: Tensor) -> dict[str, Tensor]:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function, **options: function if is_compiled else failing)
    module = compiled(Counting(), True, CPU)
    assert not module.is_compiled
    module(torch.rand(5, 3), torch.rand(5, 2))
    assert module.is_compiled == is_compiled


def test_the_first_calls_trial_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compile_it(function: Callable, **options: object) -> Callable:
        return lambda *inputs: calls.append(inputs) or function(*inputs)

    monkeypatch.setattr(torch, "compile", compile_it)
    expected, found = as_uncompiled(lambda module: compiled(module, True, CPU))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert found["state"]["norm.num_batches_tracked"] == 3 and len(calls) == 4


@pytest.mark.parametrize("fails_in", ["forward", "backward"])
def test_where_compiling_fails_training_goes_on_without_and_says_why(
    fails_in: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(context: object, total: Tensor) -> Tensor:
            if fails_in == "forward":
                raise RuntimeError("no C++ compiler\nwas found")
            return total.clone()

        @staticmethod
        def backward(context: object, gradient: Tensor) -> Tensor:
            raise RuntimeError("no C++ compiler\nwas found")

    def compile_it(function: Callable, **options: object) -> Callable:
        return lambda *inputs: {"total": Failing.apply(function(*inputs)["total"])}

    monkeypatch.setattr(torch, "compile", compile_it)
    with caplog.at_level(logging.INFO):
        expected, found = as_uncompiled(lambda module: compiled(module, True, CPU))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert [record.getMessage() for record in caplog.records] == [
        "not compiled, training goes on without (RuntimeError: no C++ compiler was found)"
    ]


def test_an_error_of_the_module_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    with pytest.raises(RuntimeError, match="size of tensor"):
        compiled(Counting(), True, CPU)(torch.rand(5, 3), torch.rand(5, 7))


@pytest.mark.slow
def test_compiled_steps_equal_eager_ones(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        expected, found = as_uncompiled(lambda module: compiled(module, True, CPU))
    # Equal also where there is no C++ compiler, since training then goes on without.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    message = next(record.getMessage() for record in caplog.records if record.name == "engine.compiling")
    assert message.startswith("compiled in" if shutil.which("g++") else ("compiled in", "not compiled"))
