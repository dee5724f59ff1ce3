"""RDN: residual dense blocks, whose outputs are all fused at the end.

Source: Zhang, Tian, Kong, Zhong, Fu, Residual Dense Network for Image Restoration (TPAMI 2021); the network for
denoising and compression artifacts, which enlarges nothing. The authors' page points to EDSR-PyTorch for PyTorch; the
modules have the names of that code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from restoration.networks.restorer import Restorer

RANGE = 255  # the authors feed grey levels, not [0, 1]


@dataclass(frozen=True)
class RDNOptions:
    """Options of "rdn" (Zhang et al. 2021).

    Args:
        width: channels of the trunk.
        growth: channels that each layer of a block adds.
        blocks: number of residual dense blocks.
        layers: convolutions in each.
    """

    width: int = 64
    growth: int = 64
    blocks: int = 16
    layers: int = 8

    def __post_init__(self) -> None:
        if min(self.width, self.growth, self.blocks, self.layers) < 1:
            raise ValueError("network.rdn: width, growth, blocks and layers must be at least 1")


class RDN(Restorer):
    """The image plus what the fused blocks give.

    Args:
        channels: image channels, 1 or 3.
        width: channels of the trunk (G0 in the paper).
        growth: channels that each layer of a block adds (G).
        blocks: number of blocks (D).
        layers: convolutions in a block (C).
    """

    takes_encoder = False

    def __init__(self, channels: int, *, width: int = 64, growth: int = 64, blocks: int = 16, layers: int = 8) -> None:
        super().__init__(None, channels, size_multiple=1)
        self.SFENet1 = nn.Conv2d(channels, width, 3, padding=1)
        self.SFENet2 = nn.Conv2d(width, width, 3, padding=1)
        self.RDBs = nn.ModuleList(ResidualDenseBlock(width, growth, layers) for _ in range(blocks))
        self.GFF = nn.Sequential(nn.Conv2d(blocks * width, width, 1), nn.Conv2d(width, width, 3, padding=1))
        self.UPNet = nn.Sequential(nn.Conv2d(width, channels, 3, padding=1))

    def restored(self, padded: Tensor) -> Tensor:
        shallow = self.SFENet1(RANGE * padded)
        trunk, of_blocks = self.SFENet2(shallow), []
        for block in self.RDBs:
            trunk = block(trunk)
            of_blocks.append(trunk)
        fused = self.GFF(torch.cat(of_blocks, dim=1)) + shallow  # (N, width, H, W)
        return padded + self.UPNet(fused) / RANGE


class ResidualDenseBlock(nn.Module):
    """Layers that each see all maps before them, fused and added to the input: (N, width, H, W) to the same shape."""

    def __init__(self, width: int, growth: int, layers: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(_DenseLayer(width + index * growth, growth) for index in range(layers)))
        self.LFF = nn.Conv2d(width + layers * growth, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.LFF(self.convs(x))


class _DenseLayer(nn.Module):
    """(N, C, H, W) to (N, C + growth, H, W)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, growth, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(x)], dim=1)
