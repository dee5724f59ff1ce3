"""Synchronised batch normalisation on one process, beside torch's own; on several: tests/engine/test_distributed.py."""

import pytest
import torch
from torch import nn

from cqe.batch_norm import SyncedBatchNorm2d, _Normalised, with_synced_batch_norm
from cqe.config import CqeConfig, MocoConfig
from cqe.encoder import QualityEncoder
from engine.config import TrainerConfig


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_process_has_torchs_outputs_gradients_and_statistics(dtype: torch.dtype) -> None:
    ends = []
    for kind in (nn.BatchNorm2d, SyncedBatchNorm2d):
        layer = kind(3, eps=0.01, momentum=0.3)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
            layer.bias.copy_(torch.tensor([1.0, 0.0, 3.0]))
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            x = (5 * torch.rand(4, 3, 5, 7, generator=generator) + 100).to(dtype).requires_grad_()
            y = layer(x)
            (y * torch.rand(y.shape, generator=generator)).float().sum().backward()
        layer.eval()
        gradients = {"input": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad}
        ends.append(
            {"output": y.detach(), "evaluated": layer(x).detach(), **gradients, "state": dict(layer.state_dict())}
        )
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    # 100 has four digits more than its spread, so seven digits leave three.
    torch.testing.assert_close(ends[1], ends[0], **tolerance)


def test_the_gradients_are_those_of_the_outputs() -> None:
    x = torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.rand(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *inputs: _Normalised.apply(*inputs, 1e-5)[0], (x, weight, bias))


def test_an_encoder_keeps_its_tensors_and_its_representation() -> None:
    encoder = QualityEncoder(1, width=8)
    x = torch.rand(2, 1, 16, 16)
    encoder(x)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    expected = encoder.eval()(x)[0]
    assert with_synced_batch_norm(encoder) is encoder
    torch.testing.assert_close(dict(encoder.state_dict()), before, rtol=0, atol=0)
    torch.testing.assert_close(encoder.eval()(x)[0], expected)
    layers = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(layers) > 5 and all(type(layer) is SyncedBatchNorm2d for layer in layers)


def test_labels_have_no_keys_to_shuffle() -> None:
    trainer = TrainerConfig(run_dir="run")
    with pytest.raises(ValueError, match=r"moco\.batch_norm shuffled is for objective contrast; with labels it is own"):
        CqeConfig(trainer, objective="labels", moco=MocoConfig(batch_norm="shuffled"))
    CqeConfig(trainer, objective="labels", moco=MocoConfig(queue_length=3))  # there is no queue to fill
