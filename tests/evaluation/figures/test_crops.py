"""Parts of images: which part is most changed."""

import numpy as np
import pytest

from evaluation.figures.crops import Crop, most_changed
from tests.synthetic import noise


@pytest.mark.parametrize("shape", [(13, 17), (13, 17, 3)])
def test_most_changed_part_is_that_of_a_search_of_all_parts(shape: tuple[int, ...]) -> None:
    change = noise(*shape).astype(np.int32) - 128
    places = [(left, top) for left in range(17 - 5 + 1) for top in range(13 - 4 + 1)]
    sums = {(left, top): np.square(Crop(left, top, 5, 4).of(change).astype(np.int64)).sum() for left, top in places}
    found = most_changed(change, 5, 4)
    assert found[2:] == (5, 4) and found[:2] == max(sums, key=sums.get)


def test_a_part_is_at_most_the_image() -> None:
    assert most_changed(np.zeros((6, 9)), 20, 4) == (0, 0, 9, 4)
    assert most_changed(np.zeros((6, 9)), 20, 40) == (0, 0, 9, 6)
