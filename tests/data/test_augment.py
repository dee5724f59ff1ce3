"""The eight symmetries of the square are a group of eight."""

import numpy as np
import pytest

from data.augment import NUM_SYMMETRIES, SymmetryView, inverse, symmetry

SQUARE = np.arange(9).reshape(3, 3)


def test_the_eight_are_distinct_and_the_first_changes_nothing() -> None:
    results = {symmetry(SQUARE, index).tobytes() for index in range(NUM_SYMMETRIES)}
    assert len(results) == NUM_SYMMETRIES == 8
    np.testing.assert_array_equal(symmetry(SQUARE, 0), SQUARE)


def test_two_in_a_row_are_one_of_the_eight_and_each_can_be_undone() -> None:
    results = {symmetry(SQUARE, index).tobytes() for index in range(NUM_SYMMETRIES)}
    for first in range(NUM_SYMMETRIES):
        twice = {symmetry(symmetry(SQUARE, first), second).tobytes() for second in range(NUM_SYMMETRIES)}
        assert twice == results  # closed; the identity among them undoes the first


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3)])
def test_quarter_turns_and_mirrors_agree_with_loops(shape: tuple[int, ...]) -> None:
    image = np.arange(np.prod(shape)).reshape(shape)
    turned = np.array([[image[row, column] for row in range(2)] for column in reversed(range(5))])
    mirrored = np.array([[image[row, column] for column in reversed(range(5))] for row in range(2)])
    np.testing.assert_array_equal(symmetry(image, 1), turned)
    np.testing.assert_array_equal(symmetry(image, 2), image[::-1, ::-1])
    np.testing.assert_array_equal(symmetry(image, 4), mirrored)


def test_nothing_is_copied() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    assert all(np.shares_memory(symmetry(image, index), image) for index in range(NUM_SYMMETRIES))


@pytest.mark.parametrize("index", [-1, 8])
def test_there_is_no_ninth(index: int) -> None:
    with pytest.raises(ValueError, match=f"symmetry index must be within 0..7, got {index}"):
        symmetry(SQUARE, index)


@pytest.mark.parametrize("index", range(NUM_SYMMETRIES))
def test_the_inverse_undoes_each(index: int) -> None:
    image = np.arange(2 * 5 * 3).reshape(2, 5, 3)
    np.testing.assert_array_equal(symmetry(symmetry(image, index), inverse(index)), image)


@pytest.mark.parametrize("index", range(NUM_SYMMETRIES))
def test_a_region_cut_is_that_of_the_turned_image_converted(index: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    turned, region = SymmetryView(image, index), (slice(2, 7), slice(1, 9))
    whole = symmetry(image, index)
    assert turned.shape == whole.shape
    cut = turned.cut(region)
    np.testing.assert_array_equal(cut, whole[region])
    assert cut.flags.c_contiguous and not np.shares_memory(cut, image)
    converted = turned.cut(region, lambda part: part[..., 0] // 2)
    np.testing.assert_array_equal(converted, whole[region][..., 0] // 2)
    assert converted.flags.c_contiguous
