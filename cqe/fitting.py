"""Fitting a `QualityProbe`: photos coded at known qualities, ridge regression, errors on images held out."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cqe.encoder import QualityEncoder
from cqe.quality import CROP_PX, MIDDLE_QUALITY, NUM_RANGES, QualityProbe, is_telling, raw_rows
from data.color import luma, to_tensor
from data.jpeg import jpeg_roundtrip

NUM_ROWS = 5000  # about; fitting solves that many equations, which takes a minute
CROPS_A_CODING = 4  # crops of one image at one quality: two for each of the two ways to code it
MAX_QUALITIES = 25  # of one image
PENALTIES = (1e-3, 1e-2, 1e-1)  # of the ridge; the error on held-out images chooses among them


class ProbeFit(NamedTuple):
    """A probe, and for each row the estimate of a probe that was fitted without the row's image, (N,)."""

    probe: QualityProbe
    held_out: Tensor


def read_coded(
    encoder: QualityEncoder, images: Iterable[np.ndarray], *, num_images: int, seed: int = 0, num_rows: int = NUM_ROWS
) -> tuple[Tensor, Tensor, Tensor]:
    """The data that a probe is fitted to: representations of off-grid crops of photos, coded at known qualities.

    Each image is coded at evenly spaced qualities. The first quality differs from image to image, so all of 1..100
    occur. A luma encoder sees both ranges of luma; a colour encoder sees the photo in colour and in gray.

    Args:
        images: (H, W, 3) uint8 each.
        num_images: how many images there are. Of more than num_rows / 4, only every second, third, ... is used.
        seed: seed of the qualities and of the places of the crops.
        num_rows: about how many crops are wanted.

    Returns:
        Representations (N, D), their qualities (N,) and the index of their image (N,). Nearly uniform crops are
        skipped.

    Raises:
        ValueError: if no crop is left.
    """
    rng = np.random.default_rng(seed)
    step = 100 / min(max(round(num_rows / (CROPS_A_CODING * num_images)), 1), MAX_QUALITIES)
    parts, qualities, owners = [], [], []
    for index, image in enumerate(islice(images, 0, None, -(-num_images * CROPS_A_CODING // num_rows))):
        crops, levels = [], []
        for level in np.arange(1 + rng.uniform(0, step), 101, step).astype(int):
            cut = [_random_crop(planes, rng) for planes in _coded(image, level, encoder.in_channels) for _ in range(2)]
            telling = [to_tensor(crop) for crop in cut if is_telling(crop)]
            crops += telling
            levels += [level] * len(telling)
        if crops:
            parts.append(raw_rows(encoder, torch.stack(crops)))
            qualities += levels
            owners += [index] * len(crops)
    if not parts:
        raise ValueError("the images to fit a probe to are all uniform; give photos")
    return torch.cat(parts), torch.tensor(np.array(qualities)), torch.tensor(owners)


def fit_probe(
    representations: Tensor, qualities: Tensor, images: Tensor, *, penalties: Sequence[float] = PENALTIES
) -> ProbeFit:
    """Ridge regression of the quality on the standardised representation z, its squares and products.

    It is solved through the kernel (1 + z.z'/D)^2, which has just these features. That makes N equations in place of
    D^2, and N^3 operations for each penalty. The error on held-out images (exact, one image left out at a time) chooses
    the penalty. The spread of readings is computed from it.

    Args:
        representations: (N, D), raw.
        qualities: (N,), 1..100.
        images: (N,) the image of each row. Rows of one image at one quality show what their errors have in common.
        penalties: of the ridge, > 0.

    Raises:
        ValueError: if there are fewer than two images, or fewer than ten pairs of an image and a quality, or if a
            representation is not finite.
    """
    coding, num_codings = _codings(images, qualities)
    if (num_images := len(images.unique())) < 2:
        raise ValueError(f"a probe needs two photos or more that are not uniform, got {num_images}")
    if num_codings < NUM_RANGES:
        raise ValueError(f"a probe needs photos at {NUM_RANGES} qualities in all, got {num_codings}")
    if not representations.isfinite().all():
        raise ValueError("the encoder's representations are not finite: its weights are damaged, or training diverged")
    x, targets = representations.double(), qualities.double()
    mean, scale = x.mean(dim=0), x.std(dim=0)
    scale = scale.clamp(min=0.01 * scale.max())  # a channel that hardly varies here must not decide elsewhere
    scale[scale == 0] = 1  # no channel of a collapsed encoder varies: the probe then answers the mean
    z = (x - mean) / scale
    solved = [_solve(z, targets, images, penalty) for penalty in penalties]
    weights, held_out = min(solved, key=lambda fit: (fit[1] - targets).square().mean())
    size = z.shape[1]
    probe = QualityProbe(size)
    probe.mean.copy_(mean)
    probe.scale.copy_(scale)
    # (1 + z.z_n/D)^2 = 1 + 2/D z.z_n + (z.z_n)^2/D^2, summed over the rows z_n with their weights.
    probe.bias.copy_(MIDDLE_QUALITY + weights.sum())
    probe.linear.copy_(2 / size * (weights @ z))
    probe.quadratic.copy_((z.T * weights) @ z / size**2)
    _calibrate(probe, held_out, held_out - targets, coding)
    return ProbeFit(probe, held_out)


def _solve(z: Tensor, targets: Tensor, images: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """The kernel's weights (N,), and the estimate of each row when its image is left out (N,)."""
    gram = (1 + z @ z.T / z.shape[1]).square_()
    gram.diagonal().add_(penalty)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weights = inverse @ (targets - MIDDLE_QUALITY)
    held_out = targets.clone()
    for image in images.unique():
        rows = (images == image).nonzero()[:, 0]
        # With G = K + penalty, the residual of left-out rows S is (G^-1)_SS^-1 (G^-1 y)_S. No second solve is needed.
        held_out[rows] -= torch.linalg.solve(inverse[rows[:, None], rows], weights[rows])
    return weights, held_out.clamp(1, 100)


def _calibrate(probe: QualityProbe, held_out: Tensor, errors: Tensor, coding: Tensor) -> None:
    """Split the held-out errors (N,) into the part that the crops of one coding share and the part of each crop.

    In a coding of c crops the variance of the errors is own^2. The square of their mean is shared^2 + own^2 / c on
    average. Each range of estimates holds equally many codings.
    """
    counts = coding.bincount().double()
    mean_errors, estimates = (coding.bincount(values) / counts for values in (errors, held_out))
    scatter = coding.bincount((errors - mean_errors[coding]).square())
    ranges = estimates.argsort().tensor_split(NUM_RANGES)
    for index, chosen in enumerate(ranges):
        own_squared = scatter[chosen].sum() / (counts[chosen] - 1).sum().clamp(min=1)
        shared_squared = (mean_errors[chosen].square() - own_squared / counts[chosen]).mean().clamp(min=0)
        probe.own_error[index], probe.shared_error[index] = own_squared.sqrt(), shared_squared.sqrt()
    probe.range_ends.copy_(torch.stack([estimates[chosen[-1]] for chosen in ranges[:-1]]))


def _codings(images: Tensor, qualities: Tensor) -> tuple[Tensor, int]:
    """For each row the number of its pair of image and quality (N,), and how many pairs there are."""
    pairs, index = torch.stack([images.double(), qualities.double()]).unique(dim=1, return_inverse=True)
    return index, pairs.shape[1]


def _coded(image: np.ndarray, quality: int, channels: int) -> list[np.ndarray]:
    """An RGB photo, coded at a quality in two ways. Each is returned as an encoder would see it."""
    in_color = jpeg_roundtrip(image, quality)
    if channels == 1:  # as the benchmarks are made: luma in 16..235, then JPEG; and as a colour photo is read
        return [jpeg_roundtrip(luma(image), quality), luma(in_color, full_range=True)]
    in_gray = jpeg_roundtrip(luma(image, full_range=True), quality)
    return [in_color, np.repeat(in_gray[:, :, None], 3, axis=2)]


def _random_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop from any place. A smaller image is returned whole."""
    top, left = (int(rng.integers(max(side - CROP_PX, 0) + 1)) for side in image.shape[:2])
    return image[top : top + CROP_PX, left : left + CROP_PX]
