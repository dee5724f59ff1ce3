"""The DCT of 8x8 pixel cells as a change of channels: a convolution with fixed weights, and its transpose."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_PX = 8


class BlockDct(nn.Module):
    """The orthonormal DCT of each 8x8 cell and its inverse, for images of 1 or 3 channels.

    Channel 64 * c + 8 * v + u of the coefficients has vertical frequency v and horizontal frequency u of image channel
    c. Source: ITU-T T.81, A.3.3, whose scaling is the same.

    Args:
        channels: of the images.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        # Fixed, so not saved with the weights. (64 * C, 1, 8, 8)
        self.register_buffer("basis", _basis_images().repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W), H and W multiples of 8, to coefficients (N, 64 * C, H/8, W/8)."""
        return F.conv2d(images, self.basis, stride=BLOCK_PX, groups=self.channels)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Coefficients (N, 64 * C, h, w) to images (N, C, 8 * h, 8 * w)."""
        return F.conv_transpose2d(coefficients, self.basis, stride=BLOCK_PX, groups=self.channels)


def _basis_images() -> Tensor:
    """The 64 basis images, (64, 1, 8, 8), rows of frequencies first."""
    position = torch.arange(BLOCK_PX, dtype=torch.float64)
    waves = torch.cos((2 * position[None] + 1) * position[:, None] * math.pi / (2 * BLOCK_PX))  # (frequency, position)
    waves *= (2 / BLOCK_PX) ** 0.5
    waves[0] /= 2**0.5
    images = torch.einsum("vy,ux->vuyx", waves, waves).reshape(BLOCK_PX**2, 1, BLOCK_PX, BLOCK_PX)
    return images.to(torch.get_default_dtype())
