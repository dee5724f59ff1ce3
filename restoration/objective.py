"""Stage 2's network and its loss in one module. The training script and the benchmark share it."""

from torch import Tensor, nn

from losses.reconstruction import reconstruction_loss
from restoration.networks.restorer import Restorer


class RestorationObjective(nn.Module):
    """The network and its loss in one module, so that DDP sees one forward pass.

    Args:
        restorer: the network.
        fft_weight: lambda of Eq. 10, >= 0.
        fft_norm: scaling of the transform, as in `losses.reconstruction.fft_loss`.
    """

    def __init__(self, restorer: Restorer, *, fft_weight: float = 0.1, fft_norm: str = "backward") -> None:
        super().__init__()
        self.restorer = restorer
        self.fft_weight = fft_weight
        self.fft_norm = fft_norm

    def forward(self, degraded: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Named losses of a batch. Both images are (N, C, H, W) in [0, 1]."""
        restored = self.restorer(degraded)
        return reconstruction_loss(restored, clean, fft_weight=self.fft_weight, fft_norm=self.fft_norm)
