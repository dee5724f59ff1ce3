"""JPEG coding, and its locality: a crop's pixels follow from its neighbourhood alone, exactly."""

import io

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from data.jpeg import Box, decode, encode, jpeg_roundtrip, surroundings

SUBSAMPLED_420 = 2  # Pillow's number for it


def textured(*shape: int, seed: int = 0) -> np.ndarray:
    """Strong, uncorrelated noise over coarse patches of colour: every coefficient of every block counts."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (-(-shape[0] // 7), -(-shape[1] // 7), *shape[2:]))
    patches = coarse.repeat(7, axis=0).repeat(7, axis=1)[: shape[0], : shape[1]]
    return (patches + rng.integers(0, 56, shape)).astype(np.uint8)


def coded_apart(image: np.ndarray, box: Box, around: Box, quality: int) -> np.ndarray:
    coded = jpeg_roundtrip(np.ascontiguousarray(image[around.slices]), quality)
    return coded[box.within(around).slices]


def random_span(limit: int, rng: np.random.Generator) -> tuple[int, int]:
    """Start and length within an image's side; every third span touches its far edge, every third its near one."""
    length = int(rng.integers(1, limit + 1))
    return int(rng.choice([0, limit - length, rng.integers(limit - length + 1)])), length


@pytest.mark.parametrize("channels", [(), (3,)], ids=["luma", "colour"])
@pytest.mark.parametrize(
    "size",
    [(64, 80), (77, 101), (50, 83), (33, 17), (3, 40), (40, 5), (1, 1)],
    ids=lambda size: "x".join(map(str, size)),
)
def test_coding_the_surroundings_equals_coding_the_whole(size: tuple[int, int], channels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    for quality in (5, 10, 32, 50, 77, 90, 95):
        image = textured(*size, *channels, seed=quality)
        whole = jpeg_roundtrip(image, quality)
        for _ in range(25):
            (top, height), (left, width) = random_span(size[0], rng), random_span(size[1], rng)
            box = Box(top, left, height, width)
            apart = coded_apart(image, box, surroundings(box, image.shape), quality)
            np.testing.assert_array_equal(apart, whole[box.slices], err_msg=f"{box} at quality {quality}")


def test_colour_without_the_units_around_is_another_image() -> None:
    image, box = textured(64, 64, 3), Box(16, 32, 16, 16)  # one unit, exactly
    whole = jpeg_roundtrip(image, 30)[box.slices]
    assert not np.array_equal(coded_apart(image, box, box, 30), whole)
    blocks_around = Box(8, 24, 32, 32)  # a luma block on each side tears the chroma blocks apart
    assert not np.array_equal(coded_apart(image, box, blocks_around, 30), whole)
    for side in (Box(0, 32, 48, 16), Box(16, 16, 16, 48)):  # rows alone, columns alone
        assert not np.array_equal(coded_apart(image, box, side, 30), whole)


def test_luma_off_the_grid_is_another_image() -> None:
    image, box = textured(64, 64), Box(12, 20, 16, 16)
    assert not np.array_equal(coded_apart(image, box, box, 30), jpeg_roundtrip(image, 30)[box.slices])


def test_surroundings_are_aligned_and_no_larger_than_needed() -> None:
    assert surroundings(Box(8, 16, 24, 8), (64, 64)) == Box(8, 16, 24, 8)
    assert surroundings(Box(9, 15, 1, 2), (64, 64)) == Box(8, 8, 8, 16)
    assert surroundings(Box(32, 48, 16, 17), (96, 128, 3)) == Box(16, 32, 48, 64)
    assert surroundings(Box(0, 60, 30, 9), (45, 69, 3)) == Box(0, 32, 45, 37)  # clipped at three edges


def test_a_box_within_another_names_the_same_pixels() -> None:
    image, outer, box = textured(20, 30), Box(3, 4, 12, 20), Box(5, 11, 6, 7)
    np.testing.assert_array_equal(image[outer.slices][box.within(outer).slices], image[box.slices])
    assert image[box.slices].shape == (6, 7)


@pytest.mark.parametrize("quality", [5, 30, 75, 95])
def test_a_flat_block_keeps_its_quantised_mean(quality: int) -> None:
    for level in range(0, 256, 5):
        data = encode(np.full((8, 8), level, np.uint8), quality)
        step = Image.open(io.BytesIO(data)).quantization[0][0]  # of the DC coefficient, 8 times the block's mean
        mean = 128 + np.rint(8 * (level - 128) / step) * step / 8
        decoded = decode(data)
        assert (decoded == decoded[0, 0]).all()
        assert abs(int(decoded[0, 0]) - np.clip(mean, 0, 255)) <= 0.5


@pytest.mark.parametrize("quality", [1, 30, 75, 95, 100])
def test_files_are_baseline_of_the_right_kind(quality: int) -> None:
    gray, colour = (Image.open(io.BytesIO(encode(textured(24, 24, *rest), quality))) for rest in ((), (3,)))
    assert (gray.mode, colour.mode) == ("L", "RGB")
    assert JpegImagePlugin.get_sampling(colour) == SUBSAMPLED_420
    assert "progression" not in gray.info and "progression" not in colour.info


@pytest.mark.parametrize("shape", [(11, 19), (11, 19, 3)])
def test_compress_keeps_shape_and_loses_more_at_lower_quality(shape: tuple[int, ...]) -> None:
    image = textured(*shape)
    errors = []
    for quality in (95, 50, 10):
        coded = jpeg_roundtrip(image, quality)
        assert coded.shape == shape and coded.dtype == np.uint8
        errors.append(np.square(coded.astype(float) - image).mean())
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("quality", [0, 101, -10])
def test_a_quality_out_of_range_is_refused(quality: int) -> None:
    with pytest.raises(ValueError, match=f"JPEG quality must be within 1..100, got {quality}"):
        jpeg_roundtrip(textured(8, 8), quality)
