"""Reading a JPEG quality off the representation: a small probe on top of the frozen encoder, with a spread.

The encoder is trained without labels: its representation tells qualities apart but does not name them. The probe names
them. It is a polynomial of second degree, fitted to crops of photos that were coded at known qualities (`cqe.fitting`),
and is kept beside the encoder in its weight file.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cqe.encoder import QualityEncoder
from data.color import luma, to_tensor

CROP_PX = 128  # side of the crops that the probe is fitted to and that the reader looks at
MAX_CROPS_A_SIDE = 4  # of a photo that is read
NUM_RANGES = 10  # of estimates, with an error of their own each
MIN_CONTRAST = 8  # grey levels; a crop with less contrast (a white background) looks the same at most qualities
MIDDLE_QUALITY = 50.0  # the ridge shrinks estimates towards it


class Reading(NamedTuple):
    """A quality, 1..100, and its spread: one standard error, measured on images that the probe had not seen."""

    quality: float
    spread: float


NOTHING_KNOWN = Reading(50.5, 28.6)  # mean and standard deviation where all qualities are equally likely


class QualityProbe(nn.Module):
    """The JPEG quality as a polynomial of second degree in the representation, and its usual error.

    All tensors are buffers: `cqe.fitting.fit_probe` computes them, no gradient does.

    Args:
        representation_size: D, the encoder's.
    """

    def __init__(self, representation_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(representation_size))
        self.register_buffer("scale", torch.ones(representation_size))
        self.register_buffer("bias", torch.tensor(MIDDLE_QUALITY))
        self.register_buffer("linear", torch.zeros(representation_size))
        self.register_buffer("quadratic", torch.zeros(representation_size, representation_size))
        # Root mean square errors, by range of estimates; `range_ends` are the ends of all ranges but the last.
        self.register_buffer("range_ends", torch.linspace(0, 100, NUM_RANGES + 1)[1:-1])
        self.register_buffer("shared_error", torch.zeros(NUM_RANGES))
        self.register_buffer("own_error", torch.zeros(NUM_RANGES))

    def forward(self, representations: Tensor) -> Tensor:
        """Qualities, (N,) within 1..100, of raw representations (N, D)."""
        return self.unclipped(representations).clamp(1, 100)

    def unclipped(self, representations: Tensor) -> Tensor:
        """Estimates (N,), of any size, from raw representations (N, D): b + w.z + z'Qz, z standardised."""
        z = (representations - self.mean) / self.scale
        return self.bias + z @ self.linear + ((z @ self.quadratic) * z).sum(dim=1)

    def combine(self, estimates: Tensor, *, crop_area: float = 1.0) -> Reading:
        """One reading from the estimates of one image's crops.

        The quality is the median of the estimates, clipped to 1..100. A mean would suffer from a crop of sky, which
        shows little of the coding. The spread is sqrt(shared^2 + own^2 / N + beyond^2). `shared` is the error that all
        crops of an image have in common; more crops do not reduce it. `own` is the error of each crop: the scatter of
        these crops, with that of the calibration counted as one crop more. `beyond` is the distance of the median from
        1..100; images unlike any photo have one (noise: 158).

        Args:
            estimates: (N,) from `unclipped`, of crops that do not overlap.
            crop_area: area of one crop as a share of the calibration's. A smaller crop says less.
        """
        estimates = estimates.double()
        median = estimates.quantile(0.5)
        quality = median.clamp(1, 100)
        index = torch.bucketize(quality.float(), self.range_ends)
        shared, own = self.shared_error[index].double(), self.own_error[index].double()
        scatter = (estimates - estimates.mean()).square().sum()
        own_squared = (own.square() / crop_area + scatter) / len(estimates)
        variance = shared.square() + own_squared / len(estimates) + (median - quality).square()
        return Reading(quality.item(), variance.sqrt().item())


class QualityReader:
    """Reads the JPEG quality of images of any size.

    Args:
        encoder: in eval mode. It runs on its device, always in float32.
        probe: fitted to this encoder, on the CPU.
    """

    def __init__(self, encoder: QualityEncoder, probe: QualityProbe) -> None:
        self.encoder = encoder
        self.probe = probe

    def read(self, image: np.ndarray) -> Reading:
        """The quality that an image was last coded at. An image without a trace of coding reads near 100.

        Up to 16 crops of 128 pixels are read, evenly spread; a smaller image is read whole. Nearly uniform crops are
        skipped. If all are, the reading is `NOTHING_KNOWN`.

        Args:
            image: (H, W) or (H, W, 3), uint8 or uint16; uint16 is rounded to 8 bits.
        """
        seen = as_seen(image, self.encoder.in_channels)
        telling = [to_tensor(crop) for crop in _spread_crops(seen) if is_telling(crop)]
        if not telling:
            return NOTHING_KNOWN
        crops = torch.stack(telling)  # (N, C, h, w)
        with torch.autocast(next(self.encoder.parameters()).device.type, enabled=False):
            estimates = self.probe.unclipped(raw_rows(self.encoder, crops))
        return self.probe.combine(estimates, crop_area=crops[0, 0].numel() / CROP_PX**2)


@torch.no_grad()
def raw_rows(encoder: nn.Module, crops: Tensor, *, batch_size: int = 32) -> Tensor:
    """Representations as the encoder gives them.

    Args:
        encoder: maps (N, C, H, W) to (representation, features).
        crops: (N, C, H, W), floating point in [0, 1] or uint8.

    Returns:
        (N, D) float32 on the CPU.
    """
    device = next(encoder.parameters()).device
    parts = []
    for part in crops.split(batch_size):
        part = part.to(device)
        part = part if part.is_floating_point() else part.float() / 255
        parts.append(encoder(part)[0].float().cpu())
    return torch.cat(parts)


def is_telling(crop: np.ndarray) -> bool:
    """Whether a crop, (h, w) or (h, w, 3), shows enough contrast in a channel for its coding to be seen."""
    return bool(np.max(np.ptp(crop, axis=(0, 1))) >= MIN_CONTRAST)


def as_seen(image: np.ndarray, channels: int) -> np.ndarray:
    """A photo as a network with 1 or 3 channels sees it: luma in JFIF's range, or RGB (gray in all three)."""
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if channels == 1:
        return image if image.ndim == 2 else luma(image, full_range=True)
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)


def _spread_crops(image: np.ndarray) -> list[np.ndarray]:
    """Crops from the middle of up to 4 x 4 equal fields; they do not overlap."""
    rows, columns = (_starts(length) for length in image.shape[:2])
    return [image[top : top + CROP_PX, left : left + CROP_PX] for top, left in product(rows, columns)]


def _starts(length: int) -> list[int]:
    num_crops = min(max(length // CROP_PX, 1), MAX_CROPS_A_SIDE)
    field = length / num_crops
    return [int(index * field + (field - min(CROP_PX, length)) / 2) for index in range(num_crops)]
