"""ARCNN: four convolutions. Its layers have the names of the authors' MATLAB files.

Source: Dong, Deng, Loy, Tang, Compression Artifacts Reduction by a Deep Convolutional Network (ICCV 2015).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from restoration.networks.restorer import Restorer


@dataclass(frozen=True)
class ARCNNOptions:
    """Options of "arcnn" (Dong et al. 2015).

    Args:
        widths: channels after the first, second and third convolution.
    """

    widths: tuple[int, int, int] = (64, 32, 16)

    def __post_init__(self) -> None:
        if min(self.widths) < 1:
            raise ValueError(f"network.arcnn.widths must be at least 1, got {self.widths}")


class ARCNN(Restorer):
    """Features, their enhancement, mapping, reconstruction. It gives the image itself, not a residual.

    Args:
        channels: image channels, 1 or 3.
        widths: channels of the features, after their enhancement, and after the mapping.
    """

    takes_encoder = False
    is_residual = False

    def __init__(self, channels: int, *, widths: Sequence[int] = (64, 32, 16)) -> None:
        super().__init__(None, channels, size_multiple=1)
        features, enhanced, mapped = widths
        self.conv1 = _convolution(channels, features, 9)
        self.conv2 = _convolution(features, enhanced, 7)
        self.conv22 = _convolution(enhanced, mapped, 1)
        self.conv3 = _convolution(mapped, channels, 5)

    def restored(self, padded: Tensor) -> Tensor:
        x = F.relu(self.conv1(padded))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv22(x))
        return self.conv3(x)


def _convolution(in_channels: int, out_channels: int, kernel_px: int) -> nn.Conv2d:
    # The authors' test code repeats the edge of every map (MATLAB's imfilter with 'replicate').
    return nn.Conv2d(in_channels, out_channels, kernel_px, padding=kernel_px // 2, padding_mode="replicate")
