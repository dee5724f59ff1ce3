"""A plain residual U-shaped network, without encoder, attention or normalisation: what topology alone gives.

Its form is that of DRUNet (Zhang et al., Plug-and-Play Image Restoration with Deep Denoiser Prior, TPAMI 2021), with
biases and this project's residual blocks. Unlike DRUNet it is not told the quality, and it gives a residual.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from restoration.networks.fusion import ResidualBlock
from restoration.networks.recomputing import RecomputingBlocks
from restoration.networks.restorer import Restorer


@dataclass(frozen=True)
class UNetOptions:
    """Options of "unet", a plain residual U-shaped network.

    Args:
        widths: channels at full size, half size and so on; as many scales as there are numbers.
        blocks: residual blocks at each scale on the way down, and again on the way up; once at the smallest scale.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 4

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or self.blocks < 0:
            raise ValueError("network.unet.widths must name at least one width of at least 1, and blocks be 0 or more")


class UNet(Restorer):
    """The image plus what a U-shaped row of residual blocks gives; maps of equal scale are added.

    Args:
        channels: image channels, 1 or 3.
        widths: channels at 1, 1/2, 1/4, ... of the size.
        blocks: residual blocks at each scale and on each side.
    """

    takes_encoder = False
    recomputes = True

    def __init__(self, channels: int, *, widths: Sequence[int] = (64, 128, 256, 512), blocks: int = 4) -> None:
        super().__init__(None, channels, size_multiple=2 ** (len(widths) - 1))
        *outer, inner = widths
        pairs = list(zip(outer, widths[1:], strict=True))
        self.head = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_blocks(width, blocks) for width in outer)
        self.shrink = nn.ModuleList(nn.Conv2d(width, below, 2, stride=2) for width, below in pairs)
        self.bottom = _blocks(inner, blocks)
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(below, width, 2, stride=2) for width, below in pairs)
        self.up = nn.ModuleList(_blocks(width, blocks) for width in outer)
        self.tail = nn.Conv2d(widths[0], channels, 3, padding=1)
        # Training starts from the identity: the first residual is zero.
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)

    def restored(self, padded: Tensor) -> Tensor:
        trunk, skips = self.head(padded), []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            skips.append(blocks(trunk))
            trunk = shrink(skips[-1])
        trunk = self.bottom(trunk)
        for blocks, enlarge, skip in zip(reversed(self.up), reversed(self.enlarge), reversed(skips), strict=True):
            trunk = blocks(enlarge(trunk) + skip)
        return padded + self.tail(trunk)


def _blocks(width: int, count: int) -> RecomputingBlocks:
    return RecomputingBlocks(*(ResidualBlock(width) for _ in range(count)))
