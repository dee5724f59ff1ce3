"""InfoNCE with one positive and with several: closed forms, slow loops in double precision, where gradients go."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losses.contrastive import info_nce, multi_positive_info_nce


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


def slow_multi_positive(queries: Tensor, keys: Tensor, is_positive: Tensor, temperature: float) -> Tensor:
    """For each query the mean over its positives of -log of the positive's share among all keys, term by term."""
    total = queries.new_zeros(())
    for query, positives in zip(queries, is_positive.tolist(), strict=True):
        weights = [torch.exp(query @ key / temperature) for key in keys]
        terms = [-torch.log(weight / sum(weights)) for weight, is_one in zip(weights, positives, strict=True) if is_one]
        total = total + sum(terms) / len(terms)
    return total / len(queries)


def assert_agree(loss: Tensor, queries: Tensor, expected: Tensor, exact: Tensor) -> None:
    """A loss and its gradient for `queries` are those in double precision, `expected` of `exact`."""
    # float32 against float64: logits up to 1/0.07 carry an error of 14 * 6e-8, which the loss and its gradient inherit.
    torch.testing.assert_close(loss, expected.float(), rtol=5e-6, atol=5e-6)
    (gradient,), (exact_gradient,) = torch.autograd.grad(loss, queries), torch.autograd.grad(expected, exact)
    torch.testing.assert_close(gradient, exact_gradient.float(), rtol=2e-5, atol=2e-5)


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
    assert_agree(loss, queries, expected, exact)


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
    is_positive = torch.tensor([[True, False, False, False]])
    for loss in (
        info_nce(row, -row, row.expand(3, -1), temperature=1e-3),
        multi_positive_info_nce(row, torch.cat([-row, row, row, row]), is_positive, temperature=1e-3),
    ):
        assert loss.item() == pytest.approx(2000 + math.log(3), rel=1e-6)


def test_negatives_that_do_not_count_are_as_if_taken_out() -> None:
    queries, keys, negatives = unit_rows(5).requires_grad_(), unit_rows(5), unit_rows(9)
    is_negative = torch.rand(5, 9) < 0.5
    assert is_negative.any(dim=1).all() and not is_negative.all(dim=1).any()
    loss = info_nce(queries, keys, negatives, temperature=0.2, is_negative=is_negative)
    each = [
        info_nce(queries[[row]], keys[[row]], negatives[is_negative[row]], temperature=0.2)
        for row in range(len(queries))
    ]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    gradient, expected = (torch.autograd.grad(value, queries)[0] for value in (loss, torch.stack(each).mean()))
    torch.testing.assert_close(gradient, expected)


def test_all_negatives_count_where_none_is_left_out() -> None:
    queries, keys, negatives = unit_rows(5), unit_rows(5), unit_rows(9)
    loss = info_nce(queries, keys, negatives, temperature=0.2, is_negative=torch.ones(5, 9, dtype=torch.bool))
    torch.testing.assert_close(loss, info_nce(queries, keys, negatives, temperature=0.2), rtol=0, atol=0)


def test_a_query_without_negatives_has_no_loss_and_no_gradient() -> None:
    queries, keys, negatives = unit_rows(2).requires_grad_(), unit_rows(2), unit_rows(7)
    is_negative = torch.tensor([[True] * 7, [False] * 7])
    loss = info_nce(queries, keys, negatives, temperature=0.2, is_negative=is_negative)
    torch.testing.assert_close(loss, info_nce(queries[:1], keys[:1], negatives, temperature=0.2) / 2)
    loss.backward()
    assert queries.grad.isfinite().all() and queries.grad[0].any() and not queries.grad[1].any()


@pytest.mark.parametrize("num_positives", [1, 3, 8])
def test_equal_similarities_give_log_of_the_number_of_keys(num_positives: int) -> None:
    row = unit_rows(1)
    is_positive = (torch.arange(8) < num_positives).expand(3, -1)
    loss = multi_positive_info_nce(row.expand(3, -1), row.expand(8, -1), is_positive, temperature=0.07)
    assert loss.item() == pytest.approx(math.log(8), rel=1e-6)


