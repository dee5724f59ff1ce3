"""The paper's restoration network, Section 3.2 and Fig. 3, in the architecture that its authors released.

Symbols: D is the trunk of the decoder; E0..E3 are the encoder's features at 1, 1/2, 1/4 and 1/8 of the size; E1' and
E2' are E1 and E2 after Eq. 3-4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restoration.networks.attention import ResidualAttentionGroup
from restoration.networks.fusion import LEAKY_SLOPE, EncoderFeatureFusion, Fusion, ResidualBlock, build_fusion
from restoration.networks.recomputing import Recomputing
from restoration.networks.restorer import Restorer

RELEASED_EXPONENT_BOUND = 0.8
POOLING_WINDOWS_PX = (4, 8, 16, 32)


@dataclass(frozen=True)
class PaperOptions:
    """Options of "paper", the authors' architecture.

    Args:
        released_fusion: true fuses as the authors' code does, false as Eq. 5-6 are printed; of "invertible" alone.
        width: channels of the trunk.
        groups: residual attention groups after the fusion of E3, E2' and E1'.
        fusion: "invertible" as the paper's. To measure what that is worth: "convolution" (concatenation and as many
            weights), "concatenation" alone, or "none" (no guidance).
        effm: false makes E1' and E2' from E1 and E2 alone, not from the neighbouring scales too.
    """

    released_fusion: bool = False
    width: int = 64
    groups: tuple[int, int, int] = (2, 4, 4)
    fusion: Fusion = "invertible"
    effm: bool = True

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"network.paper.width must be at least 1, got {self.width}")
        if min(self.groups) < 0:
            raise ValueError(f"network.paper.groups must be 0 or more, got {list(self.groups)}")
        if self.fusion not in get_args(Fusion):  # the command line checks this already, a weight file does not
            raise ValueError(f"network.paper.fusion must be one of {', '.join(get_args(Fusion))}, got {self.fusion}")


class PaperRestorer(Restorer):
    """Enlarges the encoder features to full size and fuses them into the trunk in three stages, coarse to fine.

    Args:
        encoder: the quality encoder, with `feature_channels`; it becomes frozen.
        channels: image channels, 1 or 3.
        released_fusion: False fuses as Eq. 5-6 are printed. True fuses as the authors' code does; their weights then
            give their pixels.
        width: channels of the trunk; 64 is the paper's size.
        groups: residual attention groups after the fusion of E3, of E2' and of E1'.
        fusion: "invertible" (Eq. 5-7), or one of those that show what that is worth, as in `FastRestorer`.
        effm: False makes E1' and E2' from E1 and E2 alone. True is Eq. 3-4.
    """

    recomputes = True

    def __init__(
        self,
        encoder: nn.Module,
        channels: int,
        *,
        released_fusion: bool = False,
        width: int = 64,
        groups: Sequence[int] = (2, 4, 4),
        fusion: Fusion = "invertible",
        effm: bool = True,
    ) -> None:
        super().__init__(encoder, channels, size_multiple=8)
        if len(groups) != 3:
            raise ValueError(f"groups needs three numbers, for E3, E2' and E1', got {tuple(groups)}")
        self.is_guided = fusion != "none"
        self.reads_neighbours = effm
        if self.is_guided:
            channels0, channels1, channels2, channels3 = self.encoder.feature_channels  # of E0..E3
            self.reduce2 = nn.Conv2d(channels2, width, 1)
            self.reduce3 = nn.Conv2d(channels3, width, 1)
            self.effm1 = EncoderFeatureFusion([channels1, channels0, width] if effm else [channels1], width)
            self.effm2 = EncoderFeatureFusion([width, width, channels1] if effm else [width], width)

        # DEVIATION: the text has no mixing of image and E3 before the first fusion, and no pyramid pooling. The
        # release, which made the scores of the paper's tables, has both, and so do we.
        self.head = nn.Conv2d(channels, width, 3, padding=1)
        mixed = 2 * width if self.is_guided else width
        self.mixing = nn.Sequential(*(ResidualBlock(mixed) for _ in range(4)), nn.Conv2d(mixed, width, 1))
        self.stages = nn.ModuleList(
            FusionStage(width, count, fusion=fusion, released_fusion=released_fusion) for count in groups
        )
        self.pyramid = PyramidPooling(width)
        # DEVIATION: the text's last convolution is 1x1, the release's 3x3. We follow the release.
        self.tail = nn.Conv2d(width, channels, 3, padding=1)

    def residual(self, padded: Tensor, features: Sequence[Tensor]) -> Tensor:
        guides = self._guides(features, padded.shape[-2:])
        trunk = self.head(padded)
        if self.is_guided:
            trunk = torch.cat([trunk, guides[0]], dim=1)
        for layer in self.mixing:
            trunk = self.part(layer, trunk)  # at last (N, width, H, W)
        for stage, guide in zip(self.stages, guides, strict=True):
            trunk = stage(guide, trunk)
        return self.tail(self.part(self.pyramid, trunk))

    def _guides(self, features: Sequence[Tensor], size: torch.Size) -> Sequence[Tensor | None]:
        """E3, E2' and E1', each (N, width, H, W)."""
        if not self.is_guided:
            return [None] * 3
        e0, e1, e2, e3 = features
        # The release enlarges first and convolves then. A 1x1 convolution commutes with nearest-neighbour
        # interpolation; at the small size it costs 1/16 and 1/64.
        e1 = _enlarge(e1, size)
        e2 = _enlarge(self.reduce2(e2), size)
        e3 = _enlarge(self.reduce3(e3), size)
        # The order in the brackets is the release's, because its weights depend on it. The equations count upwards.
        neighbours1, neighbours2 = ((e1, e0, e2), (e2, e3, e1)) if self.reads_neighbours else ((e1,), (e2,))
        e1_fused = self.part(lambda *features: self.effm1(features), *neighbours1)  # E1', Eq. 3
        e2_fused = self.part(lambda *features: self.effm2(features), *neighbours2)  # E2', Eq. 4
        return [e3, e2_fused, e1_fused]


class FusionStage(Recomputing):
    """One fusion, the way back to `width` channels, and residual attention groups."""

    def __init__(self, width: int, num_groups: int, *, fusion: Fusion, released_fusion: bool) -> None:
        super().__init__()
        self.is_guided = fusion != "none"
        self.released_fusion = released_fusion
        self.fusion = build_fusion(fusion, width, exponent_bound=RELEASED_EXPONENT_BOUND if released_fusion else None)
        if self.is_guided:
            self.merge = nn.Conv2d(2 * width, width, 3, padding=1)
        self.groups = nn.Sequential(*(ResidualAttentionGroup(width) for _ in range(num_groups)))

    def forward(self, e: Tensor | None, d: Tensor) -> Tensor:
        """Encoder feature E and trunk D, both (N, width, H, W), to the next trunk of that shape."""
        trunk = self.part(self._fused, e, d) if self.is_guided else d
        for group in self.groups:
            trunk = self.part(group, trunk)
        return trunk

    def _fused(self, e: Tensor, d: Tensor) -> Tensor:
        # DEVIATION: Eq. 5-6 add phi1(D) to E and scale D; the release adds phi1(E) to D and scales E, and bounds the
        # exponent. `released_fusion=False` is the printed form, and the default.
        pair = (d, e) if self.released_fusion else (e, d)
        fused = self.fusion(*pair) if self.fusion else pair
        return self.merge(torch.cat(fused, dim=1))  # Eq. 7: (N, 2*width, H, W), then (N, width, H, W)


class PyramidPooling(nn.Module):
    """Adds what four coarse averages of the trunk see: (N, width, H, W) to the same shape, any H and W.

    Averages over windows of 4, 8, 16 and 32 pixels become one channel each, are enlarged back and joined to the input.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for _ in POOLING_WINDOWS_PX)
        self.merge = nn.Conv2d(len(POOLING_WINDOWS_PX) + width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = size = x.shape[-2:]
        maps = []
        for window, projection in zip(POOLING_WINDOWS_PX, self.projections, strict=True):
            # DEVIATION: the release fails where a side is shorter than the window. Here the window is cut to that side.
            # Sides of 32 or more are pooled as in the release, which drops the last, partial window.
            pooled = F.avg_pool2d(x, (min(window, height), min(window, width)))
            maps.append(_enlarge(F.leaky_relu(projection(pooled), LEAKY_SLOPE), size))
        return F.leaky_relu(self.merge(torch.cat([*maps, x], dim=1)), LEAKY_SLOPE)


def _enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="nearest")
