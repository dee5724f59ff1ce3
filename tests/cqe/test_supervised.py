"""Training with labels: cross-entropy over the qualities that occur, on the queries alone."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cqe.supervised import QualityClassifier

SIZE = 5


class TinyEncoder(nn.Module):
    """(N, 1, 4, 4) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, SIZE)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.linear(x.flatten(1)), []


def classifier(*qualities: int) -> QualityClassifier:
    return QualityClassifier(TinyEncoder(), representation_size=SIZE, qualities=qualities)


def patches(count: int) -> Tensor:
    return torch.rand(count, 1, 4, 4)


def test_classes_are_the_qualities_in_rising_order_once_each() -> None:
    module = classifier(90, 10, 50, 10, 90)
    assert module.qualities.tolist() == [10, 50, 90]
    assert module.head.weight.shape == (3, SIZE)
    assert "qualities" in module.state_dict()


def test_loss_is_the_cross_entropy_of_the_labels() -> None:
    module, queries = classifier(70, 10, 40), patches(6)
    terms = module(queries, patches(6), torch.tensor([40, 10, 70, 70, 10, 40]))
    logits = module.head(module.encoder(queries)[0])
    torch.testing.assert_close(terms["total"], F.cross_entropy(logits, torch.tensor([1, 0, 2, 2, 0, 1])))


def test_label_accuracy_counts_the_qualities_named_right() -> None:
    module = classifier(10, 20, 30, 40)
    with torch.no_grad():
        module.head.weight.zero_()
        module.head.bias.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0]))  # says 30 whatever it sees
    terms = module(patches(4), patches(4), torch.tensor([30, 10, 30, 30]))
    assert terms["label_accuracy"].item() == 0.75 and not terms["label_accuracy"].requires_grad
    # -log of the share that softmax gives to class 30 and to another one
    expected = -(3 * 1.0 + 0.0) / 4 + torch.log(torch.tensor([0.0, 0.0, 1.0, 0.0]).exp().sum())
    torch.testing.assert_close(terms["total"], expected)


def test_key_patches_play_no_part() -> None:
    module, queries, quality = classifier(10, 20), patches(3), torch.tensor([10, 20, 20])
    terms = module(queries, patches(3), quality)
    torch.testing.assert_close(module(queries, patches(3), quality), terms, rtol=0, atol=0)
    assert module(patches(3), patches(3), quality)["total"] != terms["total"]


def test_every_parameter_receives_a_gradient() -> None:
    module = classifier(10, 20)
    module(patches(4), patches(4), torch.tensor([10, 20, 20, 20]))["total"].backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_half_precision_representations_are_classified_in_float32() -> None:
    class HalfEncoder(TinyEncoder):
        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            return super().forward(x)[0].bfloat16(), []

    module = QualityClassifier(HalfEncoder(), representation_size=SIZE, qualities=[10, 20])
    assert module(patches(2), patches(2), torch.tensor([10, 20]))["total"].dtype == torch.float32


def test_it_learns_what_the_patches_show() -> None:
    """Brightness names the quality."""
    module, quality = classifier(10, 50, 90), torch.tensor([10, 50, 90] * 20)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        module(patches(60) + (quality / 30)[:, None, None, None], patches(60), quality)["total"].backward()
        optimizer.step()
    unseen = patches(60) + (quality / 30)[:, None, None, None]
    assert module(unseen, patches(60), quality)["label_accuracy"].item() == 1.0
