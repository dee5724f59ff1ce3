"""The comparison of systems on one image: what is drawn, and where."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from data.jpeg import jpeg_roundtrip
from evaluation.figures.comparison import Shown, comparison_figure
from evaluation.figures.crops import Crop
from tests.synthetic import picture


def test_crops_are_shown_magnified_and_marked_in_the_whole() -> None:
    whole = picture(60, 90)
    jpeg, crops = jpeg_roundtrip(whole, 10), [Crop(10, 5, 20, 20), Crop(40, 30, 20, 10)]
    scores = {"psnr": 25.125, "ssim": 0.75049, "psnrb": 24.0}
    figure = comparison_figure([Shown("JPEG", jpeg, scores), Shown("original", whole, None)], crops)
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    expected = [whole, jpeg[5:25, 10:30], jpeg[30:40, 40:60], whole[5:25, 10:30], whole[30:40, 40:60]]
    for found, pixels in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(found, pixels)
    first = figure.axes[0]
    assert {patch.get_bbox().bounds for patch in first.patches} == {(9.5, 4.5, 20, 20), (39.5, 29.5, 20, 10)}
    assert [text.get_text() for text in first.texts] == ["a", "b"]
    assert [axes.get_title() for axes in figure.axes[1:]] == ["JPEG\n25.12 dB / 0.750", "", "original\n", ""]


@pytest.mark.parametrize("size", [(60, 90), (90, 60)])
def test_everything_fits_and_keeps_its_shape(size: tuple[int, int]) -> None:
    whole, crops = picture(*size), [Crop(0, 0, 30, 20), Crop(5, 5, 20, 30)]
    figure = comparison_figure([Shown(name, whole, None) for name in "abc"], crops)
    inches = figure.get_size_inches()
    boxes = [axes.get_position().bounds * np.tile(inches, 2) for axes in figure.axes]
    for (left, bottom, width, height), axes in zip(boxes, figure.axes, strict=True):
        rows, columns = axes.images[0].get_array().shape[:2]
        assert height / width == pytest.approx(rows / columns)
        assert left >= 0 and bottom >= 0 and left + width <= inches[0] and bottom + height <= inches[1]
    tops = [bottom + height for _, bottom, _, height in boxes]
    assert tops[1] == pytest.approx(tops[0]) and boxes[2][1] == pytest.approx(boxes[0][1])  # as high as the crops


def test_many_versions_stand_in_lines_and_none_covers_another() -> None:
    whole = picture(60, 90)
    names = ["a_network_with_a_long_name_that_says_how_it_was_trained", *map(str, range(6))]
    figure = comparison_figure([Shown(name, whole, None) for name in names], [Crop(0, 0, 30, 30)])
    boxes = [axes.get_position() for axes in figure.axes]
    assert len({round(box.y0, 6) for box in boxes[1:]}) == 2
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
    assert boxes[0].width > boxes[1].width > 0.12  # 0.86 inches: one line of seven would leave 0.78
    figure.draw_without_rendering()
    ends = [axes.title.get_window_extent() for axes in figure.axes[1:4]]
    assert all(first.x1 < second.x0 for first, second in pairwise(ends))
    assert figure.axes[1].get_title().startswith("a_network_with") and "…" in figure.axes[1].get_title()
