"""What every restoration network shares: the frozen encoder, padding to a workable size, the global residual."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restoration.networks.recomputing import Recomputing


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


Tiling = Literal["fine", "discouraged", "never"]


class Restorer(Recomputing):
    """Base of the restoration networks. This class pads images of any size to fit.

    A subclass builds its layers. A network that is guided by the encoder implements `residual`; one without an encoder
    sets `takes_encoder` to False and implements `restored`.

    Args:
        encoder: the quality encoder; it becomes frozen (see `FrozenEncoder`). None for a network without one.
        channels: image channels, 1 (luma) or 3 (RGB).
        size_multiple: heights and widths that reach the layers are multiples of this many pixels.

    Attributes:
        is_guided: whether `residual` reads the encoder's features; if not, they are not computed.
        takes_encoder: whether the class is built around an encoder.
        tiling: whether a large image may be cut into tiles. "discouraged": photos are, images to be measured are not.
            "never": the network needs the whole image, or cuts it itself.
        as_published: the weights are another system's and run as its authors ran them: in float32, and on every image.
        is_residual: whether the layers compute a change, which is added to the image. A colour network that starts from
            luma weights adds the change of Y to R, G and B.
        recomputes: whether the class hands its larger parts to `part`, so that training can do with less memory.
        concatenated_inputs: layers, by the last part of their name, whose input is a concatenation of so many maps of
            equal width. A wider network can then start from this one. None: it cannot.
    """

    is_guided = True
    takes_encoder: ClassVar[bool] = True
    is_residual: ClassVar[bool] = True
    recomputes: ClassVar[bool] = False
    tiling: Tiling = "fine"
    as_published: bool = False
    concatenated_inputs: Mapping[str, int] | None = None

    def __init__(self, encoder: nn.Module | None, channels: int, *, size_multiple: int = 8) -> None:
        super().__init__()
        self.encoder = None if encoder is None else FrozenEncoder(encoder)
        if encoder is None:
            self.is_guided = False
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
        with torch.autocast(x.device.type, enabled=False) if self.as_published else nullcontext():
            return self.restored(pad_to_multiple(x, self.size_multiple))[..., :height, :width]

    @property
    def title(self) -> str:
        """What the network is called where it is described."""
        return type(self).__name__

    def restored(self, padded: Tensor) -> Tensor:
        """The restored image: image + residual(image, encoder features).

        Args:
            padded: (N, channels, H, W), H and W multiples of `size_multiple`.

        Returns:
            (N, channels, H, W).
        """
        features = self.encoder(padded)[1] if self.is_guided else []
        return padded + self.residual(padded, features)

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
