"""Optimisers: Adam as torch has it, Muon against plain linear algebra, and the learning rate."""

import copy
from pathlib import Path

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn

from engine import optimizers
from engine.checkpoint import save_checkpoint
from engine.config import OptimConfig
from engine.ema import ExponentialMovingAverage
from engine.optimizers import (
    NEWTON_SCHULZ_COEFFICIENTS,
    NEWTON_SCHULZ_ROUNDS,
    SOAP_LARGEST_SIZE,
    build_average,
    build_optimizer,
    learning_rate,
    orthogonalized,
    set_learning_rate,
)
from engine.run_folder import read_newest
from engine.signals import Stopped
from tests.engine.muon_worker import train_muon
from tests.places import ROOT
from tests.program import run_python

MUON = OptimConfig(name="muon", lr=0.02, momentum=0.9, adam_lr=0.003, betas=(0.8, 0.9), weight_decay=0.1)


class Network(nn.Module):
    """A first and a last convolution, two hidden ones of different shapes, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = nn.Sequential(nn.Conv2d(4, 40, 1), nn.Conv2d(40, 4, 3, padding=1))
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.tail = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.frozen(self.middle(self.head(x))))


def backward(network: nn.Module, step: int) -> None:
    """Gradients of a loss on images that depend on the step alone."""
    images = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(step)).to(network.tail.weight.dtype)
    network.zero_grad()
    (network(images) - 1).square().mean().backward()


def steps(network: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int, *, first: int = 0) -> None:
    for step in range(first, first + num_steps):
        backward(network, step)
        optimizer.step()


def steps_and_a_slower_one(network: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    steps(network, optimizer, num_steps)
    for group in optimizer.param_groups:
        group["lr"] = 0.005
    steps(network, optimizer, 1, first=num_steps)


def after_newton_schulz(values: Tensor) -> Tensor:
    """What the iteration makes of singular values between 0 and 1."""
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        values = a * values + b * values**3 + c * values**5
    return values


def state_of(optimizer: torch.optim.Optimizer) -> dict:
    return copy.deepcopy(optimizer.state_dict()["state"])


def test_learning_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    config = OptimConfig(lr=2.0, lr_warmup_steps=3, final_lr_ratio=0.25)
    assert [learning_rate(config, step, 0.0) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert learning_rate(config, 100, 0.0) == pytest.approx(2.0)
    assert learning_rate(config, 100, 0.5) == pytest.approx(2.0 * (0.25 + 0.75 / 2))
    assert learning_rate(config, 100, 1.0) == pytest.approx(2.0 * 0.25)
    constant = OptimConfig(lr=2.0, schedule="constant", lr_warmup_steps=1)
    assert [learning_rate(constant, step, step / 4) for step in range(4)] == [1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (OptimConfig(lr=0.01, betas=(0.8, 0.9)), torch.optim.Adam),
        (OptimConfig(name="adamw", lr=0.01, betas=(0.8, 0.9), weight_decay=0.1), torch.optim.AdamW),
        (OptimConfig(name="adam", lr=0.01, betas=(0.8, 0.9), weight_decay=0.1), torch.optim.AdamW),
    ],
)
def test_adam_and_adamw_are_torchs_to_the_bit(config: OptimConfig, kind: type[torch.optim.Optimizer]) -> None:
    ours, theirs = Network(), Network()
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(ours, config)
    steps(ours, optimizer, 4)
    set_learning_rate(optimizer, 0.005)
    steps(ours, optimizer, 1, first=4)
    trainable = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    reference = kind(trainable, lr=0.01, betas=(0.8, 0.9), weight_decay=config.weight_decay, fused=True)
    steps_and_a_slower_one(theirs, reference, 4)
    assert type(optimizer) is kind
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


SOAP = OptimConfig(name="soap", lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)


def test_soap_is_the_librarys_and_trains_what_is_trainable() -> None:
    ours, theirs = Network(), Network()
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(ours, SOAP)
    assert optimizer.param_groups[0]["max_precondition_dim"] == SOAP_LARGEST_SIZE  # the estimate counts on it
    steps_and_a_slower_one(ours, optimizer, 12)
    trainable = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    reference = pytorch_optimizer.SOAP(trainable, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    steps_and_a_slower_one(theirs, reference, 12)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


SCHEDULE_FREE = OptimConfig(name="schedule_free", lr=0.01, betas=(0.8, 0.95), weight_decay=0.1, schedule="constant")


def test_schedule_free_trains_as_the_library_and_averages_as_its_eval() -> None:
    ours, theirs = Network(), Network()
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(ours, SCHEDULE_FREE)
    average = build_average(ours, optimizer, SCHEDULE_FREE)
    trainable = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    reference = pytorch_optimizer.ScheduleFreeAdamW(trainable, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    for step in range(6):
        steps(ours, optimizer, 1, first=step)
        average.update()
        steps(theirs, reference, 1, first=step)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
        reference.eval()
        torch.testing.assert_close(average.module.state_dict(), theirs.state_dict(), rtol=0, atol=0)
        reference.train()  # rounds: the two go on apart by a bit
        theirs.load_state_dict(ours.state_dict())
    assert not torch.equal(average.module.head.weight, ours.head.weight)


def test_the_average_of_schedule_free_is_the_mean_of_its_fast_weights(in_float64: None) -> None:
    """At a constant rate x is the plain mean of all z, and y lies between x and z."""
    network = Network().double()
    optimizer = build_optimizer(network, SCHEDULE_FREE)
    average = build_average(network, optimizer, SCHEDULE_FREE)
    average.update()
    torch.testing.assert_close(average.module.state_dict(), network.state_dict(), rtol=0, atol=0)
    fast_weights = []
    for step in range(5):
        steps(network, optimizer, 1, first=step)
        average.update()
        fast_weights.append(optimizer.state[network.head.weight]["z"].clone())
    torch.testing.assert_close(average.module.head.weight, torch.stack(fast_weights).mean(dim=0))
    expected = 0.8 * average.module.head.weight + 0.2 * fast_weights[-1]
    torch.testing.assert_close(network.head.weight, expected)


def test_only_what_averages_has_an_average() -> None:
    network = Network()
    optimizer = build_optimizer(network, OptimConfig())
    assert build_average(network, optimizer, OptimConfig()) is None
    moving = build_average(network, optimizer, OptimConfig(ema_decay=0.9))
    assert isinstance(moving, ExponentialMovingAverage) and moving.decay == 0.9


def test_soap_goes_on_from_a_checkpoint_to_the_bit(tmp_path: Path) -> None:
    whole, parts, resumed = Network(), Network(), Network()
    for network in (parts, resumed):
        network.load_state_dict(whole.state_dict())
    steps(whole, build_optimizer(whole, SOAP), 25)  # the eigenbases change in steps 10 and 20
    first = build_optimizer(parts, SOAP)
    steps(parts, first, 13)
    save_checkpoint(tmp_path / "checkpoint.pt", {"optimizer": first.state_dict(), "module": parts.state_dict()})
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed.load_state_dict(state["module"])
    second = build_optimizer(resumed, SOAP)
    second.load_state_dict(state["optimizer"])
    steps(resumed, second, 12, first=13)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "iteration_dtype", lambda device: torch.float64)


SHAPES = [(3, 8, 8), (2, 5, 30), (2, 30, 5), (1, 1, 9)]


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalized_changes_the_singular_values_alone(shape: tuple[int, int, int], in_float64: None) -> None:
    matrices = 1000 * torch.randn(shape).double()
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    values = after_newton_schulz(values / values.norm(dim=1, keepdim=True))
    torch.testing.assert_close(orthogonalized(matrices), left @ torch.diag_embed(values) @ right, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES[1:])  # a square random matrix has values near zero, which stay below one
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_orthogonalized_is_near_the_nearest_orthogonal_matrix(
    shape: tuple[int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizers, "iteration_dtype", lambda device: dtype)
    matrices = 1000 * torch.randn(shape)
    found = orthogonalized(matrices)
    assert found.dtype == torch.float32 and found.shape == shape
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    # The iteration leaves values within 0.68 to 1.14; bfloat16 adds 0.004 of terms as large as 5, in five rounds.
    assert torch.linalg.matrix_norm(found - left @ right, ord=2).max() < 0.32 + 0.1


def test_muon_trains_hidden_convolutions_and_adam_all_else() -> None:
    network = Network()
    muon, by_adam = build_optimizer(network, MUON).param_groups
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert [names[id(value)] for value in muon["params"]] == ["middle.0.weight", "middle.1.weight"]
    assert [names[id(value)] for value in by_adam["params"]] == [
        "head.weight", "head.bias", "middle.0.bias", "middle.1.bias", "tail.weight", "tail.bias",
    ]  # fmt: skip


def test_steps_of_muon_equal_a_slow_muon_and_torchs_adamw(in_float64: None) -> None:
    network, reference = Network().double(), Network().double()
    reference.load_state_dict(network.state_dict())
    before = copy.deepcopy(network.state_dict())
    hidden = {"middle.0.weight": (40, 4), "middle.1.weight": (4, 360)}
    others = [value for name, value in reference.named_parameters() if value.requires_grad and name not in hidden]
    adamw = torch.optim.AdamW(others, lr=0.003, betas=(0.8, 0.9), weight_decay=0.1)
    averages = {name: torch.zeros(shape).double() for name, shape in hidden.items()}
    for step in range(5):
        backward(reference, step)
        adamw.step()
        for name, (rows, columns) in hidden.items():
            weight = reference.get_parameter(name)
            gradient = weight.grad.reshape(rows, columns)
            averages[name] = 0.9 * averages[name] + 0.1 * gradient
            left, values, right = torch.linalg.svd(0.1 * gradient + 0.9 * averages[name], full_matrices=False)
            update = left @ torch.diag(after_newton_schulz(values / values.norm())) @ right
            update = update * max(1, rows / columns) ** 0.5
            weight.data = weight.data * (1 - 0.02 * 0.1) - 0.02 * update.reshape(weight.shape)
    steps(network, build_optimizer(network, MUON), 5)
    # Ours adds 1e-7 to the norm that it divides by; that of these gradients is above 0.01.
    torch.testing.assert_close(network.state_dict(), reference.state_dict(), rtol=0, atol=1e-5)
    assert (network.middle[0].weight - before["middle.0.weight"]).abs().max() > 0.02
    torch.testing.assert_close(network.frozen.weight, before["frozen.weight"], rtol=0, atol=0)


@pytest.mark.parametrize(
    "config",
    [OptimConfig(), OptimConfig(weight_decay=0.1), MUON, SOAP, SCHEDULE_FREE],
    ids=["adam", "adamw", "muon", "soap", "schedule_free"],
)
@pytest.mark.parametrize("num_steps_before", [0, 2])
def test_found_inf_leaves_weights_and_state_alone(config: OptimConfig, num_steps_before: int) -> None:
    network = Network()
    optimizer = build_optimizer(network, config)
    optimizer.found_inf = torch.zeros(())
    steps(network, optimizer, num_steps_before)
    weights, state = copy.deepcopy(network.state_dict()), state_of(optimizer)
    optimizer.found_inf.fill_(1)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.step()
    torch.testing.assert_close(network.state_dict(), weights, rtol=0, atol=0)
    if num_steps_before:
        torch.testing.assert_close(state_of(optimizer), state, rtol=0, atol=0)
    else:
        assert not any(value.any() for values in state_of(optimizer).values() for value in values.values())


def test_parameters_without_a_gradient_stay_as_they_are() -> None:
    network = Network()
    optimizer = build_optimizer(network, MUON)
    before = copy.deepcopy(network.state_dict())
    optimizer.step()
    network.head.bias.grad = torch.ones(4)
    optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.bias"}


def test_a_rate_is_shared_out_among_the_groups() -> None:
    optimizer = build_optimizer(Network(), MUON)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.003]
    set_learning_rate(optimizer, 0.01)  # half of the peak
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, pytest.approx(0.0015)]


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optim\.adam_layers names 'stem', but no trainable layer has this name"):
        build_optimizer(Network(), OptimConfig(name="muon", adam_layers=("head", "stem")))


def test_muon_resumes_exactly(tmp_path: Path) -> None:
    whole = train_muon(tmp_path / "whole", max_steps=4)
    with pytest.raises(Stopped):
        train_muon(tmp_path / "parts", max_steps=4, stop_at=2)
    parts = train_muon(tmp_path / "parts", max_steps=4, resume=True)
    torch.testing.assert_close(parts["module"], whole["module"], rtol=0, atol=0)
    torch.testing.assert_close(parts["optimizer"], whole["optimizer"], rtol=0, atol=0)


def test_a_checkpoint_of_muon_from_before_the_fused_flag_goes_on(tmp_path: Path) -> None:
    whole = train_muon(tmp_path / "whole", max_steps=4)
    with pytest.raises(Stopped):
        train_muon(tmp_path / "parts", max_steps=4, stop_at=2)
    path, state = read_newest(tmp_path / "parts", stage="images")
    assert state["optimizer"]["param_groups"][1].pop("fused")
    save_checkpoint(path, state)
    parts = train_muon(tmp_path / "parts", max_steps=4, resume=True)
    torch.testing.assert_close(parts["module"], whole["module"], rtol=0, atol=0)
    assert parts["optimizer"]["param_groups"][1]["fused"]


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_train_with_muon_as_one_does(tmp_path: Path) -> None:
    alone = train_muon(tmp_path / "alone", max_steps=4)
    done = run_python(ROOT / "tests" / "engine" / "muon_worker.py", tmp_path / "pair", num_processes=2)
    assert done.returncode == 0, done.stderr
    pair = read_newest(tmp_path / "pair", stage="images")[1]
    # Gradients are summed in another order, and Muon rounds them to bfloat16: a hundredth of four steps of 0.02.
    torch.testing.assert_close(pair["module"], alone["module"], rtol=0, atol=1e-3)
