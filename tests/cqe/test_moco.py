"""Momentum contrast: queue, key encoder, what equal qualities are, what counts as a hit, going on after a restart."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cqe.moco import MomentumContrast
from losses.contrastive import info_nce

SIZE = 5
MODES = ["negatives", "skipped", "positives"]


class TinyEncoder(nn.Module):
    """(N, 1, 4, 4) -> (N, 5), with a batch normalisation, so that there are buffers too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, SIZE)
        self.norm = nn.BatchNorm1d(SIZE)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.norm(self.linear(x.flatten(1))), []


class Pixels(nn.Module):
    """The first five pixels themselves; its one parameter scales them, which normalisation takes out again."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.scale * x.flatten(1)[:, :SIZE], []


class Linear(nn.Linear):
    """(N, 1, 4, 4) -> (N, 5), each patch for itself."""

    def __init__(self) -> None:
        super().__init__(16, SIZE)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return super().forward(x.flatten(1)), []


def contrast(encoder: nn.Module | None = None, **given: object) -> MomentumContrast:
    defaults = {"queue_length": 6, "momentum": 0.9, "temperature": 0.1, "representation_size": SIZE}
    return MomentumContrast(encoder or TinyEncoder(), **(defaults | given))


def patches(count: int = 2) -> Tensor:
    return torch.rand(count, 1, 4, 4)


def as_patches(rows: Tensor) -> Tensor:
    """(N, 5) -> (N, 1, 4, 4) that `Pixels` turns into these rows."""
    return F.pad(rows, (0, 16 - SIZE)).reshape(-1, 1, 4, 4)


def qualities(count: int = 2) -> Tensor:
    """As many different ones."""
    return torch.arange(10, 10 + count)


def unit(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=1)


def test_queue_wraps_without_losing_keys_or_their_qualities() -> None:
    moco = contrast(Pixels())
    initial = moco.queue.clone()
    assert not (moco.queue_quality >= 0).any()  # what the queue starts with is of no quality
    batches = [(torch.randn(2, SIZE), torch.randint(1, 101, (2,))) for _ in range(5)]
    expected = list(initial.split(2))  # a list of batches, oldest first; a new one pushes the oldest out
    expected_quality = list(moco.queue_quality.split(2))
    for number, (batch, quality) in enumerate(batches, start=1):
        moco(patches(), as_patches(batch), quality)
        expected, expected_quality = [*expected[1:], unit(batch)], [*expected_quality[1:], quality]
        position = int(moco.queue_position)
        assert position == 2 * number % 6
        torch.testing.assert_close(moco.queue.roll(-position, dims=0), torch.cat(expected))
        assert moco.queue_quality.roll(-position).tolist() == torch.cat(expected_quality).tolist()


def test_queue_rows_have_unit_length_from_the_start_and_later() -> None:
    moco = contrast(queue_length=8)
    for _ in range(3):
        torch.testing.assert_close(moco.queue.norm(dim=1), torch.ones(8))
        moco(patches(), patches(), qualities())


def test_the_loss_contrasts_with_the_queue_as_it_was() -> None:
    moco = contrast(Pixels(), temperature=0.3)
    queries, keys, before = torch.randn(2, SIZE), torch.randn(2, SIZE), moco.queue.clone()
    terms = moco(as_patches(queries), as_patches(keys), qualities())
    expected = info_nce(unit(queries), unit(keys), before, temperature=0.3)
    torch.testing.assert_close(terms["total"], expected)
    torch.testing.assert_close(terms["positive_similarity"], F.cosine_similarity(queries, keys).mean())
    terms["total"].backward()  # after the queue has changed


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_key_encoder_keeps_its_share_of_itself(momentum: float) -> None:
    moco = contrast(momentum=momentum)
    with torch.no_grad():
        for parameter in moco.query_encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = {name: value.clone() for name, value in moco.key_encoder.named_parameters()}
    moco(patches(), patches(), qualities())
    for name, query in moco.query_encoder.named_parameters():
        expected = momentum * before[name] + (1 - momentum) * query
        torch.testing.assert_close(moco.key_encoder.get_parameter(name), expected)


def test_keys_come_from_the_key_encoder_after_it_moved() -> None:
    moco = contrast(momentum=0.5)
    with torch.no_grad():
        moco.query_encoder.linear.weight.neg_()
    key_patches = patches()
    moco(patches(), key_patches, qualities())
    with torch.no_grad():
        keys = unit(moco.key_encoder(key_patches)[0])  # in training mode: normalised by this batch, as in the step
    torch.testing.assert_close(moco.queue[:2], keys)


def test_only_the_query_encoder_receives_a_gradient() -> None:
    moco = contrast()
    moco(patches(), patches(), qualities())["total"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in moco.query_encoder.parameters())
    assert moco.query_encoder.linear.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in moco.key_encoder.parameters())


def test_encoders_start_equal_and_are_two() -> None:
    encoder = TinyEncoder()
    moco = contrast(encoder)
    assert moco.query_encoder is encoder
    torch.testing.assert_close(moco.key_encoder.state_dict(), encoder.state_dict(), rtol=0, atol=0)
    owned = {parameter.data_ptr() for parameter in moco.key_encoder.parameters()}
    assert owned.isdisjoint(parameter.data_ptr() for parameter in encoder.parameters())


def test_contrast_accuracy_counts_queries_closest_to_their_own_key() -> None:
    axes = torch.eye(SIZE)
    moco = contrast(Pixels(), queue_length=4)
    moco.queue.copy_(axes[[3, 3, 4, 4]])
    # Queries 0 and 1 meet their own key; 3 is as close to the queue as to its key, 4 is closer to the queue: no hits.
    terms = moco(as_patches(axes[[0, 1, 3, 4]]), as_patches(axes[[0, 1, 3, 2]]), qualities(4))
    assert terms["contrast_accuracy"].item() == 0.5
    assert terms["positive_similarity"].item() == 0.75
    assert not terms["contrast_accuracy"].requires_grad and not terms["positive_similarity"].requires_grad


def test_only_negatives_can_be_closer_than_the_key() -> None:
    axes = torch.eye(SIZE)
    quality = torch.tensor([10, 20])
    for mode, expected in (("negatives", 0.0), ("skipped", 0.5), ("positives", 0.5)):
        moco = contrast(Pixels(), queue_length=2, equal_qualities=mode)
        moco.queue.copy_(axes[:2])
        moco.queue_quality.copy_(torch.tensor([10, 10]))
        # Each query's own key is far; a row of the queue meets it: of its own quality for the first, not the second.
        terms = moco(as_patches(axes[:2]), as_patches(axes[2:4] + 0.1 * axes[:2]), quality)
        assert terms["contrast_accuracy"].item() == expected


def half_filled(mode: str) -> tuple[MomentumContrast, Tensor, Tensor]:
    """With a queue of four keys of qualities 10, 20, 20, 30 and two random rows of none; what it holds, copied."""
    moco = contrast(Pixels(), temperature=0.3, equal_qualities=mode)
    for quality in ([10, 20], [20, 30]):
        moco(patches(), as_patches(torch.randn(2, SIZE)), torch.tensor(quality))
    return moco, moco.queue.clone(), moco.queue_quality.clone()


def test_skipped_keys_of_the_query_s_quality_are_in_no_denominator() -> None:
    moco, queue, queue_quality = half_filled("skipped")
    assert queue_quality[:4].tolist() == [10, 20, 20, 30]
    queries, keys, quality = torch.randn(2, SIZE), torch.randn(2, SIZE), [20, 30]
    each = [
        info_nce(unit(queries[[row]]), unit(keys[[row]]), queue[queue_quality != quality[row]], temperature=0.3)
        for row in range(2)
    ]
    assert [int((queue_quality != one).sum()) for one in quality] == [4, 5]  # the random rows stay negatives
    loss = moco(as_patches(queries), as_patches(keys), torch.tensor(quality))["total"]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    loss.backward()


def test_positives_are_all_keys_of_the_query_s_quality_in_batch_and_queue() -> None:
    moco, queue, queue_quality = half_filled("positives")
    queries, keys, quality = torch.randn(2, SIZE), torch.randn(2, SIZE), [20, 30]
    candidates, candidate_quality = torch.cat([unit(keys), queue]), [*quality, *queue_quality.tolist()]
    total = 0.0
    for query, own in zip(unit(queries), quality, strict=True):
        weights = torch.exp(candidates @ query / 0.3)
        terms = [
            -torch.log(weight / weights.sum())
            for weight, other in zip(weights, candidate_quality, strict=True)
            if other == own
        ]
        assert len(terms) == {20: 3, 30: 2}[own]
        total += sum(terms) / len(terms) / 2
    loss = moco(as_patches(queries), as_patches(keys), torch.tensor(quality))["total"]
    torch.testing.assert_close(loss, total)
    loss.backward()


def losses_of(mode: str, relabelled: Callable[[Tensor], Tensor]) -> Tensor:
    """Losses of ten steps with qualities drawn from five, which go through `relabelled` first."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    moco = contrast(equal_qualities=mode)
    losses = []
    for _ in range(10):
        query, key = (torch.rand(2, 1, 4, 4, generator=generator) for _ in range(2))
        quality = torch.randint(0, 5, (2,), generator=generator)
        losses.append(moco(query, key, relabelled(quality))["total"])
    return torch.stack(losses)


