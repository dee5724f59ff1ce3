"""The local recovery module of the restoration decoder: residual attention groups.

Source: "Restoration Decoder" in Section 3.2 of the paper; Zhang et al., Residual Non-local Attention Networks (RNAN),
ICLR 2019, Fig. 2, without the non-local part, as in the authors' released network. Comments give RNAN's names.
"""

import torch
from torch import Tensor, nn

from restoration.networks.fusion import ResidualBlock


class MaskBranch(nn.Module):
    """A mask in (0, 1) for every channel and pixel, from a neighbourhood seen at half size.

    (N, channels, H, W) to the same shape, for any H and W.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = ResidualBlock(channels)
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.middle = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))
        self.up = nn.ConvTranspose2d(channels, channels, 6, stride=2, padding=2)
        self.after = ResidualBlock(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        before = self.before(x)
        height, width = x.shape[-2:]
        # An odd side comes back one pixel longer, because `down` rounds up. That pixel is cut off.
        widened = self.up(self.middle(self.down(before)))[..., :height, :width]
        return torch.sigmoid(self.project(self.after(before + widened)))


class ResidualAttention(nn.Module):
    """Trunk branch times mask branch, plus their input; (N, channels, H, W) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = ResidualBlock(channels)  # RA_RB1
        self.trunk = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))  # RA_TB
        self.mask = MaskBranch(channels)  # RA_MB
        self.tail = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))  # RA_tail

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.tail(self.trunk(x) * self.mask(x) + x)


class ResidualAttentionGroup(nn.Module):
    """Residual attention and a 3x3 convolution; (N, channels, H, W) to the same shape.

    There is no skip around the group, as in the release.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = ResidualAttention(channels)
        self.merge = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.attention(x))
