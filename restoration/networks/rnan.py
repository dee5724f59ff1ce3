"""RNAN: residual attention groups, the first and the last of them with non-local attention.

Source: Zhang, Li, Li, Zhong, Fu, Residual Non-local Attention Networks for Image Restoration (ICLR 2019), in the form
that its authors released, with their names of modules.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from restoration.networks.fusion import ResidualBlock
from restoration.networks.restorer import Restorer

RANGE = 255  # the authors feed grey levels, not [0, 1]
# The non-local attention compares every pixel with every other one, so the authors cut images into quarters, again and
# again, until a part has fewer pixels than this. The parts overlap; sides are multiples of 4.
PART_PIXELS, PART_MULTIPLE_PX, PART_MARGIN_PX = 10_000, 4, 12


@dataclass(frozen=True)
class RNANOptions:
    """Options of "rnan" (Zhang et al. 2019).

    Args:
        width: channels of the trunk.
        groups: number of attention groups, at least 2; the first and the last are non-local.
    """

    width: int = 64
    groups: int = 10

    def __post_init__(self) -> None:
        if self.width < 2 or self.groups < 2:
            raise ValueError(f"network.rnan needs width >= 2 and groups >= 2, got {self.width} and {self.groups}")


class RNAN(Restorer):
    """The image plus what the attention groups give. In eval mode it cuts images into parts, as the authors' code does.

    Args:
        channels: image channels, 1 or 3.
        width: channels of the trunk.
        groups: number of attention groups, the two non-local ones included.
    """

    takes_encoder = False
    tiling = "never"

    def __init__(self, channels: int, *, width: int = 64, groups: int = 10) -> None:
        super().__init__(None, channels, size_multiple=1)
        self.head = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1))
        self.body_nl_low = nn.Sequential(_Group(width, is_nonlocal=True))
        self.body = nn.Sequential(
            *(_Group(width, is_nonlocal=False) for _ in range(groups - 2)), nn.Conv2d(width, width, 3, padding=1)
        )
        self.body_nl_high = nn.Sequential(_Group(width, is_nonlocal=True))
        self.tail = nn.Sequential(nn.Conv2d(width, channels, 3, padding=1))

    def restored(self, padded: Tensor) -> Tensor:
        restore = self._at_once if self.training else self._in_parts
        return restore(RANGE * padded) / RANGE

    def _at_once(self, x: Tensor) -> Tensor:
        return x + self.tail(self.body_nl_high(self.body(self.body_nl_low(self.head(x)))))

    def _in_parts(self, x: Tensor) -> Tensor:
        """Four overlapping quarters, each cut again while it is too large. Of each, the inner part is used."""
        spans = [_quartered(side) for side in x.shape[-2:]]
        part_sides = [part.stop for (part, _, _), _ in spans]
        if any(part > side for part, side in zip(part_sides, x.shape[-2:], strict=True)):
            return self._at_once(x)  # too small to be cut; the authors' code needs larger images
        restore = self._at_once if math.prod(part_sides) < PART_PIXELS else self._in_parts
        result = torch.empty_like(x)
        for (rows, used_rows, to_rows), (columns, used_columns, to_columns) in product(*spans):
            part = restore(x[..., rows, columns])
            result[..., to_rows, to_columns] = part[..., used_rows, used_columns]
        return result


def _quartered(side: int) -> tuple[tuple[slice, slice, slice], tuple[slice, slice, slice]]:
    """Two parts of a side. For each: its pixels, those of the part that are used, and their place in the image."""
    half = side // 2
    part = half // PART_MULTIPLE_PX * PART_MULTIPLE_PX + PART_MARGIN_PX
    first = slice(0, part), slice(0, half), slice(0, half)
    return first, (slice(side - part, side), slice(part - (side - half), part), slice(half, side))


class _Group(nn.Module):
    """Residual attention and a 3x3 convolution; (N, width, H, W) to the same shape."""

    def __init__(self, width: int, *, is_nonlocal: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(_Attention(width, is_nonlocal=is_nonlocal), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class _Attention(nn.Module):
    """Trunk branch times mask branch, plus their input; (N, width, H, W) to the same shape."""

    def __init__(self, width: int, *, is_nonlocal: bool) -> None:
        super().__init__()
        self.RA_RB1 = nn.Sequential(_block(width))
        self.RA_TB = nn.Sequential(_Blocks(width))
        self.RA_MB = nn.Sequential(_Mask(width, is_nonlocal=is_nonlocal))
        self.RA_tail = nn.Sequential(_block(width), _block(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.RA_RB1(x)
        return self.RA_tail(self.RA_TB(x) * self.RA_MB(x) + x)


class _Mask(nn.Module):
    """A mask in (0, 1) from a neighbourhood seen at half size; (N, width, H, W) to the same shape, for any H and W."""

    def __init__(self, width: int, *, is_nonlocal: bool) -> None:
        super().__init__()
        self.MB_RB1 = nn.Sequential(*([NonLocal(width)] if is_nonlocal else []), _block(width))
        self.MB_Down = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1))
        self.MB_RB2 = nn.Sequential(_block(width), _block(width))
        self.MB_Up = nn.Sequential(nn.ConvTranspose2d(width, width, 6, stride=2, padding=2))
        self.MB_RB3 = nn.Sequential(_block(width))
        self.MB_1x1conv = nn.Sequential(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        before = self.MB_RB1(x)
        # An odd side comes back one pixel longer. The authors' code needs even sides.
        widened = self.MB_Up(self.MB_RB2(self.MB_Down(before)))[..., : x.shape[-2], : x.shape[-1]]
        return torch.sigmoid(self.MB_1x1conv(self.MB_RB3(before + widened)))


class NonLocal(nn.Module):
    """Adds to each pixel a mean of all pixels, weighted by likeness; (N, width, H, W) to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Conv2d(width, width // 2, 1)
        self.W = nn.Conv2d(width // 2, width, 1)
        self.theta = nn.Conv2d(width, width // 2, 1)
        self.phi = nn.Conv2d(width, width // 2, 1)
        nn.init.zeros_(self.W.weight)
        nn.init.zeros_(self.W.bias)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))  # (N, C, H*W)
        # DEVIATION from the paper: the weights that a pixel gives, not those that it takes, sum to 1, as released.
        weights = (queries.transpose(1, 2) @ keys).softmax(dim=1)  # (N, H*W of queries, H*W of keys)
        mixed = (weights @ values.transpose(1, 2)).transpose(1, 2)  # (N, C, H*W)
        return x + self.W(mixed.reshape(x.shape[0], -1, *x.shape[-2:]))


class _Blocks(nn.Module):
    """Two blocks, one module deeper than elsewhere: the names of the release need it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(width), _block(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def _block(width: int) -> ResidualBlock:
    return ResidualBlock(width, slope=0)  # with ReLU, as RNAN has it