@pytest.mark.parametrize("mode", MODES)
def test_it_never_enters_which_quality_it_is_or_which_is_higher(mode: str) -> None:
    """Any names do, as long as equal stays equal and different different."""
    names = torch.tensor([70, 3, 99, 0, 41])
    losses = losses_of(mode, lambda quality: quality)
    torch.testing.assert_close(losses_of(mode, lambda quality: names[quality]), losses, rtol=0, atol=0)


def test_qualities_are_not_even_compared_where_equal_ones_are_negatives() -> None:
    losses = losses_of("negatives", lambda quality: quality)
    for others in (torch.zeros_like, lambda quality: torch.randint(0, 100, quality.shape)):
        torch.testing.assert_close(losses_of("negatives", others), losses, rtol=0, atol=0)


def test_with_other_modes_equal_qualities_change_the_loss() -> None:
    for mode in ("skipped", "positives"):
        losses, all_equal = losses_of(mode, lambda quality: quality), losses_of(mode, torch.zeros_like)
        assert ((all_equal - losses).abs() > 1e-3).any()
        assert ((losses_of("negatives", torch.zeros_like) - losses).abs() > 1e-3).any()
    names = iter(range(100))  # no two equal: nothing to skip
    distinct = losses_of("skipped", lambda quality: torch.tensor([next(names) for _ in quality]))
    torch.testing.assert_close(distinct, losses_of("negatives", torch.zeros_like), rtol=0, atol=0)


