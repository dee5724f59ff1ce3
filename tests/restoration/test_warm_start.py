"""Starting from the weights of a smaller network: the first output is the smaller network's."""

import pytest
import torch
from torch import Tensor, nn

from data.color import FULL_WEIGHTS
from restoration.networks.arcnn import ARCNN
from restoration.networks.fast import FastRestorer
from restoration.networks.paper import PaperRestorer
from restoration.networks.restorer import Restorer
from restoration.warm_start import start_from

SMALL = {"widths": (8, 12, 16), "blocks_down": (1, 1, 1), "blocks_up": (1, 1, 1)}
WIDE = {"widths": (12, 12, 24), "blocks_down": (1, 1, 2), "blocks_up": (2, 1, 1)}
DEEP = {"widths": (8, 12, 16), "blocks_down": (2, 1, 3), "blocks_up": (4, 2, 1)}


class LumaEncoder(nn.Module):
    """Stub whose features of an RGB image are those of its first channel, so that luma and colour get the same."""

    feature_channels = (4, 4, 8, 16)

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        nn.init.constant_(self.conv.bias, bias)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        full = self.conv(x[:, :1])
        scales = [nn.functional.avg_pool2d(full, 2**level) for level in range(4)]
        return full.mean(dim=(2, 3)), [map[:, :n] for map, n in zip(scales, self.feature_channels, strict=True)]


def trained(network: Restorer) -> Restorer:
    """The network with weights that no initialisation leaves: nothing is zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def fast(channels: int = 1, **options: tuple) -> FastRestorer:
    return FastRestorer(LumaEncoder(), channels, **(SMALL | options))


def test_added_blocks_leave_the_output_as_it_was_and_can_learn() -> None:
    small, deep = trained(fast()), fast(**DEEP)
    start_from(deep, small, "small.safetensors")
    image = torch.rand(2, 1, 24, 32)
    torch.testing.assert_close(deep.eval()(image), small(image), rtol=0, atol=0)
    deep(image).square().mean().backward()
    for name in ("down2.1", "down8.2", "fuse2.blocks.3", "fuse4.blocks.1"):
        assert deep.get_submodule(name).body[-1].weight.grad.abs().max() > 0


@pytest.mark.parametrize("fusion", ["invertible", "concatenation", "none"])
def test_added_channels_leave_the_output_as_it_was_and_can_learn(fusion: str) -> None:
    small, wide = trained(fast(fusion=fusion)).double(), fast(fusion=fusion, **WIDE).double()
    start_from(wide, small, "small.safetensors")
    image = torch.rand(2, 1, 24, 32).double()
    torch.testing.assert_close(wide.eval()(image), small(image), rtol=1e-12, atol=1e-12)
    wide(image).square().mean().backward()
    assert wide.tail.weight.grad[:, 8:].abs().min() > 0
    for merge in () if fusion == "none" else (wide.fuse2.merge, wide.fuse8.merge):
        assert merge.weight.grad.abs().amax(dim=(0, 2, 3)).min() > 0  # every channel of both maps is read


def test_the_encoder_comes_along() -> None:
    small, deep = trained(fast()), fast(**DEEP)
    start_from(deep, small, "small.safetensors")
    torch.testing.assert_close(deep.encoder.state_dict(), small.encoder.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "build",
    [
        fast,
        lambda channels: fast(channels, dct=True),
        lambda channels: PaperRestorer(LumaEncoder(), channels, width=8),
    ],
)
def test_a_luma_network_becomes_one_for_colour_that_restores_the_luma(build: object) -> None:
    gray, color = trained(build(channels=1)).double(), build(channels=3).double()
    encoder_before = {name: tensor.clone() for name, tensor in color.encoder.state_dict().items()}
    start_from(color, gray, "gray.safetensors")
    torch.testing.assert_close(color.encoder.state_dict(), encoder_before, rtol=0, atol=0)
    color.encoder.load_state_dict(gray.encoder.state_dict())
    rgb = torch.rand(1, 3, 16, 24).double()
    luma = sum(weight * rgb[:, [channel]] for channel, weight in enumerate(FULL_WEIGHTS.tolist()))
    with torch.no_grad():
        # The same features on both sides: those of the luma.
        features = gray.encoder(luma)[1]
        expected = gray.residual(luma, features)
        residual = color.eval().residual(rgb, features)
    torch.testing.assert_close(residual, expected.expand(-1, 3, -1, -1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: fast(widths=(8, 8, 24)), r"old\.safetensors: tensor '\S+' is \(.*\), the network needs \("),
        (lambda: fast(blocks_up=(0, 1, 1)), r"old\.safetensors has tensor 'fuse2\.blocks\.0\S+', for which"),
        (lambda: PaperRestorer(LumaEncoder(), 1, width=8), r"old\.safetensors is a FastRestorer, the .* PaperRestorer"),
        (lambda: fast(block="gated"), r"old\.safetensors has class ResidualBlock in 'down2\.0', .* GatedBlock"),
        (lambda: fast(fusion="concatenation"), r"old\.safetensors has tensor 'fuse2\.fusion\.\S+', for which"),
        (lambda: fast(fusion="none"), r"old\.safetensors has is_guided True in '', .* False"),
        (lambda: fast(fusion="representation"), r"old\.safetensors has fuses_maps True in '', .* False"),
        (lambda: fast(dct=True), r"old\.safetensors lacks tensor 'head_dct\.bias'; only further residual blocks"),
    ],
)
def test_other_differences_are_refused(network: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        start_from(network(), trained(fast()), "old.safetensors")


@pytest.mark.parametrize("option", [{"block": "normalized"}, {"fusion": "representation"}])
def test_some_networks_cannot_become_wider_but_deeper(option: dict) -> None:
    old, deep = trained(fast(**option)), fast(**option, **DEEP)
    message = r"old\.safetensors(: tensor '\S+' is \(.*\), the network needs \(| has out_features 16 in .* network 24)"
    with pytest.raises(ValueError, match=message):
        start_from(fast(**option, **WIDE), old, "old.safetensors")
    start_from(deep, old, "old.safetensors")
    image = torch.rand(2, 1, 24, 32)
    torch.testing.assert_close(deep.eval()(image), old(image), rtol=0, atol=0)


def test_what_computes_otherwise_is_refused_though_all_tensors_fit() -> None:
    concatenating, released = (
        fast(fusion="concatenation"),
        PaperRestorer(LumaEncoder(), 1, width=8, released_fusion=True),
    )
    with pytest.raises(ValueError, match=r"old\.safetensors lacks tensor 'fuse2\.fusion\.phi1\.\S+'; only further"):
        start_from(fast(), trained(concatenating), "old.safetensors")
    with pytest.raises(ValueError, match=r"old\.pth has released_fusion True in 'stages\.0', .* network False"):
        start_from(PaperRestorer(LumaEncoder(), 1, width=8), released, "old.pth")


def test_a_network_that_makes_the_image_itself_does_not_become_one_for_colour() -> None:
    """Its luma would be the output in all three channels."""
    with pytest.raises(ValueError, match=r"arcnn\.safetensors makes the luma itself, not a change of it"):
        start_from(ARCNN(3), ARCNN(1), "arcnn.safetensors")
    again = ARCNN(1)
    start_from(again, trained := ARCNN(1), "arcnn.safetensors")
    torch.testing.assert_close(again.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_colour_does_not_become_luma() -> None:
    with pytest.raises(ValueError, match=r"rgb\.safetensors is for RGB images, the configured network for luma"):
        start_from(fast(), trained(fast(channels=3)), "rgb.safetensors")
