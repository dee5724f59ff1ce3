"""DnCNN: a row of 3x3 convolutions that gives the artifacts, which are subtracted.

Source: Zhang, Zuo, Chen, Meng, Zhang, Beyond a Gaussian Denoiser (TIP 2017). DnCNN-3 has 20 layers of 64 channels. As
in the authors' files, there is no batch normalisation: after training it can be merged into the convolutions.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from restoration.networks.restorer import Restorer


@dataclass(frozen=True)
class DnCNNOptions:
    """Options of "dncnn" (Zhang et al. 2017), without its batch normalisation.

    Args:
        depth: number of convolutions, at least 2; DnCNN-3 has 20.
        width: channels between them.
    """

    depth: int = 20
    width: int = 64

    def __post_init__(self) -> None:
        if self.depth < 2 or self.width < 1:
            raise ValueError(f"network.dncnn needs depth >= 2 and width >= 1, got {self.depth} and {self.width}")


class DnCNN(Restorer):
    """The image minus what the convolutions give.

    Args:
        channels: image channels, 1 or 3.
        depth: number of convolutions, the first and the last included.
        width: channels between them.
    """

    takes_encoder = False

    def __init__(self, channels: int, *, depth: int = 20, width: int = 64) -> None:
        super().__init__(None, channels, size_multiple=1)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        for _ in range(depth - 2):
            layers += [nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, padding=1)]
        layers += [nn.ReLU(inplace=True), nn.Conv2d(width, channels, 3, padding=1)]
        self.model = nn.Sequential(*layers)

    def restored(self, padded: Tensor) -> Tensor:
        return padded - self.model(padded)
