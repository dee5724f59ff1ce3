"""The fast network: the paper's idea, each encoder feature fused at its own scale in a U-shaped decoder.

The paper's network enlarges E1..E3 to full size and works there; that takes 570 GMAC for 256x256 pixels. Here the trunk
starts at half size (2x2 pixels become channels, nothing is lost) and goes down to 1/8. On the way up it is fused with
E3, E2' and E1' at the scales at which the encoder made them, each in an invertible module (Eq. 5-7).

There is no global pooling and no normalisation over positions. A pixel depends on a bounded neighbourhood, so
overlapping tiles match the whole image to a fraction of a grey level. The one exception is guidance by the encoder's
representation, which is a mean over the image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restoration.networks.block_dct import BLOCK_PX, BlockDct
from restoration.networks.fusion import EncoderFeatureFusion, Fusion, ResidualBlock, build_fusion
from restoration.networks.recomputing import Recomputing, RecomputingBlocks
from restoration.networks.restorer import Restorer

Block = Literal["residual", "normalized", "gated"]
# Those of `Fusion` and one more, written out: of a union of types the command line would not list the values.
Guidance = Literal["invertible", "convolution", "concatenation", "representation", "none"]

# DEVIATION: the exponent is bounded, as in the release but not in Eq. 6. Training in half precision needs that.
EXPONENT_BOUND = 0.8


@dataclass(frozen=True)
class FastOptions:
    """Options of "fast", which is ours.

    Args:
        widths: channels of the trunk at 1/2, 1/4 and 1/8 of the size.
        blocks_down: blocks before each halving, and at 1/8 before the fusion.
        blocks_up: blocks after the fusion at 1/2, 1/4 and 1/8.
        fusion_hidden_ratio: channels inside the fusions' residual blocks, as a share of the trunk's.
        block: what the trunk is made of: "residual" (two 3x3 convolutions), "normalized" (the same, after a
            normalisation of each pixel's channels) or "gated" (depthwise, with products).
        fusion: "invertible" as the paper's. To measure what that is worth: "convolution" (concatenation and as many
            weights), "concatenation" alone, "representation" (no maps; the encoder's representation scales and shifts
            what each block adds) or "none" (no guidance).
        effm: false makes E1' and E2' from E1 and E2 alone, not from the neighbouring scales too.
        dct: the trunk at 1/8 also reads the DCT coefficients of 8x8 cells, and adds to them. The cells start at the
            image's corner; they are the JPEG's blocks if it was not cropped (data.aligned_share). With Muon, set
            optim.adam_layers to [head,tail,head_dct,tail_dct].
    """

    widths: tuple[int, int, int] = (64, 128, 192)
    blocks_down: tuple[int, int, int] = (2, 2, 2)
    blocks_up: tuple[int, int, int] = (4, 4, 4)
    fusion_hidden_ratio: float = 1.0
    block: Block = "residual"
    fusion: Guidance = "invertible"
    effm: bool = True
    dct: bool = False

    def __post_init__(self) -> None:
        if min(*self.widths, *self.blocks_down, *self.blocks_up) < 0 or min(self.widths) < 1:
            raise ValueError("network.fast.widths must be at least 1, blocks_down and blocks_up at least 0")
        if not 0 < self.fusion_hidden_ratio < math.inf:
            raise ValueError(f"network.fast.fusion_hidden_ratio must be > 0, got {self.fusion_hidden_ratio}")
        # The command line checks these types already, a weight file does not.
        for name, allowed in (("block", get_args(Block)), ("fusion", get_args(Guidance))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"network.fast.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)}")
        for name in ("effm", "dct"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"network.fast.{name} must be true or false, got {getattr(self, name)}")


class FastRestorer(Restorer):
    """U-shaped decoder at 1/2, 1/4 and 1/8 of the image's size, with invertible fusion at each.

    Args:
        encoder: the quality encoder, with `feature_channels`; it becomes frozen.
        channels: image channels, 1 or 3.
        widths: channels of the trunk at 1/2, 1/4 and 1/8.
        blocks_down: blocks before each halving, and at 1/8 before the fusion.
        blocks_up: blocks after the fusion at 1/2, 1/4 and 1/8.
        fusion_hidden_ratio: channels inside the residual blocks of the fusions, as a share of the trunk's.
        block: what the trunk is made of: "residual" (two 3x3 convolutions), "normalized" (`NormalizedBlock`) or
            "gated" (`GatedBlock`).
        fusion: "invertible" (Eq. 5-7). Others show what that is worth: "convolution" (`ConvolutionFusion`),
            "concatenation" of the encoder's feature and the trunk (Eq. 7 alone), "representation" (`ModulatedBlock`
            throughout the trunk, and no maps) and "none", a trunk that does not see the encoder.
        effm: False makes E1' and E2' from E1 and E2 alone. True is Eq. 3-4.
        dct: True joins the DCT coefficients of the 8x8 pixel cells to the trunk at 1/8, and adds a residual to them.
            The cells start at the image's corner, so they are the JPEG's blocks unless the image was cropped.
    """

    recomputes = True

    def __init__(
        self,
        encoder: nn.Module,
        channels: int,
        *,
        widths: Sequence[int] = (64, 128, 192),
        blocks_down: Sequence[int] = (2, 2, 2),
        blocks_up: Sequence[int] = (4, 4, 4),
        fusion_hidden_ratio: float = 1.0,
        block: Block = "residual",
        fusion: Guidance = "invertible",
        effm: bool = True,
        dct: bool = False,
    ) -> None:
        super().__init__(encoder, channels, size_multiple=8)
        for name, values in (("widths", widths), ("blocks_down", blocks_down), ("blocks_up", blocks_up)):
            if len(values) != 3:
                raise ValueError(f"{name} needs three numbers, for 1/2, 1/4 and 1/8 of the size, got {tuple(values)}")
        width2, width4, width8 = widths
        # A gated block multiplies halves of its channels, "convolution" fusion gives pairs of maps, a modulation gives
        # scales and shifts, and a normalised block divides by all channels: none can be padded at the end.
        if block == "residual" and fusion in ("invertible", "concatenation", "none"):
            self.concatenated_inputs = {"merge": 2}
        self.is_guided = fusion != "none"
        self.fuses_maps = fusion not in ("none", "representation")
        self.reads_neighbours = effm
        representation_size = self.encoder.feature_channels[3] if fusion == "representation" else None
        if representation_size:
            self.tiling = "discouraged"  # a tile's representation is not quite the image's
        if self.fuses_maps:
            channels0, channels1, channels2, channels3 = self.encoder.feature_channels  # of E0..E3
            self.effm1 = EncoderFeatureFusion([channels0, channels1, channels2] if effm else [channels1], width2)
            self.effm2 = EncoderFeatureFusion([channels1, channels2, channels3] if effm else [channels2], width4)
            self.reduce3 = nn.Conv2d(channels3, width8, 1)

        def row(width: int, count: int) -> RecomputingBlocks:
            return _blocks(block, width, count, representation_size)

        def stage(width: int, count: int) -> _FusionStage:
            fused = fusion if self.fuses_maps else None
            return _FusionStage(fused, width, fusion_hidden_ratio, blocks=lambda: row(width, count))

        self.head = nn.Conv2d(4 * channels, width2, 3, padding=1)
        self.down2 = row(width2, blocks_down[0])
        self.halve2 = nn.Conv2d(width2, width4, 2, stride=2)
        self.down4 = row(width4, blocks_down[1])
        self.halve4 = nn.Conv2d(width4, width8, 2, stride=2)
        self.down8 = row(width8, blocks_down[2])
        self.fuse8 = stage(width8, blocks_up[2])
        self.double8 = nn.Conv2d(width8, 4 * width4, 1)
        self.fuse4 = stage(width4, blocks_up[1])
        self.double4 = nn.Conv2d(width4, 4 * width2, 1)
        self.fuse2 = stage(width2, blocks_up[0])
        self.tail = nn.Conv2d(width2, 4 * channels, 3, padding=1)
        last = [self.tail]
        self.dct = BlockDct(channels) if dct else None
        if self.dct:
            num_coefficients = BLOCK_PX**2 * channels
            self.head_dct = nn.Conv2d(num_coefficients, width8, 1)
            self.tail_dct = nn.Conv2d(width8, num_coefficients, 1)
            last.append(self.tail_dct)
        # Training starts from the identity: the first residual is zero.
        for layer in last:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def residual(self, padded: Tensor, features: Sequence[Tensor]) -> Tensor:
        guides = self._guides(features)
        condition = self._condition(features)

        trunk2 = self.down2(self.head(F.pixel_unshuffle(padded, 2)), *condition)  # (N, width2, H/2, W/2)
        trunk4 = self.down4(self.halve2(trunk2), *condition)  # (N, width4, H/4, W/4)
        trunk8 = self.halve4(trunk4)  # (N, width8, H/8, W/8)
        if self.dct:
            trunk8 = trunk8 + self.head_dct(self.dct(padded))
        trunk8 = self.fuse8(guides[2], self.down8(trunk8, *condition), *condition)
        trunk4 = self.fuse4(guides[1], trunk4 + F.pixel_shuffle(self.double8(trunk8), 2), *condition)
        trunk2 = self.fuse2(guides[0], trunk2 + F.pixel_shuffle(self.double4(trunk4), 2), *condition)
        residual = F.pixel_shuffle(self.tail(trunk2), 2)  # (N, channels, H, W)
        return residual + self.dct.inverse(self.tail_dct(trunk8)) if self.dct else residual

    def _condition(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """The encoder's representation, (N, size), for the blocks that it modulates; else nothing."""
        if not self.is_guided or self.fuses_maps:
            return []
        # The encoder's own representation, scaled to unit mean square: the contrastive loss compares directions only,
        # so a length says nothing.
        e3 = features[3]
        representation = e3.mean(dim=(2, 3), dtype=torch.promote_types(e3.dtype, torch.float32))
        return [F.normalize(representation, dim=1) * representation.shape[1] ** 0.5]

    def _guides(self, features: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """E1', E2' and E3 for 1/2, 1/4 and 1/8, each with the trunk's channels there."""
        if not self.fuses_maps:
            return [None] * 3
        e0, e1, e2, e3 = features
        around1 = [F.avg_pool2d(e0, 2), e1, _double(e2)] if self.reads_neighbours else [e1]
        around2 = [F.avg_pool2d(e1, 2), e2, _double(e3)] if self.reads_neighbours else [e2]
        return [self.effm1(around1), self.effm2(around2), self.reduce3(e3)]  # Eq. 3, Eq. 4


class NormalizedBlock(ResidualBlock):
    """A residual block that reads its input divided by the root mean square of each pixel's own channels.

    (N, channels, H, W) to the same shape. What it adds is scaled by a weight for each channel. No pixel reads another,
    so tiles still match the whole image. Source: Zhang and Sennrich, Root Mean Square Layer Normalization (2019).
    """

    INITIAL_SCALE = 0.2  # of what a block adds to its input

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), self.INITIAL_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        # The mean in float32, the rest in the trunk's own type: under autocast the trunk stays in half precision.
        mean_square = x.square().mean(dim=1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        added = self.body(x * torch.rsqrt(mean_square + 1e-6).to(x.dtype))
        return x + self.scale.to(added.dtype) * added


class ModulatedBlock(nn.Module):
    """A block of which the representation scales and shifts what it adds: x + (1 + scale) * (block(x) - x) + shift.

    Args:
        block: (N, channels, H, W) to the same shape.
        channels: of the block.
        representation_size: of the representation.

    Source: Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer (2018).
    """

    def __init__(self, block: nn.Module, channels: int, representation_size: int) -> None:
        super().__init__()
        self.block = block
        self.modulation = nn.Linear(representation_size, 2 * channels)
        nn.init.zeros_(self.modulation.weight)  # at first the block is as it was
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, representation: Tensor) -> Tensor:
        """x: (N, channels, H, W), representation: (N, representation_size); returns the shape of x."""
        scale, shift = self.modulation(representation)[..., None, None].chunk(2, dim=1)  # (N, channels, 1, 1) each
        return x + (1 + scale) * (self.block(x) - x) + shift


