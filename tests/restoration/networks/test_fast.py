"""The fast network: sizes, gradients, reach, precision, and what its options change."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cqe.config import CqeConfig
from cqe.encoder import QualityEncoder
from engine.config import parse_config
from evaluation.scores.guidance import GuidedRestorer, unchanged
from restoration.config import RestorerConfig
from restoration.networks import build_restorer
from restoration.networks.fast import FastOptions, FastRestorer, GatedBlock, ModulatedBlock, NormalizedBlock
from restoration.networks.fusion import ResidualBlock
from restoration.tiling import restore_image
from tests.places import CONFIGS

SIZES = [(1, 1), (7, 13), (8, 9), (64, 64)]
OPTIONS = [
    {},
    {"block": "normalized"},
    {"block": "gated"},
    {"fusion": "concatenation"},
    {"fusion": "representation"},
    {"dct": True},
]


def small(channels: int = 1, **options) -> FastRestorer:
    """A narrow network whose last layer is not zero, so that all its parts show in the output."""
    settings = {"widths": (4, 6, 8), "blocks_down": (1, 1, 1), "blocks_up": (1, 1, 1)} | options
    network = FastRestorer(QualityEncoder(channels, width=4, remove_local_mean=True), channels, **settings)
    nn.init.normal_(network.tail.weight, std=0.1)
    if network.dct:
        nn.init.normal_(network.tail_dct.weight, std=0.1)
    for module in network.modules():
        if isinstance(module, ModulatedBlock):
            nn.init.normal_(module.modulation.weight, std=0.1)
    return network.eval()


@pytest.mark.parametrize("options", [{}, {"dct": True}, {"fusion": "representation"}])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_any_size_comes_out_as_it_went_in(channels: int, size: tuple[int, int], options: dict) -> None:
    x = torch.rand(2, channels, *size)
    with torch.no_grad():
        restored = small(channels, **options)(x)
    assert restored.shape == x.shape and restored.isfinite().all() and (restored != x).any()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("size", SIZES)
def test_an_untrained_network_returns_its_input(size: tuple[int, int], options: dict) -> None:
    network = FastRestorer(QualityEncoder(1, width=4), 1, widths=(4, 6, 8), **options)
    x = torch.rand(2, 1, *size)
    torch.testing.assert_close(network(x), x, rtol=0, atol=0)


@pytest.mark.parametrize(("channels", "options"), [(3, {}), (3, {"dct": True}), *((1, options) for options in OPTIONS)])
def test_every_trainable_parameter_gets_a_gradient_and_the_encoder_none(channels: int, options: dict) -> None:
    network = small(channels, **options).train()
    network(torch.rand(2, channels, 24, 16)).square().mean().backward()
    for name, parameter in network.named_parameters():
        if name.startswith("encoder."):
            assert not parameter.requires_grad and parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize("options", OPTIONS)
def test_after_one_step_from_the_identity_every_parameter_learns(options: dict) -> None:
    network = FastRestorer(QualityEncoder(1, width=4), 1, widths=(4, 6, 8), **options)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=1e-3)
    x = torch.rand(2, 1, 16, 16)
    for _ in range(2):  # the first step moves the last layer alone, whose zeros hide the others
        optimizer.zero_grad()
        (network(x) - x.square()).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in trainable)


def test_widths_and_blocks_set_the_size() -> None:
    def num_parameters(**options) -> int:
        return sum(parameter.numel() for parameter in small(**options).parameters() if parameter.requires_grad)

    base = num_parameters()
    for index, width in enumerate((4, 6, 8)):
        block = 2 * (9 * width * width + width)  # two 3x3 convolutions with bias
        for option in ("blocks_down", "blocks_up"):
            counts = tuple(2 if place == index else 1 for place in range(3))
            assert num_parameters(**{option: counts}) - base == block
    assert num_parameters(widths=(8, 6, 8)) > base and num_parameters(fusion_hidden_ratio=0.5) < base
    assert small(blocks_down=(0, 0, 0), blocks_up=(0, 0, 0))(torch.rand(1, 1, 9, 9)).shape == (1, 1, 9, 9)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 1612.7400978530932),
        ({"block": "gated"}, 1698.6064773747148),
        ({"fusion": "convolution"}, 1515.036956817402),
        ({"fusion": "none"}, 1085.8878336562138),
    ],
)
def test_a_seed_draws_the_weights_that_it_always_drew(options: dict, size: float) -> None:
    """The sum of absolute weights, noted before other blocks were added: a saved config repeats its run."""
    torch.manual_seed(0)
    encoder = QualityEncoder(1, width=4, remove_local_mean=True)
    network = FastRestorer(encoder, 1, widths=(4, 6, 8), blocks_down=(1, 1, 1), blocks_up=(1, 1, 1), **options)
    drawn = sum(parameter.double().abs().sum().item() for parameter in network.parameters())
    assert drawn == pytest.approx(size, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "foo"}, r"network\.fast\.block must be one of residual, normalized, gated, got foo"),
        ({"fusion": None}, r"network\.fast\.fusion must be one of invertible, .*, none, got None"),
        ({"effm": "no"}, r"network\.fast\.effm must be true or false, got no"),
        ({"dct": 1}, r"network\.fast\.dct must be true or false, got 1"),
    ],
)
def test_options_of_no_meaning_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastOptions(**options)


@pytest.mark.parametrize("option", ["widths", "blocks_down", "blocks_up"])
def test_three_numbers_are_needed(option: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{option} needs three numbers, for 1/2, 1/4 and 1/8 of the size, got \(1, 2\)"
    ):
        small(**{option: (1, 2)})


def test_the_shipped_tiny_network_has_at_most_two_million_parameters() -> None:
    encoder_config = parse_config(CqeConfig, [f"--config={CONFIGS / 'cqe' / 'tiny_gray.yaml'}"]).encoder
    config = parse_config(
        RestorerConfig, [f"--config={CONFIGS / 'restorer' / 'fast_tiny_gray.yaml'}", "--encoder=encoder.safetensors"]
    )
    encoder = QualityEncoder(1, width=encoder_config.width, remove_local_mean=encoder_config.remove_local_mean)
    network = build_restorer(config.network, encoder, 1)
    assert sum(parameter.numel() for parameter in network.parameters()) <= 2_000_000


@pytest.mark.parametrize("options", [{}, {"block": "normalized"}, {"dct": True}])
def test_a_pixel_depends_on_a_bounded_neighbourhood(options: dict) -> None:
    """How far one pixel is felt, exactly: NaN spreads along every connection, whatever the weights.

    Counted by hand along the longest path, in image pixels, with one block everywhere. Encoder: 4 (local mean)
    + 1 (first convolution) + 1 (pooling) + 4 * 2 (E1) + 2 + 3 * 4 (E2) + 4 + 3 * 8 (E3) = 56. At 1/8, phi2 or phi3
    and a block, of two convolutions each: 4 * 8 = 32. At 1/4, with phi1 before them: 6 * 4 = 24. At 1/2 likewise
    6 * 2 = 12, and the last convolution 2. That is 126, and up to 7 more to the far side of an 8x8 cell.
    """
    network = small(**options).double()
    for position in (256, 259):
        x = torch.rand(1, 1, 512, 512, dtype=torch.float64)
        x[0, 0, position, position] = torch.nan
        with torch.no_grad():
            rows, columns = network(x)[0, 0].isnan().nonzero(as_tuple=True)
        reaches = [(side - position).abs().max().item() for side in (rows, columns)]
        assert all(126 <= reach <= 133 for reach in reaches), reaches


def test_what_is_far_away_changes_nothing() -> None:
    network, x = small(), torch.rand(1, 1, 64, 512)
    changed = x.clone()
    changed[..., 320:] = torch.rand(1, 1, 64, 192)
    with torch.no_grad():
        before, after = network(x), network(changed)
    assert (before[..., : 320 - 133] == after[..., : 320 - 133]).all()
    assert (before[..., 320:] != after[..., 320:]).any()


def test_a_batch_equals_its_images_alone() -> None:
    network, x = small(), torch.rand(3, 1, 24, 40)
    with torch.no_grad():
        alone = torch.cat([network(image[None]) for image in x])
        torch.testing.assert_close(network(x), alone, rtol=0, atol=1e-6)  # float32 sums in another order


def test_channels_last_agrees_with_contiguous() -> None:
    network, x = small(3), torch.rand(2, 3, 24, 40)
    with torch.no_grad():
        expected = network(x)
        laid_out = network.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(laid_out, expected, rtol=0, atol=1e-5)  # float32 sums in another order


def test_bfloat16_stays_within_a_grey_level() -> None:
    """bfloat16 keeps 8 bits: about 0.4 % of each number, which random signs partly average out over the layers.

    The residual is scaled to 10 grey levels (root mean square), more than a trained network adds at quality 10; the
    input reaches the output in float32, so one grey level is a tenth of the residual.
    """
    network, x = small(), torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        network.tail.weight *= 10 / 255 / (network(x) - x).square().mean().sqrt()
        expected = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(x)
    assert rounded.dtype == torch.float32
    difference: Tensor = (rounded - expected).abs() * 255
    assert difference.square().mean().sqrt() < 0.25 and difference.max() < 2


def test_a_gated_block_is_the_sum_of_its_input_and_two_products() -> None:
    block = GatedBlock(2).double()
    with torch.no_grad():
        for layer in (block.gather, block.gather_mixed):
            layer.weight.copy_(torch.eye(2)[..., None, None])
        for layer in (block.spread, block.mix):  # (x1, x2) to (x1, x2, 2 x1, 2 x2)
            layer.weight.copy_(torch.cat([torch.eye(2), 2 * torch.eye(2)])[..., None, None])
            layer.bias.zero_()
        block.depthwise.weight.zero_()
        block.depthwise.weight[:, :, 1, 1] = 1
        block.depthwise.bias.zero_()
    x = torch.rand(1, 2, 3, 3).double()
    middle = x + 2 * x * x
    torch.testing.assert_close(block(x), middle + 2 * middle * middle)


def test_a_normalized_block_reads_unit_channels_and_adds_a_scaled_residual() -> None:
    block = NormalizedBlock(2).double()
    with torch.no_grad():
        block.scale.copy_(torch.tensor([0.5, 2.0])[:, None, None])
        for layer in (block.body[0], block.body[2]):
            nn.init.dirac_(layer.weight)
            layer.bias.zero_()
    x = torch.tensor([3.0, 4.0]).double()[None, :, None, None].expand(1, 2, 3, 3)
    unit = x / 12.5**0.5  # the mean of 9 and 16
    torch.testing.assert_close(block(x), x + torch.tensor([0.5, 2.0]).double()[:, None, None] * unit)
    # The residual depends on the direction of a pixel's channels alone, but for the 1e-6 that guards the division.
    torch.testing.assert_close(block(1000 * x) - 1000 * x, block(x) - x, rtol=1e-6, atol=0)


def test_the_trunk_of_normalized_blocks_stays_in_half_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert NormalizedBlock(4)(torch.rand(1, 4, 8, 8).bfloat16()).dtype == torch.bfloat16


def test_a_modulated_block_scales_and_shifts_what_the_block_adds() -> None:
    plain = ResidualBlock(2).double()
    block = ModulatedBlock(plain, 2, representation_size=3).double()
    x, representation = torch.rand(4, 2, 5, 5).double(), torch.rand(4, 3).double()
    torch.testing.assert_close(block(x, representation), plain(x))
    weight = nn.init.normal_(block.modulation.weight)
    scale, shift = representation @ weight[:2].T, representation @ weight[2:].T
    expected = torch.stack([
        (1 + scale[n, c]) * (plain(x) - x)[n, c] + x[n, c] + shift[n, c] for n in range(4) for c in range(2)
    ]).reshape(x.shape)  # fmt: skip
    torch.testing.assert_close(block(x, representation), expected)


def test_a_representation_guides_by_its_direction() -> None:
    network, x = small(fusion="representation"), torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        features = network.encoder(x)[1]
        longer = [*features[:3], 7 * features[3]]
        other = [*features[:3], features[3].flip(1)]
        residual = network.residual(x, features)
        torch.testing.assert_close(network.residual(x, longer), residual)
        assert not torch.allclose(network.residual(x, other), residual)


def test_an_image_to_be_measured_is_not_cut_for_a_representation() -> None:
    network = small(fusion="representation")
    image = torch.randint(256, (128, 160), dtype=torch.uint8).numpy()
    with torch.no_grad():
        whole = network(torch.from_numpy(image)[None, None] / 255).mul(255).round().clamp(0, 255)[0, 0].byte().numpy()
    np.testing.assert_array_equal(restore_image(network, image, tile_px=96), whole)
    guided = GuidedRestorer(network, unchanged)
    np.testing.assert_array_equal(restore_image(guided, image, guide=image, tile_px=96), whole)
    network.tiling = "fine"
    assert (restore_image(network, image, tile_px=96) != whole).any()


def test_a_trunk_that_passes_the_coefficients_on_adds_the_image_to_itself() -> None:
    network = small(dct=True, widths=(4, 6, 64), blocks_down=(0, 0, 0), blocks_up=(0, 0, 0), fusion="none")
    with torch.no_grad():
        for layer in (network.halve4, network.tail):
            layer.weight.zero_()
            layer.bias.zero_()
        for layer in (network.head_dct, network.tail_dct):
            layer.weight.copy_(torch.eye(64)[..., None, None])
            layer.bias.zero_()
        x = torch.rand(1, 1, 24, 32)
        torch.testing.assert_close(network(x), 2 * x)  # the residual is the inverse of the image's DCT


@pytest.mark.parametrize(
    ("fusion", "is_guided"),
    [("invertible", True), ("concatenation", True), ("representation", True), ("none", False)],
)
def test_only_an_unguided_network_leaves_the_encoder_unread(fusion: str, is_guided: bool) -> None:
    network = small(fusion=fusion)
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        features = network.encoder(x)[1]
        others = [feature + torch.randn_like(feature) for feature in features]
        assert torch.equal(network.residual(x, features), network.residual(x, others)) == (not is_guided)
