"""The DCT of 8x8 cells against SciPy's, and its inverse."""

import numpy as np
import pytest
import scipy.fft
import torch

from restoration.networks.block_dct import BlockDct


@pytest.mark.parametrize("channels", [1, 3])
def test_coefficients_are_those_of_scipy_cell_by_cell(channels: int) -> None:
    images = torch.rand(2, channels, 16, 24, dtype=torch.float64)
    found = BlockDct(channels).double()(images)  # (2, 64 * C, 2, 3)
    cells = images.numpy().reshape(2, channels, 2, 8, 3, 8).transpose(0, 1, 2, 4, 3, 5)  # (2, C, 2, 3, 8, 8)
    expected = scipy.fft.dctn(cells, axes=(-2, -1), norm="ortho")
    expected = expected.transpose(0, 1, 4, 5, 2, 3).reshape(2, 64 * channels, 2, 3)
    # The weights are stored in float32.
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_inverse_gives_the_images_back(channels: int) -> None:
    dct, images = BlockDct(channels), torch.rand(2, channels, 16, 24)
    torch.testing.assert_close(dct.inverse(dct(images)), images, rtol=0, atol=1e-5)  # float32 sums of 64 terms, twice


def test_nothing_of_it_is_trained_or_saved() -> None:
    dct = BlockDct(3)
    assert not list(dct.parameters()) and not dct.state_dict()
