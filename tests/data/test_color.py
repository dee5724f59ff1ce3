"""Luma against the printed formulas pixel by pixel, and the way to tensors and back."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from data.augment import symmetry
from data.color import luma, to_image, to_tensor
from tests.synthetic import noise


@pytest.mark.parametrize(
    ("full_range", "weights", "offset"),
    [(False, ("65.481", "128.553", "24.966"), 16), (True, ("76.245", "149.685", "29.07"), 0)],
)
def test_luma_agrees_with_exact_arithmetic(full_range: bool, weights: tuple[str, ...], offset: int) -> None:
    # Weights in 255ths: MATLAB prints them so; JFIF's 0.299, 0.587, 0.114 are multiplied by 255.
    image = noise(31, 37, 3)
    image[0, :8] = np.indices((2, 2, 2)).reshape(3, 8).T * 255  # the cube's corners: black, the primaries, ..., white
    expected = [
        [
            round(sum(Fraction(weight) * int(part) for weight, part in zip(weights, pixel, strict=True)) / 255 + offset)
            for pixel in row
        ]
        for row in image
    ]
    result = luma(image, full_range=full_range)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("shape", [(300, 200, 3), (3, 20000, 3), (0, 5, 3), (5, 0, 3)])
def test_luma_of_a_large_image_is_that_of_its_rows(shape: tuple[int, ...]) -> None:
    image = noise(*shape)
    rows = [luma(row[None])[0] for row in image]
    np.testing.assert_array_equal(luma(image), np.array(rows, np.uint8).reshape(shape[:2]))


def test_luma_ranges_and_grays() -> None:
    grays = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    np.testing.assert_array_equal(luma(grays, full_range=True), grays[:, :, 0])
    studio = luma(grays)[0]
    assert (studio[0], studio[255]) == (16, 235)
    np.testing.assert_array_equal(studio, np.rint(16 + np.arange(256) * 219 / 255))


def test_full_range_luma_is_pillows_up_to_rounding() -> None:
    image = noise(200, 300, 3)
    difference = luma(image, full_range=True).astype(int) - np.asarray(Image.fromarray(image).convert("L"))
    # Pillow rounds the weights to 2**-16. That moves a sum by at most 3 * 255 * 2**-17 = 0.006 levels, which turns the
    # rounding of at most 1.2 % of the pixels, and each of these by one level.
    assert abs(difference).max() <= 1
    assert np.count_nonzero(difference) <= 0.012 * difference.size


@pytest.mark.parametrize("image", [noise(4, 4), noise(4, 4, 4), noise(4, 4, 3).astype(np.float32)])
def test_luma_refuses_what_is_no_rgb_image(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8 image of shape \(H, W, 3\), got"):
        luma(image)


@pytest.mark.parametrize("shape", [(16, 16), (5, 7), (5, 7, 3)])
def test_images_survive_the_way_to_tensors_and_back(shape: tuple[int, ...]) -> None:
    image = np.resize(np.arange(256, dtype=np.uint8), shape)  # (16, 16) has every level
    tensor = to_tensor(image)
    assert tensor.dtype == torch.float32 and tensor.shape == (shape[2] if len(shape) == 3 else 1, *shape[:2])
    np.testing.assert_array_equal(to_image(tensor), image)


def test_tensors_hold_255ths_in_channel_order() -> None:
    image = noise(3, 5, 3)
    tensor = to_tensor(symmetry(image, 5))  # a view with negative strides, which torch itself refuses
    for channel, row, column in np.ndindex(3, 5, 3):
        assert tensor[channel, row, column].item() == pytest.approx(symmetry(image, 5)[row, column, channel] / 255)


def test_tensors_are_clamped_and_rounded_to_the_nearest_level() -> None:
    tensor = torch.tensor([[[-0.3, 0.4 / 255, 0.6 / 255, 127.4 / 255, 254.6 / 255, 7.0]]])
    np.testing.assert_array_equal(to_image(tensor), [[0, 0, 1, 127, 255, 255]])
    np.testing.assert_array_equal(to_image(tensor.double().requires_grad_()), [[0, 0, 1, 127, 255, 255]])
