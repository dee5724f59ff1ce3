"""PSNR, SSIM and PSNR-B between uint8 images, with the settings behind this field's published tables.

An image is uint8, (H, W) for luma or (H, W, 3) for RGB. Nothing is cropped. The output of a network is clamped and
rounded before it gets here. `METRICS`, at the end, lists the metrics; a new one is an entry there.
"""

import math
from collections import ChainMap
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from data.color import luma
from evaluation.scores.ssim import WINDOW_PX, slabs, ssim_with

PEAK = 255.0
BLOCK_PX = 8
MIN_SIDE_PX = WINDOW_PX  # of SSIM; also enough for PSNR-B to have a block boundary
CHANNEL_ORDERS = ("published", "right")


class Metric(NamedTuple):
    """A function that scores a restored image, and how tables and results show the score.

    Attributes:
        function: maps (restored, clean), both uint8 and of one shape, to the score; None: `perceptual` computes it.
        decimals: of the score in tables.
        heading: name of the metric in tables.
        luma_settings, rgb_settings: how it is computed, in the words of a result's protocol.
        unit: of the score; empty if it has none.
        is_smaller_better: if so, the heading says it.
        prepare: maps a clean image to the function of a restored one; it saves work where several are compared with it.
    """

    function: Callable[[np.ndarray, np.ndarray], float] | None
    decimals: int
    heading: str
    luma_settings: str
    rgb_settings: str
    unit: str = ""
    is_smaller_better: bool = False
    prepare: Callable[[np.ndarray], Callable[[np.ndarray], float]] | None = None

    def against(self, clean: np.ndarray) -> Callable[[np.ndarray], float]:
        """The score of restored images, as a function of them."""
        return self.prepare(clean) if self.prepare else lambda restored: self.function(restored, clean)


def scorer(clean: np.ndarray) -> Callable[[np.ndarray], dict[str, float]]:
    """`score` for several restored images of one clean image, as a function of the restored one."""
    functions = {name: metric.against(clean) for name, metric in METRICS.items()}
    return lambda restored: {name: function(restored) for name, function in functions.items()}


