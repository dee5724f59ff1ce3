"""Structural similarity, in float64 and several times as fast as by filters over whole images.

SSIM averages, over all places of an 11x11 Gaussian window,

    (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1)  *  (2 cov(x, y) + C2) / (v_x + v_y + C2)

where m, v and cov are weighted means, variances and the covariance in the window, x is the restored image and y the
clean one. With d = x - y this is

    (1 - m_d^2 / (m_x^2 + m_y^2 + C1))  *  (1 - v_d / (v_x + v_y + C2))
    m_x^2 + m_y^2 = 2 m_y^2 + 2 m_y m_d + m_d^2        v_x + v_y = 2 v_y + 2 cov(y, d) + v_d

which needs three windowed means, of d, d^2 and y d, when those of y are known. The means are products with a band
matrix, a few rows at a time, so that everything stays in the processor's cache.

Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

WINDOW_PX = 11
SIGMA_PX = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

_MARGIN = WINDOW_PX - 1  # rows and columns that the valid region lacks
_BAND_PX = 16  # outputs of one product; more would multiply more zeros, fewer would be smaller products
_SLAB_PIXELS = 1 << 15


def ssim_with(clean: np.ndarray) -> Callable[[np.ndarray], float]:
    """The SSIM of planes with one clean plane, whose own means are computed once.

    Args:
        clean: (H, W) uint8, both sides at least 11.

    Returns:
        A function of a restored plane, of the same shape and type. Its values are within -1..1, and 1 for equal planes.
        It keeps its memory between calls, so it must not be called by two threads at once.
    """
    height, width = (side - _MARGIN for side in clean.shape)
    # 2 m_y, 2 m_y^2 + C1, 2 v_y + C2
    twice_mean, luminance, contrast = terms = np.empty((3, height, width))
    windows = _Windows(3, clean.shape)
    for outside, inside in _slabs(clean.shape):
        maps = windows.maps(inside)[:2]
        maps[0] = clean[outside]
        np.multiply(maps[0], maps[0], out=maps[1])
        mean, mean_of_square = windows.means(maps)
        np.multiply(mean, 2, out=twice_mean[inside])
        np.multiply(twice_mean[inside], mean, out=luminance[inside])
        np.multiply(mean_of_square, 2, out=contrast[inside])
        contrast[inside] -= luminance[inside]
    luminance += C1
    contrast += C2

    def ssim(restored: np.ndarray) -> float:
        lost = 0.0
        for outside, inside in _slabs(clean.shape):
            maps = windows.maps(inside)
            np.subtract(restored[outside], clean[outside], out=maps[0], dtype=np.float64)
            np.multiply(maps[0], maps[0], out=maps[1])
            np.multiply(maps[0], clean[outside], out=maps[2])
            lost += _lost(*windows.means(maps), *terms[:, inside])
        return 1 - lost / (height * width)

    return ssim


def _lost(
    mean: np.ndarray,
    variance: np.ndarray,
    covariance: np.ndarray,
    twice_mean: np.ndarray,
    luminance: np.ndarray,
    contrast: np.ndarray,
) -> float:
    """The sum of 1 - SSIM over the windows of some rows.

    Args:
        mean, variance, covariance: windowed means of d, d^2 and y d. They are overwritten, and the last two become what
            they are called.
        twice_mean, luminance, contrast: 2 m_y, 2 m_y^2 + C1, 2 v_y + C2.
    """
    doubled = twice_mean * mean  # 2 m_y m_d
    mean *= mean
    variance -= mean
    covariance *= 2
    covariance -= doubled
    covariance += variance
    covariance += contrast  # v_x + v_y + C2
    doubled += mean
    doubled += luminance  # m_x^2 + m_y^2 + C1
    mean /= doubled
    variance /= covariance
    # 1 - (1 - a)(1 - b) = a + b - ab
    return float(mean.sum() + variance.sum() - np.einsum("ij,ij->", mean, variance))


class _Windows:
    """Gaussian means at every place of the window inside some maps, and the memory for all steps of that.

    Args:
        count: the largest number of maps.
        shape: of the whole image; the maps are some of its rows.
    """

    def __init__(self, count: int, shape: tuple[int, int]) -> None:
        num_rows = max(inside.stop - inside.start for _, inside in _slabs(shape))
        self._maps = np.empty((count, num_rows + _MARGIN, shape[1]))
        self._down = np.empty((count, num_rows, shape[1]))
        self._across = np.empty((count, num_rows, shape[1] - _MARGIN))

    def maps(self, inside: slice) -> np.ndarray:
        """(count, H, W), to be filled with what these rows of the valid region need."""
        return self._maps[:, : inside.stop - inside.start + _MARGIN]

    def means(self, maps: np.ndarray) -> np.ndarray:
        """(K, H, W) -> (K, H - 10, W - 10), to be used before the next call."""
        count, height, width = maps.shape
        down, across = (memory[:count, : height - _MARGIN] for memory in (self._down, self._across))
        for outside, inside, band in _bands(height):
            np.matmul(band, maps[:, outside], out=down[:, inside])
        for outside, inside, band in _bands(width):
            np.matmul(down[:, :, outside], band.T, out=across[:, :, inside])
        return across


def _slabs(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Rows of the image that some rows of the valid region need, and those rows."""
    for inside in slabs(shape[0] - _MARGIN, shape[1], unit=_BAND_PX):
        yield slice(inside.start, inside.stop + _MARGIN), inside


def slabs(height: int, width: int, *, unit: int = 1) -> Iterator[slice]:
    """All rows of an image, a few at a time. Each slab but the last is a multiple of `unit` rows high.

    Arrays of a few rows stay in the cache, and their memory is used again; for larger ones the system maps new pages
    each time, which takes longer than the arithmetic.
    """
    num_rows = max(1, _SLAB_PIXELS // width // unit) * unit
    for top in range(0, height, num_rows):
        yield slice(top, min(top + num_rows, height))


@lru_cache(maxsize=16)
def _bands(side: int) -> list[tuple[slice, slice, np.ndarray]]:
    """Along a side of the image: some inputs, the outputs that need no others, and the matrix between them."""
    bands = []
    for start in range(0, side - _MARGIN, _BAND_PX):
        num = min(_BAND_PX, side - _MARGIN - start)
        bands.append((slice(start, start + num + _MARGIN), slice(start, start + num), _BAND[:num, : num + _MARGIN]))
    return bands


def _band_matrix() -> np.ndarray:
    """(16, 26): row i holds the window's weights from column i on."""
    weights = np.exp(-0.5 * ((np.arange(WINDOW_PX) - WINDOW_PX // 2) / SIGMA_PX) ** 2)
    return sum(weight * np.eye(_BAND_PX, _BAND_PX + _MARGIN, k) for k, weight in enumerate(weights / weights.sum()))


_BAND = _band_matrix()
