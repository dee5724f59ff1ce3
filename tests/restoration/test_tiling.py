"""Tiling: what comes out must not depend on how the image was cut."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cqe.encoder import QualityEncoder
from restoration.fineness import LEAST_CHANGE
from restoration.networks.fast import FastRestorer
from restoration.networks.paper import PaperRestorer
from restoration.networks.restorer import Restorer
from restoration.tiling import (
    ALIGNMENT_PX,
    CHANGE_BLOCK_PX,
    OVERLAP_PX,
    TILE_PX,
    _cut,
    largest_change,
    restore_image,
    restore_strips,
    restore_tensor,
)

TILE = 128  # a small tile, so that small images are cut


class Local(nn.Module):
    """A 5x5 convolution: each pixel depends on two pixels around it. Remembers the sizes it was given."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.filter = nn.Conv2d(channels, channels, 5, padding=2)
        self.seen: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape[-2:]))
        return x + self.filter(x)


class Position(nn.Module):
    """Adds a pattern that repeats every `ALIGNMENT_PX` pixels from the tile's own corner."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (torch.arange(length) % ALIGNMENT_PX for length in x.shape[-2:])
        return x + rows[:, None] + 100 * columns


SIZES = [(1, 1), (7, 300), (127, 127), (128, 128), (129, 128), (131, 257), (193, 401), (64, 1009), (512, 384)]


@pytest.mark.parametrize(
    ("shape", "tile_px"),
    [((1, 1, *size), TILE) for size in SIZES] + [((2, 3, 211, 307), tile_px) for tile_px in (96, 128, 160, 256)],
)
def test_tiles_of_a_local_network_equal_the_whole(shape: tuple[int, ...], tile_px: int) -> None:
    network, x = Local(shape[1]), torch.rand(shape)
    with torch.no_grad():
        whole = network(x)
    # float32 sums in another order
    torch.testing.assert_close(restore_tensor(network, x, tile_px=tile_px), whole, rtol=0, atol=1e-6)


@torch.inference_mode()
def restored_at_once(network: nn.Module, x: Tensor, *, tile_px: int) -> Tensor:
    """`restore_tensor` as it was before it went by strips: all tiles are added to one tensor of the image's size."""
    rows, columns = (_cut(length, tile_px, OVERLAP_PX) for length in x.shape[-2:])
    restored = torch.zeros_like(x)
    for row in rows:
        for column in columns:
            tile = network(x[..., row.pixels, column.pixels])
            restored[..., row.pixels, column.pixels] += tile * (row.weights[:, None] * column.weights)
    is_worth_it = largest_change(restored - x) >= LEAST_CHANGE / 255
    return torch.where(is_worth_it[:, None, None, None], restored, x)


SHAPES = [(1, 1, 1, 1), (1, 1, 333, 450), (2, 3, 211, 307), (3, 1, 500, 97), (1, 3, 64, 700), (1, 1, 1030, 70)]


@pytest.mark.parametrize("tile_px", [96, 160, 256, 768])
@pytest.mark.parametrize("shape", SHAPES)
def test_strips_change_no_bit(shape: tuple[int, ...], tile_px: int) -> None:
    network, x = Local(shape[1]), torch.rand(shape)
    expected = restored_at_once(network, x, tile_px=tile_px)
    assert torch.equal(restore_tensor(network, x, tile_px=tile_px), expected)


@pytest.mark.parametrize("height", [1, 64, 100, 128, 129, 333, 1030])
def test_strips_are_all_rows_in_order_and_no_more_than_a_block_each(height: int) -> None:
    x = torch.rand(1, 1, height, 40)
    strips = list(restore_strips(Local(), lambda rows: x[..., rows, :], x.shape[-2:], tile_px=TILE))
    assert [row for strip in strips for row in range(height)[strip.rows]] == list(range(height))
    for strip in strips:
        assert strip.restored.shape == strip.seen.shape and strip.seen.shape[-2] <= CHANGE_BLOCK_PX
        assert torch.equal(strip.seen, x[..., strip.rows, :])