def score(restored: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """One image's score in each of `METRICS`: {"psnr": dB, "ssim": -1..1, "psnrb": dB}. Errors as in `psnr`."""
    return scorer(clean)(restored)


def means(scores: Iterable[dict[str, float]]) -> dict[str, float]:
    """The mean of every metric over images. `scores` holds the result of `score` for each; there is at least one."""
    scores = list(scores)
    return {name: float(np.mean([of_image[name] for of_image in scores])) for name in METRICS}


def headings(names: Iterable[str]) -> str:
    """The metrics as a title of a table: `PSNR (dB) / SSIM / PSNR-B (dB)`."""
    return " / ".join(_heading(SHOWN[name]) for name in names)


def _heading(metric: Metric) -> str:
    remarks = [metric.unit] * bool(metric.unit) + ["smaller is better"] * metric.is_smaller_better
    return f"{metric.heading} ({', '.join(remarks)})" if remarks else metric.heading


def psnr(restored: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio. The peak is 255; the mean squared error is over all pixels and channels together.

    Returns:
        dB; infinite for equal images.

    Raises:
        ValueError: if the images are not uint8, differ in shape or have a side under 11 pixels.
    """
    _check_pair(restored, clean)
    return _decibels(_mean_squared_error(restored, clean))


def ssim(restored: np.ndarray, clean: np.ndarray) -> float:
    """Structural similarity, -1..1: Gaussian window 11x11, sigma 1.5, mean over the image without its outer 5 pixels.

    For RGB it is the mean of the three channels' values. Errors as in `psnr`. Source: `evaluation.scores.ssim`.
    """
    return ssim_against(clean)(restored)


def ssim_against(clean: np.ndarray) -> Callable[[np.ndarray], float]:
    """`ssim` with one clean image, as a function of the restored one."""
    _check_pair(clean, clean)
    channels = [ssim_with(plane) for plane in _planes(clean)]

    def against_clean(restored: np.ndarray) -> float:
        _check_pair(restored, clean)
        return float(np.mean([of(plane) for of, plane in zip(channels, _planes(restored), strict=True)]))

    return against_clean


def psnrb(restored: np.ndarray, clean: np.ndarray, *, channel_order: str = "published") -> float:
    """PSNR with a penalty for blocking: the blocking effect factor of the restored image is added to the squared error.

    For RGB, the squared error is over all channels, and the factor is that of the restored image's luma. The published
    colour scores of this field swap the luma weights of red and blue. Only that order gives the printed scores, so it
    is the default. "right" gives red and blue their own weights (0.003-0.005 dB lower on the JPEGs of LIVE1). Luma
    images are not affected.

    Args:
        channel_order: "published" or "right".

    Returns:
        dB; infinite for equal images without blocking.

    Raises:
        ValueError: as in `psnr`, or for an unknown channel order.

    Source: Yim and Bovik, "Quality assessment of deblocked images", 2011.
    """
    if channel_order not in CHANNEL_ORDERS:
        raise ValueError(f"channel_order must be one of {', '.join(CHANNEL_ORDERS)}, got {channel_order!r}")
    _check_pair(restored, clean)
    plane = restored
    if restored.ndim == 3:
        plane = luma(restored[:, :, ::-1] if channel_order == "published" else restored)
    return _decibels(_mean_squared_error(restored, clean) + blocking_effect(plane))


def blocking_effect(plane: np.ndarray) -> float:
    """Blocking effect factor (BEF) of one plane for 8x8 blocks: how much rougher block boundaries are than the rest.

    Pairs are counted as this field does it: if a side is not a multiple of 8, `side / 8` stays a fraction.

    Args:
        plane: (H, W), both sides above 8 pixels.

    Returns:
        eta * (D_B - D_BC) >= 0, in squared grey levels; 0 if the boundaries are no rougher than the rest.
    """
    height, width = plane.shape
    boundary_sum = other_sum = 0.0
    for rows in slabs(height, width, unit=BLOCK_PX):
        values = plane[rows.start : rows.stop + 1].astype(np.float64)  # with the first row of the next slab
        across, down = np.diff(values[: rows.stop - rows.start]), np.diff(values, axis=0)
        for steps, at_boundary in (
            (across, across[:, BLOCK_PX - 1 :: BLOCK_PX]),
            (down, down[BLOCK_PX - 1 :: BLOCK_PX]),
        ):
            boundary_sum += np.vdot(at_boundary, at_boundary)
            other_sum += np.vdot(steps, steps)
    other_sum -= boundary_sum

    num_boundary = height * (width / BLOCK_PX - 1) + width * (height / BLOCK_PX - 1)  # N_HB + N_VB
    num_other = height * (width - 1) + width * (height - 1) - num_boundary  # N_HBC + N_VBC
    excess = boundary_sum / num_boundary - other_sum / num_other  # D_B - D_BC
    eta = math.log2(BLOCK_PX) / math.log2(min(height, width))
    return float(eta * max(excess, 0.0))


def _mean_squared_error(restored: np.ndarray, clean: np.ndarray) -> float:
    total = 0.0  # a sum of whole numbers below 2^53: exact in any order
    for rows in slabs(*clean.shape[:2]):
        error = np.subtract(restored[rows], clean[rows], dtype=np.float64)
        total += np.vdot(error, error)
    return float(total) / clean.size


def _planes(image: np.ndarray) -> list[np.ndarray]:
    return [image] if image.ndim == 2 else [np.ascontiguousarray(plane) for plane in np.moveaxis(image, 2, 0)]


def _decibels(squared_error: float) -> float:
    return 10 * math.log10(PEAK**2 / squared_error) if squared_error > 0 else math.inf


def _check_pair(restored: np.ndarray, clean: np.ndarray) -> None:
    for image in (restored, clean):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ValueError(f"metrics need uint8 images of shape (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
    if restored.shape != clean.shape:
        raise ValueError(
            f"the restored image is {restored.shape}, the clean one {clean.shape}; they must be the same size"
        )
    if min(clean.shape[:2]) < MIN_SIDE_PX:
        raise ValueError(f"metrics need sides of at least {MIN_SIDE_PX} pixels, got {clean.shape[1]}x{clean.shape[0]}")


METRICS = {  # by name in results, in the order of the tables
    "psnr": Metric(psnr, 2, "PSNR", "PSNR peak 255", "PSNR over RGB, peak 255", unit="dB"),
    "ssim": Metric(
        ssim,
        3,
        "SSIM",
        "SSIM 11x11 Gaussian, valid region",
        "SSIM 11x11 Gaussian, valid region, mean of the channels",
        prepare=ssim_against,
    ),
    "psnrb": Metric(psnrb, 2, "PSNR-B", "PSNR-B 8x8", "PSNR-B 8x8, published channel order", unit="dB"),
}

# Of Table 2. They need networks that are not part of the project, so `score` does not have them.
PERCEPTUAL = {
    "lpips": Metric(None, 4, "LPIPS", *["LPIPS 0.1, AlexNet, gray as three channels"] * 2, is_smaller_better=True),
    "fid": Metric(None, 2, "FID", *["FID, Inception-v3, 2048 features, whole images"] * 2, is_smaller_better=True),
}
SHOWN = ChainMap(METRICS, PERCEPTUAL)  # all that tables can show; it follows both
