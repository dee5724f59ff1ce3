"""InfoNCE: closed forms, a slow loop in double precision, and where gradients go."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losses.contrastive import info_nce


def unit_rows(num_rows: int, size: int = 6) -> Tensor:
    return F.normalize(torch.randn(num_rows, size), dim=1)


def slow_info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """The sum as it is printed, term by term."""
    total = queries.new_zeros(())
    for query, key in zip(queries, keys, strict=True):
        positive = torch.exp(query @ key / temperature)
        others = sum(torch.exp(query @ negative / temperature) for negative in negatives)
        total = total - torch.log(positive / (positive + others))
    return total / len(queries)


@pytest.mark.parametrize("num_negatives", [1, 7, 100])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equal_similarities_give_log_of_the_number_of_choices(num_negatives: int, temperature: float) -> None:
    row = unit_rows(1)
    loss = info_nce(row.expand(3, -1), row.expand(3, -1), row.expand(num_negatives, -1), temperature=temperature)
    assert loss.item() == pytest.approx(math.log(num_negatives + 1), rel=1e-6)


def test_perfect_keys_among_orthogonal_negatives() -> None:
    axes = torch.eye(8)
    loss = info_nce(axes[:3], axes[:3], axes[3:], temperature=0.5)
    assert loss.item() == pytest.approx(math.log(1 + 5 * math.exp(-1 / 0.5)), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_loss_and_gradient_agree_with_a_slow_loop(temperature: float) -> None:
    queries, keys, negatives = unit_rows(5).requires_grad_(), unit_rows(5), unit_rows(9)
    exact = queries.detach().double().requires_grad_()
    expected = slow_info_nce(exact, keys.double(), negatives.double(), temperature)
    loss = info_nce(queries, keys, negatives, temperature=temperature)
    # float32 against float64: logits up to 1/0.07 carry an error of 14 * 6e-8, which the loss and its gradient inherit.
    torch.testing.assert_close(loss, expected.float(), rtol=5e-6, atol=5e-6)
    (gradient,), (exact_gradient,) = torch.autograd.grad(loss, queries), torch.autograd.grad(expected, exact)
    torch.testing.assert_close(gradient, exact_gradient.float(), rtol=2e-5, atol=2e-5)


def test_the_order_of_negatives_and_of_samples_does_not_matter() -> None:
    queries, keys, negatives = unit_rows(5), unit_rows(5), unit_rows(9)
    loss = info_nce(queries, keys, negatives, temperature=0.1)
    order = torch.randperm(5)
    shuffled = info_nce(queries[order], keys[order], negatives[torch.randperm(9)], temperature=0.1)
    torch.testing.assert_close(shuffled, loss)
    assert not torch.isclose(info_nce(queries[order], keys, negatives, temperature=0.1), loss)


def test_only_queries_receive_a_gradient() -> None:
    queries, keys, negatives = (unit_rows(count).requires_grad_() for count in (4, 4, 6))
    info_nce(queries, keys, negatives, temperature=0.1).backward()
    assert queries.grad.isfinite().all() and queries.grad.abs().sum() > 0
    assert keys.grad is None and negatives.grad is None


def test_half_precision_rows_are_computed_in_float32() -> None:
    rows = [unit_rows(count).bfloat16() for count in (4, 4, 6)]
    loss = info_nce(*rows, temperature=0.07)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, info_nce(*(row.float() for row in rows), temperature=0.07), rtol=0, atol=0)


def test_extreme_similarities_stay_finite() -> None:
    row = unit_rows(1)
    loss = info_nce(row, -row, row.expand(3, -1), temperature=1e-3)
    assert loss.item() == pytest.approx(2000 + math.log(3), rel=1e-6)


@pytest.mark.parametrize(
    ("shapes", "complaint"),
    [
        (((4, 6), (3, 6), (5, 6)), r"must both be \(N, D\) .* got \(4, 6\), \(3, 6\) and \(5, 6\)"),
        (((6,), (6,), (5, 6)), r"must both be \(N, D\) .* got \(6,\), \(6,\) and \(5, 6\)"),
        (((4, 6), (4, 6), (6,)), r"negatives \(K, D\), got .* and \(6,\)"),
        (((4, 6), (4, 6), (5, 7)), "negatives must have 6 columns as the queries do, got 7"),
    ],
)
def test_shapes_that_disagree_are_named(shapes: tuple[tuple[int, ...], ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        info_nce(*(torch.ones(shape) for shape in shapes), temperature=0.1)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be > 0, got {temperature}"):
        info_nce(unit_rows(2), unit_rows(2), unit_rows(3), temperature=temperature)
