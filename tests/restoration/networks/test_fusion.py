"""Fusion against slow transcriptions of Eq. 3-6, and its inverse."""

import math

import pytest
import torch
from torch import Tensor, nn

from restoration.networks.fusion import (
    ConvolutionFusion,
    EncoderFeatureFusion,
    InvertibleFusion,
    ResidualBlock,
    build_fusion,
)


@pytest.mark.parametrize("exponent_bound", [None, 0.8])
def test_fusion_inverse_restores_inputs(exponent_bound: float | None) -> None:
    block = InvertibleFusion(channels=8, exponent_bound=exponent_bound).double()
    e, d = torch.randn(2, 8, 5, 7).double(), torch.randn(2, 8, 5, 7).double()
    torch.testing.assert_close(block.inverse(*block(e, d)), (e, d), rtol=0, atol=1e-10)


@pytest.mark.parametrize("hidden", [None, 3])
def test_fusion_is_equations_5_and_6(hidden: int | None) -> None:
    block = InvertibleFusion(channels=2, hidden=hidden).double()
    e, d = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    f1 = e + _slow_residual_block(d, block.phi1)
    exponent, offset = _slow_residual_block(f1, block.phi2), _slow_residual_block(f1, block.phi3)
    f2 = torch.empty_like(d)
    for index in range(d.numel()):
        f2.view(-1)[index] = d.view(-1)[index] * math.exp(exponent.view(-1)[index]) + offset.view(-1)[index]
    torch.testing.assert_close(block(e[None], d[None]), (f1[None], f2[None]))


def test_a_bound_limits_how_far_d_is_scaled() -> None:
    block = InvertibleFusion(channels=4, exponent_bound=0.8).double()
    e, d = 100 * torch.randn(1, 4, 6, 6).double(), torch.ones(1, 4, 6, 6).double()
    f1, f2 = block(e, d)
    exponent = torch.log(f2 - block.phi3(f1))
    torch.testing.assert_close(exponent, 0.8 * torch.tanh(block.phi2(f1) / 2))  # 2 sigmoid(x) - 1 = tanh(x / 2)
    assert exponent.abs().max() <= 0.8 + 1e-9


@pytest.mark.parametrize("hidden", [None, 4])
def test_convolutions_in_place_of_the_invertible_module_have_as_many_weights(hidden: int | None) -> None:
    def num_weights(kind: str) -> int:
        block = build_fusion(kind, 8, hidden=hidden)
        return sum(parameter.numel() for parameter in block.parameters() if parameter.ndim == 4)

    assert num_weights("convolution") == num_weights("invertible") == 3 * 2 * 9 * 8 * (hidden or 8)
    assert build_fusion("concatenation", 8) is None and build_fusion("none", 8) is None


def test_convolutions_see_both_features() -> None:
    block = ConvolutionFusion(3).double()
    e, d = torch.randn(1, 3, 5, 7).double(), torch.randn(1, 3, 5, 7).double()
    whole = torch.cat([e, d], dim=1) + block.body.body(torch.cat([e, d], dim=1))
    torch.testing.assert_close(torch.cat(block(e, d), dim=1), whole)


def test_a_bound_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="exponent_bound must be > 0 or null .*got 0"):
        InvertibleFusion(channels=4, exponent_bound=0)


def test_effm_convolves_the_concatenation_in_the_given_order() -> None:
    effm = EncoderFeatureFusion([1, 2], out_channels=3).double()
    first, second = torch.randn(1, 4, 3).double(), torch.randn(2, 4, 3).double()
    hidden = _slow_leaky_relu(_slow_convolution(torch.cat([first, second]), effm.body[0]))
    expected = _slow_convolution(hidden, effm.body[2])
    torch.testing.assert_close(effm([first[None], second[None]]), expected[None])


def _slow_residual_block(x: Tensor, block: ResidualBlock) -> Tensor:
    hidden = _slow_leaky_relu(_slow_convolution(x, block.body[0]))
    return x + _slow_convolution(hidden, block.body[2])


def _slow_leaky_relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.1 * x)


def _slow_convolution(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """(C, H, W) with zeros beyond the border, one output value at a time."""
    height, width = x.shape[1:]
    reach = layer.kernel_size[0] // 2
    result = torch.empty(layer.out_channels, height, width, dtype=x.dtype)
    for out in range(layer.out_channels):
        for top in range(height):
            for left in range(width):
                total = layer.bias[out].detach().clone()
                for row in range(max(top - reach, 0), min(top + reach + 1, height)):
                    for column in range(max(left - reach, 0), min(left + reach + 1, width)):
                        kernel = layer.weight[out, :, row - top + reach, column - left + reach].detach()
                        total += (kernel * x[:, row, column]).sum()
                result[out, top, left] = total
    return result
