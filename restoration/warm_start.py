"""Going on from trained weights with a network that has more blocks, or three channels in place of one.

Training a larger network from nothing first repeats what the smaller one knows. Here it starts from the smaller one's
output: added residual blocks begin as the identity, and a luma network becomes a colour network that adds one residual
to R, G and B: it restores the luma and leaves the colour differences alone. (An encoder for RGB gives it other features
than it learned with, so that start is near the luma network's output, not equal to it.)
"""

import torch
from torch import Tensor, nn

from restoration.networks.fusion import ResidualBlock
from restoration.networks.restorer import Restorer

LUMA_OF_RGB = (0.299, 0.587, 0.114)  # JFIF's, of R, G and B in 0..1
_ENCODER = "encoder."


@torch.no_grad()
def start_from(network: Restorer, trained: Restorer, source: str) -> None:
    """Give an untrained network the weights of a trained one, which is the same or a part of it.

    Tensors are copied. Residual blocks that the new network has more of, at the end of a row of them, become the
    identity. Where the trained network is for luma and the new one for RGB, the first convolution takes the luma of RGB
    and the last adds one residual to R, G and B alike; the encoder then stays the new network's, otherwise it is the
    trained one's.

    Args:
        network: changed in place.
        trained: of the same kind.
        source: where `trained` comes from, for messages.

    Raises:
        ValueError: naming `source` and what about it fits in none of these ways.
    """
    if trained.channels > network.channels:
        raise ValueError(f"{source} is for RGB images, the configured network for luma; give weights for luma")
    _check_kinds(network, trained, source)
    becomes_color = trained.channels < network.channels
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


def _check_kinds(network: Restorer, trained: Restorer, source: str) -> None:
    """Refuse modules of one name that compute different things; equal tensors do not tell (`released_fusion`)."""
    if type(network) is not type(trained):
        raise ValueError(f"{source} is a {type(trained).__name__}, the configured network a {type(network).__name__}")
    own = dict(network.named_modules())
    for name, module in trained.named_modules():
        if name.startswith(_ENCODER) or name not in own:
            continue  # one comes along as a whole, of the other a tensor is found to be too many
        settings, wanted = _settings(module), _settings(own[name])
        for key in settings:
            if settings[key] != wanted.get(key):
                raise ValueError(
                    f"{source} has {key} {settings[key]} in '{name}', the configured network {wanted.get(key)}"
                )


def _settings(module: nn.Module) -> dict[str, object]:
    """What a module computes beyond its tensors: its class and its public attributes of a simple type."""
    simple = {key: value for key, value in vars(module).items() if isinstance(value, bool | int | float | str | None)}
    ours = {key: value for key, value in simple.items() if not key.startswith("_") and key not in _NOT_COMPARED}
    return {"class": type(module).__name__} | ours


_NOT_COMPARED = {"training", "channels", "in_channels", "out_channels"}  # channels show in the tensors


def _new_blocks(network: nn.Module, known: set[str]) -> dict[str, ResidualBlock]:
    """Residual blocks in rows of the network, by name, of which no tensor is among the known ones."""
    return {
        f"{row_name}.{index}": block
        for row_name, row in network.named_modules()
        if isinstance(row, nn.Sequential)
        for index, block in row.named_children()
        if isinstance(block, ResidualBlock) and not any(name.startswith(f"{row_name}.{index}.") for name in known)
    }


def _for_color(tensor: Tensor, shape: torch.Size) -> Tensor:
    """A luma network's tensor for a colour network: taking or giving three times the channels, or unchanged.

    Channels of an image come before those of its 2x2 pixels, as `pixel_unshuffle` and `pixel_shuffle` order them.
    """
    if tensor.ndim == 4 and shape[1] == 3 * tensor.shape[1]:
        return torch.cat([weight * tensor for weight in LUMA_OF_RGB], dim=1)
    if tensor.ndim and shape[0] == 3 * tensor.shape[0]:
        return torch.cat([tensor] * 3, dim=0)
    return tensor
