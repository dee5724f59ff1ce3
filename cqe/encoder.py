"""The compression quality encoder: an image in, feature maps of four scales and one representation out.

Source: Section 3.1 and Fig. 3 of the paper. Layers and module names are those of the authors' released network, so its
`E.*` tensors load once that prefix is removed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

# Both constants belong to `remove_local_mean`. The window is one pixel wider than a JPEG block: it is centred on a
# pixel and always crosses a block border. The gain brings the rest back to about unit size.
LOCAL_MEAN_WINDOW_PX = 9
LOCAL_MEAN_GAIN = 8.0


class QualityEncoder(nn.Module):
    """ResNet of three stages. The global average of its last features represents the compression quality.

    Args:
        in_channels: image channels, 1 (luma) or 3 (RGB).
        width: channels at full resolution; 64 is the paper's size.
        remove_local_mean: encode `8 * (x - 9x9 box mean of x)` in place of x. Two patches of one image share their
            brightness, so content alone can solve the contrastive task. Without the local mean, compression artifacts
            are what tells images apart.
    """

    def __init__(self, in_channels: int, width: int = 64, remove_local_mean: bool = False) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.remove_local_mean = remove_local_mean
        self.feature_channels = (width, width, 2 * width, 4 * width)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(width, width), BasicBlock(width, width))
        self.layer2 = _halving_stage(width, 2 * width)
        self.layer3 = _halving_stage(2 * width, 4 * width)

    @property
    def representation_size(self) -> int:
        """Length of the representation: 4 * width, 256 in the paper."""
        return self.feature_channels[-1]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode images.

        Args:
            x: (N, in_channels, H, W) in [0, 1]; any size from one pixel up.

        Returns:
            The representation, (N, 4 * width), the spatial mean of E3, not normalised and never below float32;
            and [E0, E1, E2, E3] of `feature_channels` channels at 1, 1/2, 1/4 and 1/8 of the size (rounded up).
            E0 is the raw output of the first convolution, before its normalisation.
        """
        if self.remove_local_mean:
            x = without_local_mean(x)
        e0 = self.conv1(x)  # (N, width, H, W)
        e1 = self.layer1(self.maxpool(F.relu(self.bn1(e0))))  # (N, width, H/2, W/2)
        e2 = self.layer2(e1)  # (N, 2*width, H/4, W/4)
        e3 = self.layer3(e2)  # (N, 4*width, H/8, W/8)
        # Under autocast E3 is bfloat16. Averaging in float32 keeps the small differences that the contrast needs.
        representation = e3.mean(dim=(2, 3), dtype=torch.promote_types(e3.dtype, torch.float32))
        return representation, [e0, e1, e2, e3]


def without_local_mean(x: Tensor) -> Tensor:
    """`8 * (x - 9x9 box mean of x)`: (N, C, H, W) to the same shape. Edge pixels are repeated beyond the border."""
    reach = LOCAL_MEAN_WINDOW_PX // 2
    bordered = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    # Rows, then columns: 18 additions a pixel where one pooling of the square takes 81.
    rows = F.avg_pool2d(bordered, (1, LOCAL_MEAN_WINDOW_PX), stride=1)
    return LOCAL_MEAN_GAIN * (x - F.avg_pool2d(rows, (LOCAL_MEAN_WINDOW_PX, 1), stride=1))


def _halving_stage(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two basic residual blocks, the first of which halves the size."""
    shortcut = nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False), nn.BatchNorm2d(out_channels)
    )
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride=2, downsample=shortcut), BasicBlock(out_channels, out_channels)
    )