def test_two_perfect_positives_share_the_softmax() -> None:
    axes = torch.eye(4)
    is_positive = torch.tensor([[True, True, False, False, False]])
    loss = multi_positive_info_nce(axes[:1], axes[[0, 0, 1, 2, 3]], is_positive, temperature=0.5)
    assert loss.item() == pytest.approx(math.log(2 + 3 * math.exp(-1 / 0.5)), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_several_positives_agree_with_a_slow_loop(temperature: float) -> None:
    queries, keys = unit_rows(5).requires_grad_(), unit_rows(9)
    is_positive = torch.rand(5, 9) < 0.4
    is_positive[:, 0] = True
    assert is_positive.sum(dim=1).unique().numel() > 1  # the mean over positives is each query's own
    exact = queries.detach().double().requires_grad_()
    expected = slow_multi_positive(exact, keys.double(), is_positive, temperature)
    loss = multi_positive_info_nce(queries, keys, is_positive, temperature=temperature)
    assert_agree(loss, queries, expected, exact)


def test_with_one_positive_each_it_is_the_loss_of_one_positive() -> None:
    queries, keys, negatives = unit_rows(5), unit_rows(5), unit_rows(9)
    # Key i is query i's positive; the other queries' keys are left out, as in MoCo, by giving each query its own row.
    each = [
        multi_positive_info_nce(
            queries[[row]], torch.cat([keys[[row]], negatives]), torch.arange(10)[None] == 0, temperature=0.2
        )
        for row in range(5)
    ]
    torch.testing.assert_close(torch.stack(each).mean(), info_nce(queries, keys, negatives, temperature=0.2))
    # With all keys at hand, the others are negatives beside those of the queue.
    loss = multi_positive_info_nce(queries, torch.cat([keys, negatives]), torch.eye(5, 14).bool(), temperature=0.2)
    others = [torch.cat([keys[torch.arange(5) != row], negatives]) for row in range(5)]
    each = [info_nce(queries[[row]], keys[[row]], others[row], temperature=0.2) for row in range(5)]
    torch.testing.assert_close(loss, torch.stack(each).mean())


def test_with_several_positives_only_queries_receive_a_gradient() -> None:
    queries, keys = unit_rows(4).requires_grad_(), unit_rows(6).requires_grad_()
    multi_positive_info_nce(queries, keys, torch.eye(4, 6).bool(), temperature=0.1).backward()
    assert queries.grad.isfinite().all() and queries.grad.abs().sum() > 0
    assert keys.grad is None


def test_with_several_positives_half_precision_rows_are_computed_in_float32() -> None:
    queries, keys, is_positive = unit_rows(4).bfloat16(), unit_rows(6).bfloat16(), torch.eye(4, 6).bool()
    with torch.autocast("cpu", torch.bfloat16):
        loss = multi_positive_info_nce(queries, keys, is_positive, temperature=0.07)
    assert loss.dtype == torch.float32
    exact = multi_positive_info_nce(queries.float(), keys.float(), is_positive, temperature=0.07)
    torch.testing.assert_close(loss, exact, rtol=0, atol=0)


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
    with pytest.raises(ValueError, match=f"temperature must be > 0, got {temperature}"):
        multi_positive_info_nce(unit_rows(2), unit_rows(3), torch.ones(2, 3).bool(), temperature=temperature)


def test_a_mask_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"is_negative must be \(4, 5\), a row per query .* got \(5, 4\)"):
        info_nce(unit_rows(4), unit_rows(4), unit_rows(5), temperature=0.1, is_negative=torch.ones(5, 4).bool())
    with pytest.raises(ValueError, match=r"is_positive must be \(4, 5\), a row per query .* got \(4,\)"):
        multi_positive_info_nce(unit_rows(4), unit_rows(5), torch.ones(4).bool(), temperature=0.1)


@pytest.mark.parametrize(
    ("queries", "keys", "complaint"),
    [
        ((4, 6), (5, 7), r"queries must be \(N, D\) and keys \(K, D\), got \(4, 6\) and \(5, 7\)"),
        ((6,), (5, 6), r"got \(6,\) and \(5, 6\)"),
        ((4, 6), (6,), r"got \(4, 6\) and \(6,\)"),
    ],
)
def test_rows_of_several_positives_that_disagree_are_named(
    queries: tuple[int, ...], keys: tuple[int, ...], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        multi_positive_info_nce(torch.ones(queries), torch.ones(keys), torch.ones(4, 5).bool(), temperature=0.1)
