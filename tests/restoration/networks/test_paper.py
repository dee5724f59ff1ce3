"""The paper's network around a stub encoder: sizes, gradients, the frozen encoder, the fusion's two forms."""

import pytest
import torch
from torch import Tensor, nn

from restoration.networks.attention import MaskBranch
from restoration.networks.paper import FusionStage, PaperRestorer, PyramidPooling


class StubEncoder(nn.Module):
    """Four maps at 1, 1/2, 1/4 and 1/8, through BatchNorm, whose statistics would move in training mode."""

    feature_channels = (3, 4, 5, 6)

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride=2**step), nn.BatchNorm2d(channels))
            for step, channels in enumerate(self.feature_channels)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = [layer(x) for layer in self.layers]
        return features[-1].mean(dim=(2, 3)), features


def tiny(channels: int = 1, *, released_fusion: bool = False) -> PaperRestorer:
    encoder = StubEncoder(channels)
    return PaperRestorer(encoder, channels, released_fusion=released_fusion, width=4, groups=(1, 1, 1))


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (33, 24), (9, 70)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_comes_back_at_that_size(size: tuple[int, int], channels: int) -> None:
    x = torch.rand(2, channels, *size)
    with torch.no_grad():
        restored = tiny(channels)(x)
    assert restored.shape == x.shape and restored.isfinite().all()


@pytest.mark.parametrize("released_fusion", [False, True])
def test_trainable_parameters_get_finite_gradients_and_the_encoder_none(released_fusion: bool) -> None:
    restorer = tiny(released_fusion=released_fusion).train()
    restorer(torch.rand(1, 1, 17, 40)).square().sum().backward()
    for name, parameter in restorer.named_parameters():
        if name.startswith("encoder."):
            assert not parameter.requires_grad and parameter.grad is None, name
        else:
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_encoder_statistics_do_not_move_in_training_mode() -> None:
    restorer = tiny().train()
    before = {name: value.clone() for name, value in restorer.encoder.state_dict().items()}
    restorer(torch.rand(2, 1, 16, 16))
    assert restorer.training and not any(module.training for module in restorer.encoder.modules())
    torch.testing.assert_close(restorer.encoder.state_dict(), before, rtol=0, atol=0)


def test_the_output_is_the_input_plus_the_tail() -> None:
    restorer = tiny()
    nn.init.zeros_(restorer.tail.weight)
    nn.init.constant_(restorer.tail.bias, 0.25)
    x = torch.rand(1, 1, 11, 5)
    torch.testing.assert_close(restorer(x), x + 0.25)


def test_padding_repeats_the_last_row_and_column() -> None:
    restorer = tiny()
    x = torch.rand(1, 1, 13, 30)
    rows, columns = torch.arange(16).clamp(max=12), torch.arange(32).clamp(max=29)
    padded = x[:, :, rows][..., columns]
    with torch.no_grad():
        torch.testing.assert_close(restorer(x), restorer(padded)[..., :13, :30])


@pytest.mark.parametrize("released_fusion", [False, True])
def test_a_stage_fuses_as_printed_or_as_released(released_fusion: bool) -> None:
    stage = FusionStage(3, 1, fusion="invertible", released_fusion=released_fusion).double()
    e, d = torch.randn(1, 3, 6, 8).double(), torch.randn(1, 3, 6, 8).double()
    phi1, phi2, phi3 = stage.fusion.phi1, stage.fusion.phi2, stage.fusion.phi3
    if released_fusion:
        f1 = d + phi1(e)
        f2 = e * torch.exp(0.8 * (2 * torch.sigmoid(phi2(f1)) - 1)) + phi3(f1)
    else:
        f1 = e + phi1(d)
        f2 = d * torch.exp(phi2(f1)) + phi3(f1)
    torch.testing.assert_close(stage(e, d), stage.groups(stage.merge(torch.cat([f1, f2], dim=1))))


@pytest.mark.parametrize("size", [(32, 40), (24, 8), (1, 3)])
def test_pooling_windows_are_cut_to_short_sides(size: tuple[int, int]) -> None:
    pyramid = PyramidPooling(2).double()
    x = torch.randn(1, 2, *size).double()
    maps = [_slow_pooled(x, window, conv) for window, conv in zip((4, 8, 16, 32), pyramid.projections, strict=True)]
    expected = nn.functional.leaky_relu(pyramid.merge(torch.cat([*maps, x], dim=1)), 0.1)
    torch.testing.assert_close(pyramid(x), expected)


@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_the_mask_has_the_size_of_its_input(size: tuple[int, int]) -> None:
    mask = MaskBranch(2)(torch.randn(1, 2, *size))
    assert mask.shape == (1, 2, *size) and (mask > 0).all() and (mask < 1).all()


@pytest.mark.parametrize("released_fusion", [False, True])
def test_channels_last_and_bfloat16_give_the_same_picture(released_fusion: bool) -> None:
    restorer = tiny(3, released_fusion=released_fusion)
    x = torch.rand(1, 3, 20, 35)
    with torch.no_grad():
        exact = restorer(x)
        restorer = restorer.to(memory_format=torch.channels_last)
        torch.testing.assert_close(restorer(x.contiguous(memory_format=torch.channels_last)), exact)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = restorer(x.contiguous(memory_format=torch.channels_last))
    # The image is added in float32. The residual went through some thirty layers that keep 8 significant bits each,
    # and through exponents that turn their absolute error into a relative one: a tenth of its peak is allowed.
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.1 * (exact - x).abs().max().item())


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 16, 16)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected images of shape \(N, 1, H, W\), got \(1, "):
        tiny(1)(torch.rand(shape))


def test_groups_must_be_three() -> None:
    with pytest.raises(ValueError, match=r"groups needs three numbers.*got \(2, 4\)"):
        PaperRestorer(StubEncoder(1), 1, width=4, groups=(2, 4))


def _slow_pooled(x: Tensor, window: int, projection: nn.Conv2d) -> Tensor:
    """One map of the pyramid, one output pixel at a time; partial windows at the end are dropped."""
    height, width = x.shape[-2:]
    window_height, window_width = min(window, height), min(window, width)
    num_rows, num_columns = height // window_height, width // window_width
    result = x.new_empty(1, 1, height, width)
    for row in range(height):
        for column in range(width):
            # Nearest neighbour of PyTorch: pixel i of n reads source pixel floor(i * m / n) of m.
            top = row * num_rows // height * window_height
            left = column * num_columns // width * window_width
            mean = x[..., top : top + window_height, left : left + window_width].mean(dim=(2, 3), keepdim=True)
            result[..., row : row + 1, column : column + 1] = projection(mean)
    return nn.functional.leaky_relu(result, 0.1)
