"""Fig. 7: what was removed, and where photos and their parts stand."""

import numpy as np
import pytest

from evaluation.figures.crops import Crop
from evaluation.figures.removal import RestoredPhoto, removal_figure, removed
from tests.synthetic import picture


def test_removed_is_the_amplified_difference_around_middle_gray() -> None:
    photo, restored = np.array([[10, 20, 200, 0]], np.uint8), np.array([[10, 18, 150, 255]], np.uint8)
    np.testing.assert_array_equal(removed(photo, restored, 4), [[128, 136, 255, 0]])


@pytest.mark.parametrize("size", [(40, 90), (90, 40)])
def test_a_row_shows_a_photo_its_part_and_each_system(size: tuple[int, int]) -> None:
    photo, first, second = (picture(*size, seed=seed) for seed in range(3))
    crop = Crop(3, 5, 30, 20)
    figure = removal_figure([RestoredPhoto(photo, crop, {"one": first, "two": second})] * 2, 2)
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    parts = [photo, first, removed(photo, first, 2), second, removed(photo, second, 2)]
    for found, pixels in zip(shown, 2 * [photo, *map(crop.of, parts)], strict=True):
        np.testing.assert_array_equal(found, pixels)
    names = ["", "magnified", "one", "removed, x2", "two", "removed, x2"]
    assert [axes.get_title() for axes in figure.axes] == names + [""] * 6
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["a", "b"]
    assert {patch.get_bbox().bounds for patch in figure.axes[0].patches} == {(2.5, 4.5, 30, 20)}
    inches = figure.get_size_inches()
    for axes in figure.axes:
        left, bottom, width, height = axes.get_position().bounds * np.tile(inches, 2)
        rows, columns = axes.images[0].get_array().shape[:2]
        assert height / width == pytest.approx(rows / columns)
        assert min(left, bottom) >= 0 and left + width <= inches[0] and bottom + height <= inches[1]
