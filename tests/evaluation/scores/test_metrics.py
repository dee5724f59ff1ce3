"""Metrics against closed forms and slow, independent versions."""

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from data.color import luma
from data.jpeg import jpeg_roundtrip
from evaluation.scores import ssim as ssim_module
from evaluation.scores.metrics import blocking_effect, psnr, psnrb, score, scorer, ssim
from tests.synthetic import picture


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def random_pair(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """A clean image and one whose 8x8 blocks were shifted in level, so that its blocks show; sides of any length."""
    clean = rng.integers(60, 190, shape, dtype=np.uint8)
    rows, columns = (np.arange(side) // 8 for side in shape[:2])
    shifts = rng.integers(-50, 50, (*(side // 8 + 1 for side in shape[:2]), *shape[2:]))
    return (clean + shifts[rows[:, None], columns[None, :]]).astype(np.uint8), clean


def test_psnr_of_constant_offset_is_closed_form(rng: np.random.Generator) -> None:
    clean = rng.integers(0, 250, (24, 32), dtype=np.uint8)
    assert psnr(clean + np.uint8(5), clean) == pytest.approx(20 * math.log10(255 / 5), abs=1e-12)


def test_psnr_averages_error_over_all_channels(rng: np.random.Generator) -> None:
    clean = rng.integers(0, 200, (16, 16, 3), dtype=np.uint8)
    restored = clean.copy()
    restored[:, :, 1] += 30
    assert psnr(restored, clean) == pytest.approx(10 * math.log10(255**2 / (30**2 / 3)), abs=1e-12)


def test_differences_do_not_wrap_around() -> None:
    black, white = np.zeros((16, 16), np.uint8), np.full((16, 16), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0


def test_equal_smooth_images_are_infinitely_close() -> None:
    image = np.full((16, 16), 90, np.uint8)
    assert score(image, image) == {"psnr": math.inf, "ssim": 1.0, "psnrb": math.inf}


def test_ssim_of_two_constants_is_closed_form() -> None:
    restored, clean = np.full((20, 20), 100, np.uint8), np.full((20, 20), 120, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(restored, clean) == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1), abs=1e-12)


def test_ssim_equals_slow_windowed_sum(rng: np.random.Generator) -> None:
    restored, clean = random_pair(rng, 15, 18)
    offsets = np.arange(11) - 5
    gaussian = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(gaussian, gaussian) / gaussian.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(15 - 10):
        for left in range(18 - 10):
            x, y = (image[top : top + 11, left : left + 11].astype(float) for image in (restored, clean))
            mean_x, mean_y = (window * x).sum(), (window * y).sum()
            var_x, var_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
            covariance = (window * (x - mean_x) * (y - mean_y)).sum()
            values.append(
                (2 * mean_x * mean_y + c1)
                * (2 * covariance + c2)
                / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
            )
    assert ssim(restored, clean) == pytest.approx(np.mean(values), abs=1e-10)


# Sides of the window itself, around the 16 outputs of one product, and of several slabs of rows.
@pytest.mark.parametrize("shape", [(11, 11), (11, 300), (26, 27), (43, 12), (150, 260), (33, 20, 3)])
def test_ssim_equals_scikit_images(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(ssim_module, "_SLAB_PIXELS", 1 << 13)
    coded = picture(*shape[:2]) if len(shape) == 3 else picture(*shape)[..., 0].copy()
    pairs = [random_pair(rng, *shape), (jpeg_roundtrip(coded, 10), coded), (np.full_like(coded, 7), coded)]
    for restored, clean in pairs:
        expected = structural_similarity(
            restored,
            clean,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=2 if clean.ndim == 3 else None,
        )
        assert ssim(restored, clean) == pytest.approx(expected, abs=1e-12)
        assert ssim(clean, clean) == 1


def test_several_images_are_scored_with_one_clean_image_as_each_alone(rng: np.random.Generator) -> None:
    for shape in ((24, 30), (20, 21, 3)):
        restored, clean = random_pair(rng, *shape)
        against_clean = scorer(clean)
        for image in (restored, clean, 255 - restored):
            assert against_clean(image) == score(image, clean)


def test_ssim_of_colour_is_mean_of_channels(rng: np.random.Generator) -> None:
    restored, clean = random_pair(rng, 20, 24, 3)
    channels = [ssim(restored[:, :, c].copy(), clean[:, :, c].copy()) for c in range(3)]
    assert ssim(restored, clean) == pytest.approx(np.mean(channels), abs=1e-12)


def test_psnrb_without_blocking_equals_psnr() -> None:
    clean = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8)  # equal steps on and off the block grid
    restored = clean + np.uint8(7)
    assert psnrb(restored, clean) == psnr(restored, clean)


def test_blocking_effect_of_flat_blocks_is_closed_form() -> None:
    pattern = np.indices((2, 3)).sum(axis=0) % 2  # a checkerboard of blocks
    image = np.kron(pattern, np.full((8, 8), 10)).astype(np.uint8)  # (16, 24), a step of 10 at every boundary
    eta = 3 / math.log2(16)
    assert blocking_effect(image) == pytest.approx(eta * 10**2, abs=1e-12)
    assert psnrb(image, image) == pytest.approx(10 * math.log10(255**2 / (eta * 100)), abs=1e-12)


@pytest.mark.parametrize("slab_pixels", [1, 500, 1 << 15])
@pytest.mark.parametrize("shape", [(16, 24), (21, 30), (27, 11), (40, 33)])
def test_psnrb_equals_slow_double_loop(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], slab_pixels: int
) -> None:
    monkeypatch.setattr(ssim_module, "_SLAB_PIXELS", slab_pixels)
    restored, clean = random_pair(rng, *shape)
    fast = psnrb(restored, clean)
    assert fast == pytest.approx(slow_psnrb(restored.astype(int), clean.astype(int)), abs=1e-10)
    assert fast < psnr(restored, clean)  # the blocks do show


def slow_psnrb(restored: np.ndarray, clean: np.ndarray) -> float:
    height, width = restored.shape
    boundary_sum = other_sum = squared_error = 0
    for y in range(height):
        for x in range(width):
            squared_error += (restored[y, x] - clean[y, x]) ** 2
            for is_boundary, inside, below_right in (
                (x % 8 == 7, x + 1 < width, (y, x + 1)),
                (y % 8 == 7, y + 1 < height, (y + 1, x)),
            ):
                if inside:
                    step = (restored[y, x] - restored[below_right]) ** 2
                    boundary_sum += step if is_boundary else 0
                    other_sum += 0 if is_boundary else step
    num_hb, num_vb = height * (width / 8 - 1), width * (height / 8 - 1)
    num_hbc, num_vbc = height * (width - 1) - num_hb, width * (height - 1) - num_vb
    d_b, d_bc = boundary_sum / (num_hb + num_vb), other_sum / (num_hbc + num_vbc)
    eta = math.log2(8) / math.log2(min(height, width)) if d_b > d_bc else 0
    return 10 * math.log10(255**2 / (squared_error / (height * width) + eta * (d_b - d_bc)))


def test_metrics_ignore_transposition(rng: np.random.Generator) -> None:
    restored, clean = random_pair(rng, 26, 37)
    turned = score(np.ascontiguousarray(restored.T), np.ascontiguousarray(clean.T))
    assert turned == pytest.approx(score(restored, clean), abs=1e-10)


def test_published_colour_psnrb_swaps_red_and_blue_in_the_luma(rng: np.random.Generator) -> None:
    restored, clean = random_pair(rng, 24, 32, 3)
    error = np.square(restored.astype(float) - clean).mean()
    for order, rgb in (("right", restored), ("published", restored[:, :, ::-1])):
        expected = 10 * math.log10(255**2 / (error + blocking_effect(luma(rgb))))
        assert psnrb(restored, clean, channel_order=order) == pytest.approx(expected, abs=1e-12)
    assert psnrb(restored, clean) == psnrb(restored, clean, channel_order="published")
    assert psnrb(restored, clean) != psnrb(restored, clean, channel_order="right")


@pytest.mark.parametrize(
    ("restored", "clean", "message"),
    [
        (np.zeros((16, 16), np.uint8), np.zeros((16, 24), np.uint8), "same size"),
        (np.zeros((16, 16), np.float32), np.zeros((16, 16), np.uint8), "uint8 images of shape"),
        (np.zeros((16, 16, 4), np.uint8), np.zeros((16, 16, 4), np.uint8), "uint8 images of shape"),
        (np.zeros((10, 16), np.uint8), np.zeros((10, 16), np.uint8), "at least 11 pixels, got 16x10"),
    ],
)
def test_unfit_images_are_refused(restored: np.ndarray, clean: np.ndarray, message: str) -> None:
    for metric in (psnr, ssim, psnrb):
        with pytest.raises(ValueError, match=message):
            metric(restored, clean)


def test_unknown_channel_order_is_refused() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="published, right, got 'bgr'"):
        psnrb(image, image, channel_order="bgr")
