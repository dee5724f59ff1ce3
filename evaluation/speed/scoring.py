"""Scored images per second: our evaluation of the JPEG row against the plain loop that this field's scripts have.

The images are photos that come with scikit-image, in the size and format of BSDS500, or the first ones of a folder.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import skimage.data
from PIL import Image
from skimage.metrics import structural_similarity

from data.color import luma
from data.images import list_images, read_rgb
from data.jpeg import jpeg_roundtrip
from evaluation.scores.image_sets import ImageSet
from evaluation.scores.protocol import JpegSource, evaluate
from evaluation.speed.ratios import rates_row

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png")  # of scikit-image's own package
SIZE_PX = (481, 321)  # width and height
NUM_IMAGES = 10
QUALITIES = (10, 15, 20, 25, 30, 35, 40, 45)


def scoring_row(num_rounds: int, *, workers: int, folder: str | Path | None = None) -> dict:
    """A row of the benchmark. `folder` holds RGB images; None: scikit-image's photos."""
    with tempfile.TemporaryDirectory() as working:
        paths = list_images(folder)[:NUM_IMAGES] if folder else write_images(Path(working))
        num_scored = len(paths) * len(QUALITIES)
        ours, baseline = [], []
        for _ in range(num_rounds):
            started = perf_counter()
            evaluate(JpegSource(), [ImageSet("speed", paths)], QUALITIES, "gray", method="jpeg", workers=workers)
            turn = perf_counter()
            plain_loop(paths)
            ended = perf_counter()
            ours.append(turn - started)
            baseline.append(ended - turn)
    name = f"scoring JPEGs, luma, {workers} processes: ours / a plain loop"
    return rates_row(name, ours, baseline, "images/s", work=num_scored, baseline_work=num_scored)


def write_images(folder: Path) -> list[Path]:
    """The photos as JPEG files, some of them turned."""
    photos = [read_rgb(Path(skimage.data.__file__).parent / name) for name in PHOTOS]
    paths = []
    for index in range(NUM_IMAGES):
        photo = Image.fromarray(photos[index % len(photos)]).rotate(90 * (index // len(photos)), expand=True)
        paths.append(folder / f"{index}.jpg")
        photo.resize(SIZE_PX, Image.Resampling.BICUBIC).save(paths[-1], quality=95)
    return paths


def plain_loop(paths: Sequence[Path]) -> dict[tuple[int, str], tuple[float, float, float]]:
    """PSNR, SSIM and PSNR-B of every image's luma at every quality, one after the other."""
    scores = {}
    for quality in QUALITIES:
        for path in paths:
            clean = luma(read_rgb(path))
            coded = jpeg_roundtrip(clean, quality)
            error = np.mean((coded.astype(np.float64) - clean.astype(np.float64)) ** 2)
            similarity = structural_similarity(
                coded, clean, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
            )
            psnr, psnrb = (10 * math.log10(255**2 / each) for each in (error, error + _blocking_by_columns(coded)))
            scores[quality, path.stem] = (psnr, float(similarity), psnrb)
    return scores


def _blocking_by_columns(image: np.ndarray) -> float:
    """The blocking effect factor of Yim and Bovik, a column or row at a time."""
    plane = image.astype(np.float64)
    height, width = plane.shape
    at_boundary = elsewhere = 0.0
    for pixels, side in ((plane, width), (plane.T, height)):
        for index in range(side - 1):
            step = np.sum((pixels[:, index] - pixels[:, index + 1]) ** 2)
            if index % 8 == 7:
                at_boundary += step
            else:
                elsewhere += step
    num_boundary = height * (width / 8 - 1) + width * (height / 8 - 1)
    num_elsewhere = height * (width - 1) + width * (height - 1) - num_boundary
    excess = at_boundary / num_boundary - elsewhere / num_elsewhere
    return math.log2(8) / math.log2(min(height, width)) * max(excess, 0.0)