def test_keys_and_qualities_of_all_ranks_enter_the_queue_in_rank_order() -> None:
    own, other = torch.randn(2, SIZE), unit(torch.randn(2, SIZE))
    of_rank_0 = {2: other, 1: torch.tensor([10, 20])}  # by the number of dimensions: keys, qualities
    moco = contrast(Pixels(), queue_length=8, gather=lambda rows: torch.cat([of_rank_0[rows.ndim], rows]))
    moco(patches(), as_patches(own), torch.tensor([30, 40]))
    torch.testing.assert_close(moco.queue[:4], torch.cat([other, unit(own)]))
    assert moco.queue_quality[:4].tolist() == [10, 20, 30, 40]
    assert moco.queue_position.item() == 4


@pytest.mark.parametrize("mode", MODES)
def test_the_mean_loss_of_two_ranks_is_that_of_one_process(mode: str) -> None:
    queries, keys, quality = torch.randn(4, SIZE), torch.randn(4, SIZE), torch.tensor([10, 20, 20, 10])
    alone = contrast(Pixels(), queue_length=8, equal_qualities=mode)
    alone(patches(4), patches(4), torch.tensor([20, 30, 10, 10]))
    state = {name: value.clone() for name, value in alone.state_dict().items()}
    expected = alone(as_patches(queries), as_patches(keys), quality)["total"]
    losses = []
    for share in (slice(0, 2), slice(2, 4)):
        gathered = {2: unit(keys), 1: quality}
        rank = contrast(
            Pixels(), queue_length=8, equal_qualities=mode, gather=lambda rows, all_rows=gathered: all_rows[rows.ndim]
        )
        rank.load_state_dict(state)
        losses.append(rank(as_patches(queries[share]), as_patches(keys[share]), quality[share])["total"])
        torch.testing.assert_close(rank.state_dict(), alone.state_dict())
    torch.testing.assert_close(torch.stack(losses).mean(), expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_step_in_parts_is_the_step_of_the_whole_batch(mode: str) -> None:
    ends = []
    for num_parts in (1, 2, 4):
        torch.manual_seed(0)
        moco = contrast(Linear(), queue_length=8, equal_qualities=mode)
        losses = []
        for _ in range(3):
            batch = patches(4), patches(4), torch.randint(0, 2, (4,))
            moco.begin_step(*batch[1:], num_parts)
            parts = zip(*(values.chunk(num_parts) for values in batch), strict=True)
            losses.append(torch.stack([moco(*part)["total"] for part in parts]).mean())
            gradient = torch.autograd.grad(losses[-1], moco.query_encoder.weight)[0]
            with torch.no_grad():
                moco.query_encoder.weight.sub_(gradient)
        ends.append({"losses": torch.stack(losses), "gradient": gradient, "state": dict(moco.state_dict())})
    assert ends[0]["gradient"].abs().max() > 1e-3
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0])


