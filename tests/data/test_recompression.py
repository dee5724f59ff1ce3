"""What happens to an image after its first coding: cut and coded again, or made another size."""

import numpy as np
import pytest

from data.jpeg import jpeg_roundtrip
from data.recompression import double_jpeg, resized
from tests.synthetic import picture


def planes(channels: int) -> np.ndarray:
    """A picture of 37 x 45 pixels, (H, W) or (H, W, 3)."""
    image = picture(37, 45)
    return image if channels == 3 else np.ascontiguousarray(image[:, :, 1])


@pytest.mark.parametrize("channels", [1, 3])
def test_on_one_grid_doubling_is_coding_twice(channels: int) -> None:
    image = planes(channels)
    twice = double_jpeg(jpeg_roundtrip(image, 20), 75)
    np.testing.assert_array_equal(twice, jpeg_roundtrip(jpeg_roundtrip(image, 20), 75))
    assert (twice != jpeg_roundtrip(image, 20)).any() and (twice != jpeg_roundtrip(image, 75)).any()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shift", [(3, 0), (0, 5), (7, 2)])
def test_a_shift_cuts_rows_and_columns_before_the_second_coding(channels: int, shift: tuple[int, int]) -> None:
    coded = jpeg_roundtrip(planes(channels), 20)
    result = double_jpeg(coded, 75, shift=shift)
    assert result.shape == (37 - shift[0], 45 - shift[1], *coded.shape[2:]) and result.dtype == np.uint8
    kept = coded[shift[0] :, shift[1] :].copy()
    np.testing.assert_array_equal(result, jpeg_roundtrip(kept, 75))
    # Cut first and coded then: the other way round the second coding would be on the first one's grid.
    assert (result != double_jpeg(coded, 75)[shift[0] :, shift[1] :]).any()


@pytest.mark.parametrize(
    ("scale", "expected"), [(0.8, (30, 36)), (0.5, (18, 22)), (0.75, (28, 34)), (1.5, (56, 68)), (0.02, (1, 1))]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_sides_are_scaled_and_rounded(channels: int, scale: float, expected: tuple[int, int]) -> None:
    """37 and 45 pixels: 29.6, 36; 18.5, 22.5 (a half goes to the even number); 27.75, 33.75; 55.5, 67.5; 0.74, 0.9."""
    image = planes(channels)
    result = resized(image, scale)
    assert result.shape == (*expected, *image.shape[2:]) and result.dtype == np.uint8


@pytest.mark.parametrize("channels", [1, 3])
def test_at_its_own_scale_an_image_is_the_same(channels: int) -> None:
    np.testing.assert_array_equal(resized(planes(channels), 1.0), planes(channels))


def test_resizing_averages_what_is_too_fine() -> None:
    """Every other row is white: at half the size all is gray, where every second row alone would be of one colour."""
    stripes = np.repeat(np.array([0, 255] * 16, np.uint8)[:, None], 32, axis=1)
    inner = resized(stripes, 0.5)[4:-4]  # away from the border, where the filter is cut off
    assert (abs(inner.astype(int) - 127.5) < 1).all()


def test_resizing_keeps_what_a_cubic_passes_through() -> None:
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None], 8, axis=0)  # 60 columns, 4 levels apart
    inner = resized(ramp, 0.5)[:, 4:-4].astype(int)
    expected = 4 * (2 * np.arange(30) + 0.5)[4:-4]  # a pixel of the half size is centred between two
    assert (abs(inner - expected) <= 0.5).all()


def test_a_scale_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="scale 0.01 leaves nothing of an image of 45x37 pixels"):
        resized(planes(3), 0.01)
