"""The guard against losses and gradients that are not finite: what it stops, and when it looks."""

import math

import pytest
import torch
from torch import Tensor, nn

from engine import finite
from engine.finite import FiniteGuard

CPU = torch.device("cpu")


def values(loss: float = 1.0, norm: float = 2.0) -> dict[str, Tensor]:
    return {"total": torch.tensor(loss, dtype=torch.bfloat16), "gradient norm": torch.tensor(norm)}


@pytest.mark.parametrize(
    ("spoiled", "complaint"),
    [
        ({"loss": math.nan}, "^total is nan at step 7: stopped before the update"),
        ({"norm": math.inf}, "^gradient norm is inf at step 7: stopped before the update"),
        ({"loss": -math.inf, "norm": math.nan}, "^total is -inf at step 7"),
    ],
)
def test_a_number_that_is_not_finite_stops_at_once_and_is_named(spoiled: dict, complaint: str) -> None:
    guard = FiniteGuard(CPU, is_late=False)
    guard.watch(values(), 6)
    assert guard.found_inf == 0
    with pytest.raises(FloatingPointError, match=complaint) as caught:
        guard.watch(values(**spoiled), 7)
    assert guard.found_inf == 1 and "\n" not in str(caught.value)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Numbers on their way to the host: nan until they are waited for, which adds the first of them to this list."""
    waited = []

    def send(numbers: Tensor) -> tuple[Tensor, object]:
        on_host = torch.full_like(numbers, torch.nan)

        def wait() -> None:
            on_host.copy_(numbers)
            waited.append(numbers[0].item())

        return on_host, wait

    monkeypatch.setattr(finite, "_sent_to_host", send)
    return waited


def test_late_numbers_are_waited_for_with_the_next_step(looks: list[float]) -> None:
    guard = FiniteGuard(CPU, is_late=True)
    for step in range(4):
        assert looks == list(range(step - 1))
        guard.watch(values(step), step)
    guard.settle()
    guard.settle()  # nothing is left to read
    assert looks == [0, 1, 2, 3]


def test_a_late_stop_names_the_step_in_question(looks: list[float]) -> None:
    guard = FiniteGuard(CPU, is_late=True)
    guard.watch(values(), 4)
    guard.watch(values(norm=math.inf), 5)  # not seen on the host, but found on the device
    assert guard.found_inf == 1
    with pytest.raises(FloatingPointError, match="^gradient norm is inf at step 5"):
        guard.watch(values(), 6)
    assert guard.found_inf == 1  # for good, whatever came after


def test_settling_reads_the_last_step(looks: list[float]) -> None:
    guard = FiniteGuard(CPU, is_late=True)
    guard.watch(values(math.nan), 5)
    with pytest.raises(FloatingPointError, match="^total is nan at step 5"):
        guard.settle()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_the_optimizer_leaves_all_as_it_is_once_something_was_found(kind: type) -> None:
    layer = nn.Linear(3, 2)
    optimizer = kind(layer.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    guard = FiniteGuard(CPU, is_late=True)
    optimizer.found_inf = guard.found_inf

    def step(factor: float) -> Tensor:
        optimizer.zero_grad()
        (layer(torch.ones(1, 3)).sum() * factor).backward()
        guard.watch({"gradient norm": nn.utils.clip_grad_norm_(layer.parameters(), 1.0)}, 0)
        before = layer.weight.detach().clone()
        optimizer.step()
        return layer.weight.detach() - before

    assert step(1.0).all()
    moments = {name: value.clone() for name, value in optimizer.state[layer.weight].items()}
    assert moments["step"] == 1
    assert not step(math.nan).any() and layer.weight.grad.isnan().all()  # clipped by a norm of nan
    with pytest.raises(FloatingPointError):
        step(1.0)
    torch.testing.assert_close(optimizer.state[layer.weight], moments, rtol=0, atol=0)


def test_the_message_names_the_images_of_its_step() -> None:
    guard = FiniteGuard(CPU, is_late=True)
    guard.files_of = lambda step: [f"set/{step}a.png", f"set/{step}b.png"]
    guard.watch(values(loss=math.nan), 7)
    with pytest.raises(FloatingPointError, match=r"at step 7: .*; images of this step: set/7a\.png, set/7b\.png$"):
        guard.watch(values(), 8)
