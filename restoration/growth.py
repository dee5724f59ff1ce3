"""Going on from trained weights with a network that has more blocks, or three channels in place of one.

Training a larger network from nothing first repeats what the smaller one knows. Here it starts from exactly the
smaller one's output: added residual blocks begin as the identity, and a luma network becomes a colour network that
restores the luma and leaves the colour differences alone.
"""

import torch
from torch import Tensor, nn

from restoration.fusion import ResidualBlock
from restoration.restorer import Restorer

LUMA_OF_RGB = (0.299, 0.587, 0.114)  # JFIF's, of R, G and B in 0..1
_ENCODER = "encoder."


@torch.no_grad()
def start_from(network: Restorer, trained: Restorer, source: str) -> None:
    """Give an untrained network the weights of a trained one, which is the same or a part of it.

    A tensor of one name and shape is copied. Residual blocks that only the new network has become the identity. Where
    the trained network is for luma and the new one for RGB, the first convolution takes the luma of RGB and the last
    adds one residual to R, G and B alike; the encoder then stays the new network's, otherwise it is the trained one's.

    Args:
        network: changed in place.
        trained: of the same kind.
        source: where `trained` comes from, for messages.

    Raises:
        ValueError: naming `source` and the first tensor that fits in none of these ways.
    """
    becomes_color = trained.channels == 1 and network.channels == 3
    own, theirs = network.state_dict(), trained.state_dict()
    if becomes_color:
        own, theirs = ({n: t for n, t in tensors.items() if not n.startswith(_ENCODER)} for tensors in (own, theirs))
    blocks = _new_blocks(network, theirs.keys())
    for name in sorted(own.keys() | theirs.keys()):
        if name not in own:
            raise ValueError(f"{source} has tensor '{name}', for which the configured network has no place")
        if name not in theirs:
            if not any(name.startswith(f"{block}.") for block in blocks):
                raise ValueError(f"{source} lacks tensor '{name}'; only further residual blocks can start untrained")
            continue
        fitted = _for_color(theirs[name], own[name].shape) if becomes_color else theirs[name]
        if fitted.shape != own[name].shape:
            raise ValueError(
                f"{source}: tensor '{name}' is {tuple(theirs[name].shape)}, the network needs {tuple(own[name].shape)}"
            )
        own[name].copy_(fitted)
    for block in blocks.values():
        nn.init.zeros_(block.body[-1].weight)
        nn.init.zeros_(block.body[-1].bias)


def _new_blocks(network: nn.Module, known: set[str]) -> dict[str, ResidualBlock]:
    """Residual blocks of the network, by name, of which no tensor is among the known ones."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, ResidualBlock) and not any(tensor.startswith(f"{name}.") for tensor in known)
    }


def _for_color(tensor: Tensor, shape: torch.Size) -> Tensor:
    """A luma network's tensor for a colour network; as it is where only the place of a 1 or 3 does not explain it.

    Channels of an image come before those of its 2x2 pixels, as `pixel_unshuffle` and `pixel_shuffle` order them.
    """
    if tensor.ndim == 4 and shape[1] == 3 * tensor.shape[1]:
        return torch.cat([weight * tensor for weight in LUMA_OF_RGB], dim=1)
    if shape[0] == 3 * tensor.shape[0]:
        return torch.cat([tensor] * 3, dim=0)
    return tensor
