"""What every restoration network shares: the frozen encoder, padding to a workable size, the global residual."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GuidingEncoder(nn.Module):
    """A quality encoder inside a restoration network, trained with it.

    Args:
        encoder: maps (N, C, H, W) to (representation, [E0, E1, E2, E3]). Its `feature_channels` are the channels of the
            four maps. It is used, not copied.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.network = encoder.requires_grad_(True)
        self.feature_channels = tuple(encoder.feature_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The encoder's (representation, features)."""
        return self.network(x)


class FrozenEncoder(GuidingEncoder):
    """A trained quality encoder that cannot change: no gradients, always in eval mode.

    Its parameters require no gradients, so DDP and optimizers leave it out. `train()` does not reach it, so its
    BatchNorm statistics stay. Its forward pass records nothing for autograd. It is frozen in place, not copied.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stay in eval mode, whatever `mode` is."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The encoder's (representation, features), without gradient history."""
        return super().forward(x)


class Restorer(nn.Module):
    """Base of the restoration networks: image + residual(image, encoder features).

    A subclass builds its layers and implements `residual`. This class pads images of any size to fit.

    Args:
        encoder: the quality encoder; it becomes frozen (see `FrozenEncoder`).
        channels: image channels, 1 (luma) or 3 (RGB).
        size_multiple: heights and widths that reach `residual` are multiples of this many pixels.

    Attributes:
        is_guided: whether `residual` reads the encoder's features; if not, they are not computed.
        concatenated_inputs: layers, by the last part of their name, whose input is a concatenation of so many maps of
            equal width. A wider network can then start from this one. None: it cannot.
    """

    is_guided = True
    concatenated_inputs: Mapping[str, int] | None = None

    def __init__(self, encoder: nn.Module, channels: int, *, size_multiple: int = 8) -> None:
        super().__init__()
        self.encoder = FrozenEncoder(encoder)
        self.channels = channels
        self.size_multiple = size_multiple

    def forward(self, x: Tensor) -> Tensor:
        """Restore images.

        Args:
            x: (N, channels, H, W) in [0, 1]; any size from one pixel up.

        Returns:
            (N, channels, H, W), about [0, 1] but not clipped.

        Raises:
            ValueError: if x is not a batch of images with `channels` channels.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"expected images of shape (N, {self.channels}, H, W), got {tuple(x.shape)}")
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self.size_multiple)
        features = self.encoder(padded)[1] if self.is_guided else []
        return (padded + self.residual(padded, features))[..., :height, :width]

    def train_encoder(self) -> None:
        """Let the encoder be trained with the network, as model-2 of the paper's Table 5 is.

        Raises:
            ValueError: if the network does not read the encoder.
        """
        if not self.is_guided:
            raise ValueError("train_encoder is on, but network's fusion is none: it does not read the encoder")
        self.encoder = GuidingEncoder(self.encoder.network)

    def residual(self, padded: Tensor, features: Sequence[Tensor]) -> Tensor:
        """What to add to the image.

        Args:
            padded: (N, channels, H, W), H and W multiples of `size_multiple`.
            features: E0..E3 at 1, 1/2, 1/4 and 1/8 of the padded size, without gradient history unless the encoder is
                trained too; none if the network is not guided.

        Returns:
            (N, channels, H, W).
        """
        raise NotImplementedError


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of (N, C, H, W) until height and width are multiples of `multiple`."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")