@pytest.mark.parametrize("mode", MODES)
def test_a_restored_state_goes_on_as_if_never_interrupted(mode: str) -> None:
    whole = contrast(equal_qualities=mode)
    optimizer = torch.optim.SGD(whole.query_encoder.parameters(), lr=0.1)
    steps = [(patches(), patches(), torch.randint(0, 3, (2,))) for _ in range(5)]
    train(whole, optimizer, steps[:2])
    assert {"queue", "queue_quality", "queue_position"} <= whole.state_dict().keys()
    restored = contrast(equal_qualities=mode)  # another encoder, another queue
    restored.load_state_dict(whole.state_dict())
    restored_optimizer = torch.optim.SGD(restored.query_encoder.parameters(), lr=0.1)
    assert train(restored, restored_optimizer, steps[2:]) == train(whole, optimizer, steps[2:])
    torch.testing.assert_close(restored.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_queue_that_no_whole_batches_fill_is_refused() -> None:
    with pytest.raises(ValueError, match=r"moco.queue_length \(6\) must be a multiple of the global batch \(4\)"):
        contrast()(patches(4), patches(4), qualities(4))
    of_two_ranks = contrast(gather=lambda rows: torch.cat([rows, rows]))
    with pytest.raises(ValueError, match=r"\(6\) must be a multiple of the global batch \(4\)"):
        of_two_ranks(patches(2), patches(2), qualities(2))


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_a_momentum_out_of_range_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=f"moco.momentum must be within 0..1, got {momentum}"):
        contrast(momentum=momentum)


def train(moco: MomentumContrast, optimizer: torch.optim.Optimizer, steps: list[tuple[Tensor, ...]]) -> list[float]:
    losses = []
    for step in steps:
        loss = moco(*step)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
