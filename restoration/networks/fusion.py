"""The multi-scale information lossless fusion module: EFFM (Eq. 3-4) and the invertible module (Eq. 5-7).

Source: Section 3.2 and Fig. 4 of the paper.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

LEAKY_SLOPE = 0.1

# How E and D meet. Only the first is the paper's method; the others measure what it is worth.
Fusion = Literal["invertible", "convolution", "concatenation", "none"]


class ResidualBlock(nn.Module):
    """3x3 convolution, LeakyReLU, 3x3 convolution, plus the input: (N, channels, H, W) to the same shape.

    Args:
        channels: of input and output.
        hidden: channels between the convolutions; None means `channels`.
        slope: of the LeakyReLU; 0 makes it a ReLU.
    """

    def __init__(self, channels: int, hidden: int | None = None, *, slope: float = LEAKY_SLOPE) -> None:
        super().__init__()
        hidden = hidden or channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.LeakyReLU(slope, inplace=True),
            nn.Conv2d(hidden, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class EncoderFeatureFusion(nn.Module):
    """EFFM: fuses encoder features of neighbouring scales into one map. The caller brings them to one size.

    Args:
        in_channels: channels of each map, in the order that `forward` takes them.
        out_channels: channels of the result.

    Source: Eq. 3-4 and Fig. 4(a).
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(sum(in_channels), out_channels, 1),
            nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Fuse maps (N, in_channels[i], H, W) of one height and width into (N, out_channels, H, W)."""
        return self.body(torch.cat(list(features), dim=1))


class InvertibleFusion(nn.Module):
    """INM: mixes an encoder feature and a decoder feature so that both can be recovered from the result.

        F1 = E + phi1(D)                                              (5)
        F2 = D * exp(phi2(F1)) + phi3(F1)                             (6)

    with a residual block for each phi. Eq. 7, the concatenation, is left to the caller.

    Args:
        channels: of E and of D.
        hidden: channels inside the residual blocks; None means `channels`.
        exponent_bound: None uses the exponent phi2(F1) as printed. A bound b uses
            `b * (2 * sigmoid(phi2(F1)) - 1)`, which stays between -b and b.

    Source: Eq. 5-6 and Fig. 4(b).
    """

    def __init__(self, channels: int, *, hidden: int | None = None, exponent_bound: float | None = None) -> None:
        super().__init__()
        if exponent_bound is not None and exponent_bound <= 0:
            raise ValueError(f"exponent_bound must be > 0 or null (unbounded, as Eq. 6), got {exponent_bound}")
        self.exponent_bound = exponent_bound
        self.phi1 = ResidualBlock(channels, hidden)
        self.phi2 = ResidualBlock(channels, hidden)
        self.phi3 = ResidualBlock(channels, hidden)

    def forward(self, e: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse encoder feature E and decoder feature D, both (N, channels, H, W), into F1 and F2 of that shape."""
        f1 = e + self.phi1(d)
        f2 = d * torch.exp(self._exponent(f1)) + self.phi3(f1)
        return f1, f2

    def inverse(self, f1: Tensor, f2: Tensor) -> tuple[Tensor, Tensor]:
        """The E and D that `forward` made F1 and F2 from, up to rounding."""
        d = (f2 - self.phi3(f1)) * torch.exp(-self._exponent(f1))
        e = f1 - self.phi1(d)
        return e, d

    def _exponent(self, f1: Tensor) -> Tensor:
        # DEVIATION: the release bounds the exponent (0.8); Eq. 6 does not. `exponent_bound=None` is the printed form.
        if self.exponent_bound is None:
            return self.phi2(f1)
        return self.exponent_bound * (2 * torch.sigmoid(self.phi2(f1)) - 1)


class ConvolutionFusion(nn.Module):
    """Concatenation and convolutions in place of the invertible module, with as many weights and operations.

    Args:
        channels: of E and of D.
        hidden: as that of the `InvertibleFusion` which it stands in for.

    Source: model-3 of Table 5. The paper says that the number of parameters stays about the same.
    """

    def __init__(self, channels: int, *, hidden: int | None = None) -> None:
        super().__init__()
        # phi1, phi2 and phi3 have 3 * (channels * hidden) weights for each tap of a layer; so have these two layers.
        self.body = ResidualBlock(2 * channels, max(1, 3 * (hidden or channels) // 2))

    def forward(self, e: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse E and D, both (N, channels, H, W), into two maps of that shape."""
        return self.body(torch.cat([e, d], dim=1)).chunk(2, dim=1)


def build_fusion(
    kind: Fusion, channels: int, *, hidden: int | None = None, exponent_bound: float | None = None
) -> nn.Module | None:
    """The module that turns (E, D) into two maps; None where E and D stay as they are. Arguments as the classes'.

    Raises:
        ValueError: if there is no such kind of fusion.
    """
    if kind == "invertible":
        return InvertibleFusion(channels, hidden=hidden, exponent_bound=exponent_bound)
    if kind == "convolution":
        return ConvolutionFusion(channels, hidden=hidden)
    if kind not in get_args(Fusion):
        raise ValueError(f"fusion must be one of {', '.join(get_args(Fusion))}, got {kind!r}")
    return None
