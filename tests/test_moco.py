"""Momentum contrast: the queue, the key encoder that follows, what counts as a hit, and going on after a restart."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cqe.moco import MomentumContrast
from losses.contrastive import info_nce

SIZE = 5


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


def contrast(encoder: nn.Module | None = None, **given: object) -> MomentumContrast:
    defaults = {"queue_length": 6, "momentum": 0.9, "temperature": 0.1, "representation_size": SIZE}
    return MomentumContrast(encoder or TinyEncoder(), **(defaults | given))


def patches(count: int = 2) -> Tensor:
    return torch.rand(count, 1, 4, 4)


def as_patches(rows: Tensor) -> Tensor:
    """(N, 5) -> (N, 1, 4, 4) that `Pixels` turns into these rows."""
    return F.pad(rows, (0, 16 - SIZE)).reshape(-1, 1, 4, 4)


def unit(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=1)


def test_queue_wraps_without_losing_keys() -> None:
    moco = contrast(Pixels())
    initial = moco.queue.clone()
    batches = [torch.randn(2, SIZE) for _ in range(5)]
    expected = list(initial.split(2))  # a list of batches, oldest first; a new one pushes the oldest out
    for number, batch in enumerate(batches, start=1):
        moco(patches(), as_patches(batch))
        expected = [*expected[1:], unit(batch)]
        position = int(moco.queue_position)
        assert position == 2 * number % 6
        torch.testing.assert_close(moco.queue.roll(-position, dims=0), torch.cat(expected))


def test_queue_rows_have_unit_length_from_the_start_and_later() -> None:
    moco = contrast(queue_length=8)
    for _ in range(3):
        torch.testing.assert_close(moco.queue.norm(dim=1), torch.ones(8))
        moco(patches(), patches())


def test_the_loss_contrasts_with_the_queue_as_it_was() -> None:
    moco = contrast(Pixels(), temperature=0.3)
    queries, keys, before = torch.randn(2, SIZE), torch.randn(2, SIZE), moco.queue.clone()
    terms = moco(as_patches(queries), as_patches(keys))
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
    moco(patches(), patches())
    for name, query in moco.query_encoder.named_parameters():
        expected = momentum * before[name] + (1 - momentum) * query
        torch.testing.assert_close(moco.key_encoder.get_parameter(name), expected)


def test_keys_come_from_the_key_encoder_after_it_moved() -> None:
    moco = contrast(momentum=0.5)
    with torch.no_grad():
        moco.query_encoder.linear.weight.neg_()
    key_patches = patches()
    moco(patches(), key_patches)
    with torch.no_grad():
        keys = unit(moco.key_encoder(key_patches)[0])  # in training mode: normalised by this batch, as in the step
    torch.testing.assert_close(moco.queue[:2], keys)


def test_only_the_query_encoder_receives_a_gradient() -> None:
    moco = contrast()
    moco(patches(), patches())["total"].backward()
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
    terms = moco(as_patches(axes[[0, 1, 3, 4]]), as_patches(axes[[0, 1, 3, 2]]))
    assert terms["contrast_accuracy"].item() == 0.5
    assert terms["positive_similarity"].item() == 0.75
    assert not terms["contrast_accuracy"].requires_grad and not terms["positive_similarity"].requires_grad


def test_keys_of_all_ranks_enter_the_queue_in_rank_order() -> None:
    own, other = torch.randn(2, SIZE), unit(torch.randn(2, SIZE))
    moco = contrast(Pixels(), queue_length=8, gather=lambda keys: torch.cat([other, keys]))
    moco(patches(), as_patches(own))
    torch.testing.assert_close(moco.queue[:4], torch.cat([other, unit(own)]))
    assert moco.queue_position.item() == 4


def test_a_restored_state_goes_on_as_if_never_interrupted() -> None:
    whole = contrast()
    optimizer = torch.optim.SGD(whole.query_encoder.parameters(), lr=0.1)
    steps = [(patches(), patches()) for _ in range(5)]
    train(whole, optimizer, steps[:2])
    restored = contrast()  # another encoder, another queue
    restored.load_state_dict(whole.state_dict())
    restored_optimizer = torch.optim.SGD(restored.query_encoder.parameters(), lr=0.1)
    assert train(restored, restored_optimizer, steps[2:]) == train(whole, optimizer, steps[2:])
    torch.testing.assert_close(restored.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_queue_that_no_whole_batches_fill_is_refused() -> None:
    with pytest.raises(ValueError, match=r"moco.queue_length \(6\) must be a multiple of the global batch \(4\)"):
        contrast()(patches(4), patches(4))
    of_two_ranks = contrast(gather=lambda keys: keys.repeat(2, 1))
    with pytest.raises(ValueError, match=r"\(6\) must be a multiple of the global batch \(4\)"):
        of_two_ranks(patches(2), patches(2))


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_a_momentum_out_of_range_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=f"moco.momentum must be within 0..1, got {momentum}"):
        contrast(momentum=momentum)


def test_a_temperature_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        contrast(temperature=0)(patches(), patches())


def train(moco: MomentumContrast, optimizer: torch.optim.Optimizer, steps: list[tuple[Tensor, Tensor]]) -> list[float]:
    losses = []
    for query_patches, key_patches in steps:
        loss = moco(query_patches, key_patches)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