class GatedBlock(nn.Module):
    """Depthwise 3x3 convolution and pointwise mixing, each halved by a product of its channels, each with a residual.

    (N, channels, H, W) to the same shape. Source: the block of Chen et al., Simple Baselines for Image Restoration
    (ECCV 2022). Its channel attention is left out, because it looks at the whole image. Its normalisation was not
    tried.
    """

    INITIAL_SCALE = 0.3  # of what a block adds to its input: products grow fast with depth

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.gather = nn.Conv2d(channels, channels, 1)
        self.mix = nn.Conv2d(channels, 2 * channels, 1)
        self.gather_mixed = nn.Conv2d(channels, channels, 1)
        for last in (self.gather, self.gather_mixed):
            nn.init.zeros_(last.bias)
            with torch.no_grad():
                last.weight.mul_(self.INITIAL_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gather(_gated(self.depthwise(self.spread(x))))
        return x + self.gather_mixed(_gated(self.mix(x)))


class _FusionStage(Recomputing):
    """One fusion, the way back to the trunk's channels, and blocks."""

    def __init__(
        self, fusion: Fusion | None, width: int, hidden_ratio: float, blocks: Callable[[], RecomputingBlocks]
    ) -> None:
        super().__init__()
        if fusion:
            hidden = max(1, round(width * hidden_ratio))
            self.fusion = build_fusion(fusion, width, hidden=hidden, exponent_bound=EXPONENT_BOUND)
            self.merge = nn.Conv2d(2 * width, width, 1)
        # Made last: a seed draws the weights in this order.
        self.blocks = blocks()

    def forward(self, e: Tensor | None, d: Tensor, *condition: Tensor) -> Tensor:
        """Encoder feature E, if there is one, and trunk D, both (N, width, h, w), to the next trunk of that shape."""
        return self.blocks(d if e is None else self.part(self._fused, e, d), *condition)

    def _fused(self, e: Tensor, d: Tensor) -> Tensor:
        fused = self.fusion(e, d) if self.fusion else (e, d)
        return self.merge(torch.cat(fused, dim=1))  # Eq. 7, then (N, width, h, w)


def _blocks(block: Block, width: int, count: int, representation_size: int | None) -> RecomputingBlocks:
    """A row of blocks; modulated ones if there is a representation."""
    kind = {"residual": ResidualBlock, "normalized": NormalizedBlock, "gated": GatedBlock}[block]
    row = [kind(width) for _ in range(count)]
    if representation_size:
        row = [ModulatedBlock(one, width, representation_size) for one in row]
    return RecomputingBlocks(*row)


def _gated(x: Tensor) -> Tensor:
    """(N, 2C, H, W) to (N, C, H, W): the product of the first and the second half of the channels."""
    first, second = x.chunk(2, dim=1)
    return first * second


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