@pytest.mark.parametrize("size", [(40, 56), (192, 320)])
@pytest.mark.parametrize("share", [0.99, 1.01, 1.4, 1.5])  # of the least change; 1.42 when averaged with a guide
def test_a_guide_is_cut_like_the_image_and_does_not_count_in_its_change(size: tuple[int, int], share: float) -> None:
    class Guided(Stripes):
        def forward(self, x: Tensor, guide: Tensor) -> Tensor:
            assert torch.equal(guide, x + 1)
            return super().forward(x)

    x, by = torch.rand(1, 1, *size), share * LEAST_CHANGE / 255 * 2**0.5
    restored = restore_tensor(Guided(by), x, guide=x + 1, tile_px=TILE)
    assert torch.equal(restored, restore_tensor(Stripes(by), x, tile_px=TILE))
    assert torch.equal(restored, x) == (share < 1)


class Stripes(nn.Module):
    """Changes every other column, so that the root mean square of a block is 1/sqrt(2) of a pixel's change."""

    def __init__(self, *by: float) -> None:
        super().__init__()
        self.by = torch.tensor(by)[:, None, None, None]  # an image of the batch each

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by * (torch.arange(x.shape[-1]) % 2 == 1)


@pytest.mark.parametrize("size", [(40, 56), (192, 320)])  # less than a block; in tiles
def test_an_image_that_would_hardly_change_comes_back_as_it_was(size: tuple[int, int]) -> None:
    x, limit = torch.rand(3, 3, *size), LEAST_CHANGE / 255 * 2**0.5
    restored = restore_tensor(Stripes(0.99 * limit, 1.01 * limit, 5 * limit), x, tile_px=TILE)
    torch.testing.assert_close(restored[0], x[0], rtol=0, atol=0)
    for index, share in ((1, 1.01), (2, 5)):
        change = restored[index] - x[index]
        torch.testing.assert_close(change[..., 1::2], torch.full_like(change[..., 1::2], share * limit))


@pytest.mark.parametrize("corner", [(0, 0), (930, 1000)])  # the second is in blocks that the edges cut
def test_one_damaged_corner_of_a_large_page_is_worth_restoring(corner: tuple[int, int]) -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            x[..., corner[0] : corner[0] + 20, corner[1] : corner[1] + 20] -= 20 / 255
            return x

    page = torch.ones(1, 1, 950, 1020)
    assert (restore_tensor(Corner(), page, tile_px=1024) != page).sum() == 20 * 20


