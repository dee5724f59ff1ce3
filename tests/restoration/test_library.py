"""`restoration` as a library: `load` and `restore_array`."""

import numpy as np
import pytest

from restoration import load, restore_array
from restoration.tiling import restore_image
from tests.program import run_python
from tests.synthetic import picture


def test_pixels_are_those_of_the_network() -> None:
    for name, image in (
        ("fast_small_color", picture()),
        ("fast_tiny_color", picture()),
        ("fast_small_gray", picture()[..., 0]),
        ("fast_tiny_gray", picture()[..., 0]),
    ):
        restorer = load(name)
        difference = restore_array(restorer, image).astype(int) - restore_image(restorer, image)
        assert abs(difference).max() <= 1  # ours adds the change to the pixels; a tie may round the other way


def test_any_network_takes_any_image() -> None:
    color, deep = picture(), picture()[..., 0].astype(np.uint16) * 257
    for name in ("fast_small_color", "fast_tiny_color", "fast_small_gray", "fast_tiny_gray"):
        for image in (color, color[..., 1], deep):
            restored = restore_array(load(name), image)
            assert restored.shape == image.shape and restored.dtype == image.dtype


def test_what_is_given_back_is_not_the_array_that_was_given() -> None:
    fine = np.full((16, 16, 3), 200, np.uint8)  # nothing to restore
    restored = restore_array(load("fast_tiny_color"), fine)
    np.testing.assert_array_equal(restored, fine)
    assert not np.shares_memory(restored, fine)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((8, 8, 4), "uint8"), ((8, 8), "float64"), ((8, 8, 3), "uint16"), ((0, 8), "uint8"), ((8,), "uint8")],
)
def test_what_is_no_image_is_refused(shape: tuple[int, ...], kind: str) -> None:
    with pytest.raises(ValueError, match=r"expected an image of shape \(H, W, 3\) in uint8"):
        restore_array(load("fast_tiny_color"), np.zeros(shape, kind))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(FileNotFoundError, match="no weights 'fast_tiny'"):
        load("fast_tiny")


def test_importing_the_package_imports_nothing_of_the_project() -> None:
    code = "import sys, restoration; print(sorted({n.split('.')[0] for n in sys.modules} & {'cqe', 'engine', 'torch'}))"
    done = run_python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr
