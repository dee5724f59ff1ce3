"""Restores images of any size, in overlapping tiles that are blended so that no seam shows.

An image that the network would hardly change is returned as it was. The image stays where it is, usually in main
memory; only one tile at a time is on the network's device. An image is restored from top to bottom, one row of tiles at
a time, so a large photo is never held as a whole in floating point.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.color import to_image, to_tensor
from restoration.fineness import fineness_of

# Tiles start at multiples of 32. Then the 8x8 JPEG grid, the 16x16 units of 4:2:0 colour, the strides of the networks
# and the largest pooling window of `paper` lie in a tile as they lie in the whole image.
ALIGNMENT_PX = 32
# No image of Classic5, LIVE1 or BSDS500 is larger, so those are restored whole. Our widest network, `paper`, needs at
# most 18.5 maps of 64 channels at once: 2.6 GiB of float32 at this size (counted; the libraries need some more). A GPU
# with 24 GB has room for that, and usually a laptop, whatever the size of the photo.
TILE_PX = 768
# Neighbours share 64 pixels. The outer 16 of each tile are ignored, because the network saw zero padding beside them in
# place of the picture. Over the 32 pixels between, one tile fades into the other.
OVERLAP_PX = 64
CHANGE_BLOCK_PX = 64  # the change of an image is measured in blocks: see `restoration.fineness`


class Strip(NamedTuple):
    """Some rows of a batch of images, in full width.

    Attributes:
        rows: the rows of the images.
        seen: (N, C, h, W), the images in these rows, as `read` gave them.
        restored: (N, C, h, W) float32, the output of the network in these rows.
        is_worth_it: (N,) bool, whether a block of the image, from the top to the end of this strip, changes by at least
            the network's limit. The value of the last strip is that of the whole image.
    """

    rows: slice
    seen: Tensor
    restored: Tensor
    is_worth_it: Tensor


def restore_image(
    restorer: nn.Module,
    image: np.ndarray,
    *,
    guide: np.ndarray | None = None,
    tile_px: int = TILE_PX,
    overlap_px: int = OVERLAP_PX,
) -> np.ndarray:
    """Restore an image, on the restorer's device and in the precision of the surrounding autocast.

    A fine image is returned as it was: see `restoration.fineness`.

    Args:
        restorer: a `Restorer`, in eval mode. If tiles are discouraged for it, the image is not cut.
        image: uint8, (H, W) if the restorer has one channel, (H, W, 3) if it has three; of any size from one pixel up.
        guide: uint8, a second image of the same shape, for a restorer that takes one.
        tile_px, overlap_px: as in `restore_tensor`.

    Returns:
        uint8, with the shape of `image`.

    Raises:
        ValueError: if the tile sizes are not allowed, or the restorer is for other channels.
        FloatingPointError: if the network's output is not finite.
    """
    check_tiles(tile_px, overlap_px)
    if fineness_of(restorer).is_read(image):
        return image.copy()
    if getattr(restorer, "tiling", "fine") == "discouraged":
        tile_px = -(-max(tile_px, *image.shape[:2]) // ALIGNMENT_PX) * ALIGNMENT_PX
    guide = None if guide is None else to_tensor(guide)[None]
    restored = restore_tensor(restorer, to_tensor(image)[None], guide=guide, tile_px=tile_px, overlap_px=overlap_px)
    return to_image(restored[0])


@torch.inference_mode()
def restore_tensor(
    restorer: nn.Module,
    x: Tensor,
    *,
    guide: Tensor | None = None,
    tile_px: int = TILE_PX,
    overlap_px: int = OVERLAP_PX,
    on_tile: Callable[[float], None] | None = None,
) -> Tensor:
    """Restore a batch of images. A side that is longer than a tile is cut into tiles.

    Args:
        restorer, guide, tile_px, overlap_px, on_tile: as in `restore_strips`.
        x: (N, C, H, W) in [0, 1], on any device.

    Returns:
        (N, C, H, W) float32 on the device of x, about [0, 1] but not clipped. Images that would change by less than the
        network's limit are returned as they are in x.

    Raises:
        ValueError: if the tile sizes are not allowed.
        FloatingPointError: if the network's output is not finite.
    """
    restored = torch.empty_like(x, dtype=torch.float32)
    strips = restore_strips(
        restorer,
        lambda rows: x[..., rows, :],
        x.shape[-2:],
        guide=guide,
        tile_px=tile_px,
        overlap_px=overlap_px,
        on_tile=on_tile,
    )
    for strip in strips:
        restored[..., strip.rows, :] = strip.restored
    return torch.where(strip.is_worth_it[:, None, None, None], restored, x.to(restored.dtype))


@torch.inference_mode()
def restore_strips(
    restorer: nn.Module,
    read: Callable[[slice], Tensor],
    size: tuple[int, int],
    *,
    guide: Tensor | None = None,
    tile_px: int = TILE_PX,
    overlap_px: int = OVERLAP_PX,
    on_tile: Callable[[float], None] | None = None,
) -> Iterator[Strip]:
    """Restore a batch of images from top to bottom. Only one row of tiles is in memory at a time.

    Args:
        restorer: maps (N, C, h, w) to the same shape. It runs on the device of its parameters. A `Restorer` may say
            that its images must not be cut, or that it was published as it is: then every image is worth it.
        read: returns the given rows of the images, (N, C, h, W) in [0, 1] on any device. Rows are read more than once.
        size: height and width of the images.
        guide: (N, any, H, W), cut into the same tiles. The restorer is then called with a tile of each.
        tile_px: longest side of a tile; a multiple of 32.
        overlap_px: pixels that neighbours share; a multiple of 64, less than `tile_px`. The middle half is blended.
        on_tile: called after each tile with its share of the work. The shares sum to 1.

    Yields:
        All rows, in order. Images with little change are restored too; the caller decides, by `Strip.is_worth_it`.

    Raises:
        ValueError: if the tile sizes are not allowed.
        FloatingPointError: if the network's output is not finite.
    """
    check_tiles(tile_px, overlap_px)
    if getattr(restorer, "tiling", "fine") == "never":
        tile_px = max(size)
    height, (rows, columns) = size[0], (_cut(length, tile_px, overlap_px) for length in size)
    device = next(restorer.parameters(), read(slice(0, 1))).device
    least_change = fineness_of(restorer).limits.change / 255
    top, unfinished, change = 0, None, torch.zeros(())
    for row, next_row in zip(rows, [*rows[1:], None], strict=True):
        whole = [read(row.pixels)] if guide is None else [read(row.pixels), guide[..., row.pixels, :]]
        x = whole[0]
        # Sums of the rows from `top` to the end of this row of tiles. They start with the sums of the tiles above.
        sums = x.new_zeros((*x.shape[:2], row.pixels.start + x.shape[-2] - top, x.shape[-1]), dtype=torch.float32)
        if unfinished is not None:
            sums[..., : unfinished.shape[-2], :] = unfinished
        blended = sums[..., row.pixels.start - top :, :]
        for column in columns:
            weights = (row.weights[:, None] * column.weights).to(x.device)  # (h, w)
            tile = restorer(*(part[..., column.pixels].to(device) for part in whole)).to(x.device, torch.float32)
            blended[..., column.pixels] += tile * weights
            if on_tile is not None:
                on_tile(1 / (len(rows) * len(columns)))
        # Rows above the next row of tiles are finished. Only whole blocks are passed on, to measure their change.
        end = height if next_row is None else next_row.pixels.start // CHANGE_BLOCK_PX * CHANGE_BLOCK_PX
        for start in range(top, end, CHANGE_BLOCK_PX):
            done = slice(start, min(start + CHANGE_BLOCK_PX, end))
            seen, restored = read(done), sums[..., start - top : done.stop - top, :]
            if not restored.isfinite().all():
                raise FloatingPointError("the network's output is not finite; try float32 precision, or other weights")
            change = torch.maximum(change, largest_change(restored - seen))
            yield Strip(done, seen, restored, change >= least_change)
        top, unfinished = end, sums[..., end - top :, :].clone()


def check_tiles(tile_px: int, overlap_px: int = OVERLAP_PX) -> None:
    """Refuse tile sizes that would break the alignment.

    Raises:
        ValueError: names the sizes that are allowed.
    """
    if overlap_px < 2 * ALIGNMENT_PX or overlap_px % (2 * ALIGNMENT_PX):
        raise ValueError(f"the overlap of tiles must be a multiple of {2 * ALIGNMENT_PX} pixels, got {overlap_px}")
    if tile_px <= overlap_px or tile_px % ALIGNMENT_PX:
        raise ValueError(
            f"the tile size must be a multiple of {ALIGNMENT_PX} pixels and at least {overlap_px + ALIGNMENT_PX}, "
            f"got {tile_px}"
        )


def largest_change(change: Tensor) -> Tensor:
    """(N,), the largest root mean square of a block in each change (N, C, H, W). Blocks at the edges may be smaller."""
    squared = change.square().mean(dim=1, keepdim=True)  # (N, 1, H, W)
    blocks = F.avg_pool2d(squared, CHANGE_BLOCK_PX, ceil_mode=True, count_include_pad=False)
    return blocks.amax(dim=(1, 2, 3)).sqrt()


class _Span(NamedTuple):
    """A tile along one axis: its pixels and their weights. At each pixel, the weights of all tiles sum to 1."""

    pixels: slice
    weights: Tensor


def _step(position: Tensor, border: int, overlap_px: int) -> Tensor:
    """0 before a border and 1 behind it, rising over a half of the overlap, centred on it."""
    return ((position - border) / (overlap_px / 2) + 0.5).clamp(0, 1)


def _cut(length: int, tile_px: int, overlap_px: int) -> list[_Span]:
    """Cut a side into as few tiles as possible, of nearly equal length, so that little work is done twice."""
    if length <= tile_px:
        return [_Span(slice(0, length), torch.ones(length))]
    num_units = -(-length // ALIGNMENT_PX)
    num_tiles = -(-num_units * ALIGNMENT_PX // (tile_px - overlap_px))
    borders = [min(i * num_units // num_tiles * ALIGNMENT_PX, length) for i in range(num_tiles + 1)]
    # The weight of a tile is the step at its first border minus the step at its last border, so the sum over tiles is
    # 1. At the edges of the image there is nothing to blend with.
    reach = overlap_px // 2
    spans = []
    for start, stop in pairwise(borders):
        first, last = max(start - reach, 0), min(stop + reach, length)
        position = torch.arange(first, last, dtype=torch.float64) + 0.5
        rise = _step(position, start, overlap_px) if start else torch.ones_like(position)
        fall = _step(position, stop, overlap_px) if stop < length else torch.zeros_like(position)
        spans.append(_Span(slice(first, last), (rise - fall).float()))
    return spans
