"""Stage 2's network and its loss in one module. The training script and the benchmark share it."""

from torch import Tensor, nn

from losses.reconstruction import reconstruction_loss
from restoration.config import LossConfig
from restoration.networks.restorer import Restorer


class RestorationObjective(nn.Module):
    """The network and its loss in one module, so that DDP sees one forward pass.

    Args:
        restorer: the network.
        loss: the options of the loss.
    """

    def __init__(self, restorer: Restorer, loss: LossConfig) -> None:
        super().__init__()
        self.restorer = restorer
        self.loss = loss

    def forward(self, degraded: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Named losses of a batch. Both images are (N, C, H, W) in [0, 1]."""
        restored = self.restorer(degraded)
        return reconstruction_loss(restored, clean, fft_weight=self.loss.fft_weight, fft_norm=self.loss.fft_norm)