@pytest.mark.parametrize("overlap_px", [64, 128])
@pytest.mark.parametrize("tile_px", [160, 192, 512])
def test_weights_of_all_tiles_sum_to_one_and_rise_smoothly(tile_px: int, overlap_px: int) -> None:
    for length in [*range(1, 1200, 37), 4001, 6016]:
        total = torch.zeros(length)
        for pixels, weights in _cut(length, tile_px, overlap_px):
            assert len(weights) <= tile_px and pixels.start % ALIGNMENT_PX == 0
            total[pixels] += weights
            # No jumps, and where a tile was cut (not at the image's own edges) its outermost pixels do not count.
            assert (weights.diff().abs() <= 2.01 / overlap_px).all()
            assert pixels.start == 0 or (weights[: overlap_px // 4] == 0).all()
            assert pixels.stop >= length or (weights[-overlap_px // 4 :] == 0).all()
        torch.testing.assert_close(total, torch.ones(length), rtol=0, atol=1e-6)


def test_the_cuts_of_a_long_side_take_the_room_of_a_tile_each(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, arange = [], torch.arange

    def counted(*arguments: int, **options: object) -> Tensor:
        lengths.append(len(arange(*arguments, **options)))
        return arange(*arguments, **options)

    monkeypatch.setattr(torch, "arange", counted)
    assert len(_cut(20_000, 768, 64)) == len(lengths) and max(lengths) <= 768


def test_tiles_keep_the_phase_of_the_jpeg_grid_and_of_the_pooling_windows() -> None:
    x = torch.zeros(1, 1, 333, 450)
    torch.testing.assert_close(restore_tensor(Position(), x, tile_px=TILE), Position()(x), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("height", "width"), [(1000, 1500), (129, 97), (1201, 33)])
def test_the_network_never_sees_more_than_a_tile(height: int, width: int) -> None:
    network = Local()
    shares: list[float] = []
    restore_tensor(network, torch.rand(1, 1, height, width), tile_px=TILE, on_tile=shares.append)
    assert max(map(max, network.seen)) <= TILE
    assert len(shares) == len(network.seen) and sum(shares) == pytest.approx(1)
    # Even a last tile whose own share is a few pixels reaches back over half the overlap.
    assert min(map(min, network.seen)) >= min(height, width, OVERLAP_PX // 2)


def test_benchmark_images_go_in_whole() -> None:
    network = Local()
    for height, width in [(512, 768), (576, 720), (768, 512), (481, 321), (TILE_PX, TILE_PX)]:
        restore_tensor(network, torch.zeros(1, 1, height, width))
    assert network.seen == [(512, 768), (576, 720), (768, 512), (481, 321), (TILE_PX, TILE_PX)]


@pytest.mark.parametrize("kind", ["fast", "fast, normalized, with DCT", "paper"])
def test_tiles_of_a_deep_network_stay_within_half_a_grey_level_of_the_whole(kind: str) -> None:
    """Both networks see further than the overlap, so tiles cannot equal the whole; but what far pixels add is small.

    The weights are random and the output is scaled to changes of 10 grey levels (root mean square): as much as quality
    10 costs Classic5 (27.8 dB), so more than a trained network puts back. Measured: 0.12 and 0.20 grey levels. Sides
    are multiples of 32: otherwise `paper` stretches its pooled maps over the whole image by a little, which tiles do
    not repeat.
    """
    encoder = QualityEncoder(1, width=8, remove_local_mean=True).eval()
    options = {"block": "normalized", "dct": True} if "DCT" in kind else {}
    network: Restorer = (
        FastRestorer(encoder, 1, widths=(8, 16, 16), blocks_down=(1, 1, 1), blocks_up=(1, 1, 1), **options)
        if kind != "paper"
        else PaperRestorer(encoder, 1, width=8, groups=(1, 1, 1))
    )
    network.eval()
    last = [network.tail, network.tail_dct] if options else [network.tail]
    for layer in last:
        nn.init.normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    x = torch.rand(1, 1, 224, 192)
    with torch.no_grad():
        scale = 10 / 255 / (network(x) - x).square().mean().sqrt()
        for layer in last:
            layer.weight *= scale
        whole = network(x)
    difference = (restore_tensor(network, x, tile_px=TILE) - whole).abs().max()
    assert difference * 255 < 0.5


def test_images_come_back_as_uint8_of_their_shape_rounded_and_clipped() -> None:
    class Shift(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 100.6 / 255

    for shape in [(5, 7), (5, 7, 3), (1, 1)]:
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        restored = restore_image(Shift(), image)
        assert restored.dtype == np.uint8 and restored.flags.c_contiguous
        np.testing.assert_array_equal(restored, np.minimum(image.astype(int) + 101, 255))


@pytest.mark.parametrize("tile_px", [0, -32, 64, 100])
def test_tile_sizes_off_the_grid_are_refused(tile_px: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 32 pixels and at least 96, got {tile_px}"):
        restore_image(Local(), np.zeros((8, 8), np.uint8), tile_px=tile_px)


@pytest.mark.parametrize("overlap_px", [0, 32, -64])
def test_overlaps_off_the_grid_are_refused(overlap_px: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 64 pixels, got {overlap_px}"):
        restore_tensor(Local(), torch.zeros(1, 1, 8, 8), overlap_px=overlap_px)
