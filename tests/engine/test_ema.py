"""The moving average of weights: closed forms, copied buffers, a restart."""

import math

import pytest
import torch
from torch import nn

from engine.ema import ExponentialMovingAverage


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.5, 0.999])
def test_constant_weights_are_approached_by_the_product_of_decays(decay: float) -> None:
    module = network()
    ema = ExponentialMovingAverage(module, decay=decay)
    start = {name: value.clone() for name, value in module.named_parameters()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    for num_updates in range(1, 8):
        ema.update()
        kept = math.prod(min(decay, (1 + n) / (10 + n)) for n in range(1, num_updates + 1))
        for name, target in module.named_parameters():
            expected = target + kept * (start[name] - target)
            torch.testing.assert_close(ema.module.get_parameter(name), expected)


def test_late_updates_keep_the_full_decay() -> None:
    module = network()
    ema = ExponentialMovingAverage(module, decay=0.9)
    ema.num_updates = 1000
    before = ema.module[0].weight.clone()
    with torch.no_grad():
        module[0].weight.add_(1)
    ema.update()
    torch.testing.assert_close(ema.module[0].weight, before + 0.1)


def test_buffers_are_copied() -> None:
    module = network()
    ema = ExponentialMovingAverage(module, decay=0.999)
    for _ in range(3):
        module(torch.rand(8, 3))
    ema.update()
    expected = dict(module.named_buffers())
    assert expected["1.num_batches_tracked"] == 3
    torch.testing.assert_close(dict(ema.module.named_buffers()), expected, rtol=0, atol=0)


def test_the_average_is_a_module_of_its_own_that_does_not_learn() -> None:
    module = network()
    ema = ExponentialMovingAverage(module, decay=0.5)
    with torch.no_grad():
        module[0].weight.zero_()
    assert ema.module[0].weight.abs().sum() > 0
    assert not ema.module.training and module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    ema.update()
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_the_average_is_lerp_of_each_tensor_to_the_bit_and_frozen_ones_stay() -> None:
    module = network()
    module[0].bias.requires_grad_(False)
    ema = ExponentialMovingAverage(module, decay=0.9)
    expected = {name: value.detach().clone() for name, value in module.named_parameters()}
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    ema.update()
    for name, value in module.named_parameters():
        expected[name].lerp_(value.detach(), 1 - 2 / 11)
    torch.testing.assert_close(dict(ema.module.named_parameters()), expected, rtol=0, atol=0)
    assert (ema.module[0].bias == module[0].bias).all()


def test_a_restored_average_goes_on_as_if_never_interrupted() -> None:
    module = network()
    whole = ExponentialMovingAverage(module, decay=0.99)
    with torch.no_grad():
        module[0].weight.normal_()
    restored = ExponentialMovingAverage(module, decay=0.99)
    for step in range(6):
        with torch.no_grad():
            module[0].weight.normal_()
        whole.update()
        if step == 2:
            restored.load_state_dict(whole.state_dict())
        elif step > 2:
            restored.update()
    assert restored.num_updates == whole.num_updates == 6
    torch.testing.assert_close(restored.module.state_dict(), whole.module.state_dict(), rtol=0, atol=0)
