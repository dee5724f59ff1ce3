"""Images of any size through a restoration network: overlapping tiles, blended so that no seam shows.

An image that the network would hardly change comes back as it was. The image stays where it is, usually in main
memory; the network's device holds one tile at a time.
"""

from collections.abc import Callable
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Tiles start at multiples of 32: there the 8x8 JPEG grid, the 16x16 units of 4:2:0 colour, the strides of the networks
# and the largest pooling window of `paper` have the phase that they have in the whole image.
ALIGNMENT_PX = 32
# No image of Classic5, LIVE1 or BSDS500 is larger, so those go in whole. The widest of our networks, `paper`, keeps at
# most 18.5 maps of 64 channels alive, which is 2.6 GiB of float32 at this size (counted; the libraries' scratch comes
# on top): a GPU of 24 GB, and usually a laptop, has room for that, whatever the photo's size.
TILE_PX = 768
# Neighbours share 64 pixels. The outer 16 of each are ignored, since there the network saw its own zero padding in
# place of the picture; over the 32 between, one fades into the other.
OVERLAP_PX = 64
# Near quality 100 our networks add more error than the coding did: what they take for artifacts there is mostly the
# picture's own. So an image of which no block of 64x64 pixels would change by this much, root mean square in grey
# levels of 255, is left alone. By blocks, because a damaged line of text on a large white page must not be averaged
# away.
# configs/restorer/README.md says how the number was chosen.
LEAST_CHANGE = 1.7
CHANGE_BLOCK_PX = 64


def restore_image(
    restorer: nn.Module, image: np.ndarray, *, tile_px: int = TILE_PX, overlap_px: int = OVERLAP_PX
) -> np.ndarray:
    """Restore an image; runs on the restorer's device and in the precision of the surrounding autocast.

    Args:
        restorer: a `Restorer`, in eval mode.
        image: uint8, (H, W) for a restorer of one channel, (H, W, 3) for three; any size from one pixel up.
        tile_px, overlap_px: as in `restore_tensor`.

    Returns:
        uint8, the shape of `image`.

    Raises:
        ValueError: if the tile sizes do not fit, or the image's channels do not.
        FloatingPointError: if the network's output is not finite.
    """
    planes = image[:, :, None] if image.ndim == 2 else image
    x = torch.from_numpy(planes.transpose(2, 0, 1).astype(np.float32)).div_(255)[None]  # (1, C, H, W)
    restored = restore_tensor(restorer, x, tile_px=tile_px, overlap_px=overlap_px)
    pixels = restored[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)  # (H, W, C)
    return np.ascontiguousarray(pixels.numpy().reshape(image.shape))


@torch.inference_mode()
def restore_tensor(
    restorer: nn.Module,
    x: Tensor,
    *,
    tile_px: int = TILE_PX,
    overlap_px: int = OVERLAP_PX,
    on_tile: Callable[[float], None] | None = None,
) -> Tensor:
    """Restore a batch of images, tile by tile where a side is longer than a tile.

    Args:
        restorer: maps (N, C, h, w) to the same shape; it runs where its parameters are.
        x: (N, C, H, W) in [0, 1], on any device.
        tile_px: longest side that the network is given; a multiple of 32.
        overlap_px: pixels that neighbours share, blended in the middle half; a multiple of 64, less than `tile_px`.
        on_tile: called after each tile with its share of the work; the shares sum to 1.

    Returns:
        (N, C, H, W) float32 on the device of x, about [0, 1] but not clipped. Images that would change by less than
        `LEAST_CHANGE` are those of x.

    Raises:
        ValueError: if the tile sizes do not fit.
        FloatingPointError: if the network's output is not finite.
    """
    check_tiles(tile_px, overlap_px)
    rows, columns = (_cut(length, tile_px, overlap_px) for length in x.shape[-2:])
    device = next(restorer.parameters(), x).device
    restored = torch.zeros_like(x, dtype=torch.float32)
    for row, column in product(rows, columns):
        weights = (row.weights[:, None] * column.weights).to(x.device)  # (h, w)
        tile = restorer(x[..., row.pixels, column.pixels].to(device)).to(x.device, torch.float32)
        restored[..., row.pixels, column.pixels] += tile * weights
        if on_tile is not None:
            on_tile(1 / (len(rows) * len(columns)))
    if not restored.isfinite().all():
        raise FloatingPointError("the network's output is not finite; try --precision float32, or other weights")
    is_worth_it = _largest_change(restored - x) >= LEAST_CHANGE / 255
    return torch.where(is_worth_it[:, None, None, None], restored, x.to(restored.dtype))


def check_tiles(tile_px: int, overlap_px: int = OVERLAP_PX) -> None:
    """Refuse tile sizes that would break the alignment.

    Raises:
        ValueError: saying which sizes there are.
    """
    if overlap_px < 2 * ALIGNMENT_PX or overlap_px % (2 * ALIGNMENT_PX):
        raise ValueError(f"the overlap of tiles must be a multiple of {2 * ALIGNMENT_PX} pixels, got {overlap_px}")
    if tile_px <= overlap_px or tile_px % ALIGNMENT_PX:
        raise ValueError(
            f"the tile size must be a multiple of {ALIGNMENT_PX} pixels and at least {overlap_px + ALIGNMENT_PX}, "
            f"got {tile_px}"
        )


def _largest_change(change: Tensor) -> Tensor:
    """(N,): the largest root mean square of a block (at the edges, of a part of one) of each change (N, C, H, W)."""
    squared = change.square().mean(dim=1, keepdim=True)  # (N, 1, H, W)
    blocks = F.avg_pool2d(squared, CHANGE_BLOCK_PX, ceil_mode=True, count_include_pad=False)
    return blocks.amax(dim=(1, 2, 3)).sqrt()


class _Span(NamedTuple):
    """One tile along one axis: the pixels it covers, and what each counts there. Over all tiles, weights sum to 1."""

    pixels: slice
    weights: Tensor


def _cut(length: int, tile_px: int, overlap_px: int) -> list[_Span]:
    """As few tiles as cover a side, with shares equal to within a unit, so that little work is done twice."""
    if length <= tile_px:
        return [_Span(slice(0, length), torch.ones(length))]
    num_units = -(-length // ALIGNMENT_PX)
    num_tiles = -(-num_units * ALIGNMENT_PX // (tile_px - overlap_px))
    borders = [min(i * num_units // num_tiles * ALIGNMENT_PX, length) for i in range(num_tiles + 1)]
    # A tile's weight is the step up at its first border less the step up at its last one, so the sum over tiles is 1.
    # At the image's own edges there is nothing to blend with.
    position = torch.arange(length, dtype=torch.float64) + 0.5
    steps = [((position - border) / (overlap_px / 2) + 0.5).clamp(0, 1) for border in borders]
    steps[0], steps[-1] = torch.ones_like(position), torch.zeros_like(position)
    reach = overlap_px // 2
    spans = [slice(max(start - reach, 0), stop + reach) for start, stop in pairwise(borders)]
    return [
        _Span(span, (step - next_step)[span].float())
        for span, (step, next_step) in zip(spans, pairwise(steps), strict=True)
    ]
