"""Luma as the field measures it, and the step between images (uint8, HWC) and tensors (float, CHW, [0, 1])."""

import numpy as np
import torch
from torch import Tensor

STUDIO_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255  # MATLAB rgb2ycbcr: Y in 16..235
FULL_WEIGHTS = np.array([0.299, 0.587, 0.114])  # JFIF: Y in 0..255, what a colour JPEG codes
_BLOCK_PX = 1 << 14


def luma(rgb: np.ndarray, *, full_range: bool = False) -> np.ndarray:
    """Luma of an RGB image, rounded to uint8.

    Args:
        rgb: (H, W, 3) uint8.
        full_range: False gives MATLAB's `rgb2ycbcr` Y (16..235), on which LIVE1 and BSDS500 are scored;
            True gives JFIF's Y (0..255), the plane that a colour JPEG file codes.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: if `rgb` is not an RGB image.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"luma needs a uint8 image of shape (H, W, 3), got {rgb.dtype} {rgb.shape}")
    weights, offset = (FULL_WEIGHTS, 0.0) if full_range else (STUDIO_WEIGHTS, 16.0)
    result = np.empty(rgb.shape[:2], np.uint8)
    # A few rows at a time: their float64 copies stay in the cache. A 2K image takes a tenth of the time.
    num_rows = max(1, _BLOCK_PX // max(1, rgb.shape[1]))
    for top in range(0, len(rgb), num_rows):
        rows = slice(top, top + num_rows)
        exact = rgb[rows] @ weights
        exact += offset
        result[rows] = np.rint(exact, out=exact)
    return result


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W) or (H, W, C) uint8 image -> (C, H, W) float32 tensor in [0, 1]."""
    channels_last = image[:, :, None] if image.ndim == 2 else image
    return torch.from_numpy(channels_last.transpose(2, 0, 1).astype(np.float32)).div_(255)


def to_image(tensor: Tensor) -> np.ndarray:
    """(C, H, W) tensor -> uint8 (H, W) for one channel, (H, W, C) otherwise; clamped to [0, 1], scaled, rounded."""
    pixels = tensor.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
