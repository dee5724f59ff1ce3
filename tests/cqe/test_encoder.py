"""The quality encoder: names, scales, representation, and the input without its local mean."""

import json

import pytest
import torch
from torch import Tensor, nn

from cqe.encoder import QualityEncoder, without_local_mean
from tests.places import GOLDEN


@pytest.mark.parametrize(("name", "channels"), [("gray", 1), ("color", 3)])
def test_tensors_have_the_names_and_shapes_of_the_release(name: str, channels: int) -> None:
    released = json.loads((GOLDEN / f"released_{name}_keys.json").read_text())
    expected = {key.removeprefix("E."): shape for key, shape in released.items() if key.startswith("E.")}
    assert {key: list(value.shape) for key, value in QualityEncoder(channels).state_dict().items()} == expected


@pytest.mark.parametrize("size", [(1, 1), (9, 5), (16, 24)])
@pytest.mark.parametrize("remove_local_mean", [False, True])
def test_features_halve_and_the_representation_is_the_mean_of_the_last(
    size: tuple[int, int], remove_local_mean: bool
) -> None:
    encoder = QualityEncoder(3, width=4, remove_local_mean=remove_local_mean).eval()
    with torch.no_grad():
        representation, features = encoder(torch.rand(2, 3, *size))
    halved = [tuple(-(-side // 2**step) for side in size) for step in range(4)]  # rounded up
    assert [tuple(feature.shape[-2:]) for feature in features] == halved
    assert tuple(feature.shape[1] for feature in features) == encoder.feature_channels == (4, 4, 8, 16)
    assert representation.shape == (2, encoder.representation_size)
    torch.testing.assert_close(representation, features[-1].flatten(2).sum(2) / features[-1][0, 0].numel())


def test_e0_is_the_raw_first_convolution() -> None:
    encoder = QualityEncoder(1, width=4).eval()
    x = torch.rand(1, 1, 8, 8)
    _, features = encoder(x)
    torch.testing.assert_close(features[0], nn.functional.conv2d(x, encoder.conv1.weight, padding=1))


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (11, 14)])
def test_local_mean_removal_agrees_with_a_loop(size: tuple[int, int]) -> None:
    x = torch.rand(1, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(without_local_mean(x), _slow_without_local_mean(x))


def test_brightness_does_not_reach_the_representation_without_local_mean() -> None:
    encoder = QualityEncoder(1, width=4, remove_local_mean=True).eval().double()
    x = 0.5 * torch.rand(1, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x + 0.4)[0], encoder(x)[0])


def test_every_parameter_gets_a_finite_gradient() -> None:
    encoder = QualityEncoder(3, width=4)
    representation, _ = encoder(torch.rand(2, 3, 24, 24))
    representation.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_representation_stays_float32_under_bfloat16_autocast() -> None:
    encoder = QualityEncoder(1, width=4, remove_local_mean=True).eval().to(memory_format=torch.channels_last)
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        exact, _ = encoder(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded, features = encoder(x.contiguous(memory_format=torch.channels_last))
    assert features[-1].dtype == torch.bfloat16 and rounded.dtype == torch.float32
    # bfloat16 has 8 significant bits, and eleven layers round one after the other.
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05 * exact.abs().max().item())


def _slow_without_local_mean(x: Tensor) -> Tensor:
    """Each pixel minus the mean of the 81 nearest, with coordinates clamped to the image; times 8."""
    result = torch.empty_like(x)
    height, width = x.shape[-2:]
    for top in range(height):
        for left in range(width):
            rows = [min(max(top + step, 0), height - 1) for step in range(-4, 5)]
            columns = [min(max(left + step, 0), width - 1) for step in range(-4, 5)]
            mean = x[:, :, rows][..., columns].mean(dim=(2, 3))
            result[:, :, top, left] = 8 * (x[:, :, top, left] - mean)
    return result
