"""Starts a network from trained weights of a smaller network, or a colour network from those of a luma network.

Training a large network from scratch first repeats what a small one has learned. Here the large network starts with
the output of the small one:

- Residual blocks that the small network lacks start as the identity.
- Channels that the small network lacks start as the new network drew them. But no old channel reads them yet: those
  weights start at zero, and training changes them at once.
- A luma network becomes a colour network that adds the same residual to R, G and B. It restores the luma and leaves the
  chroma alone. Its encoder is the configured one for RGB. Its features differ from those of the luma encoder, so the
  first output is close to that of the luma network, but not equal.
"""

import torch
from torch import Tensor, nn

from data.color import FULL_WEIGHTS
from restoration.networks.fast import ModulatedBlock
from restoration.networks.fusion import ResidualBlock
from restoration.networks.restorer import Restorer

_ENCODER = "encoder."


@torch.no_grad()
def start_from(network: Restorer, trained: Restorer, source: str) -> None:
    """Copy the weights of a trained network into an untrained one of the same size or larger.

    The new network may have more residual blocks at the end of a row of blocks. They become the identity. It may
    also be wider (see `Restorer.concatenated_inputs`), if both are for the same image channels.

    If the trained network is for luma and the new one for RGB, the first convolution is changed to take the luma of
    RGB, and the last to add the same residual to R, G and B. The new network then keeps its own encoder. In all other
    cases it gets the encoder of the trained network.

    Args:
        network: changed in place.
        trained: a network of the same class.
        source: name of the file of `trained`, for messages.

    Raises:
        ValueError: if the networks differ in another way; names `source` and the first difference.
    """
    if trained.channels > network.channels:
        raise ValueError(f"{source} is for RGB images, the configured network for luma; give weights for luma")
    _check_kinds(network, trained, source)
    becomes_color = trained.channels < network.channels
    if becomes_color and not network.is_residual:
        raise ValueError(f"{source} makes the luma itself, not a change of it; a network for RGB needs weights for RGB")
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
        if becomes_color:
            fitted = _for_color(theirs[name], own[name].shape)
        else:
            fitted = _widened(theirs[name], own[name], _parts_of_input(network, name))
        if fitted.shape != own[name].shape:
            raise ValueError(
                f"{source}: tensor '{name}' is {tuple(theirs[name].shape)}, the network needs {tuple(own[name].shape)}"
            )
        own[name].copy_(fitted)
    for block in blocks.values():
        nn.init.zeros_(block.body[-1].weight)
        nn.init.zeros_(block.body[-1].bias)


def _check_kinds(network: Restorer, trained: Restorer, source: str) -> None:
    """Refuse networks whose modules have the same name and compute different things.

    Their tensors may still fit: `released_fusion`, for example, changes the computation but no tensor.
    """
    if type(network) is not type(trained):
        raise ValueError(f"{source} is a {type(trained).__name__}, the configured network a {type(network).__name__}")
    own = dict(network.named_modules())
    for name, module in trained.named_modules():
        if name.startswith(_ENCODER) or name not in own:
            continue  # the encoder is copied whole or not at all; tensors of an extra module are refused later
        settings, wanted = _settings(module), _settings(own[name])
        for key in settings:
            if settings[key] != wanted.get(key):
                raise ValueError(
                    f"{source} has {key} {settings[key]} in '{name}', the configured network {wanted.get(key)}"
                )


def _settings(module: nn.Module) -> dict[str, object]:
    """The settings of a module besides its tensors: its class, and public attributes of simple types."""
    simple = {key: value for key, value in vars(module).items() if isinstance(value, bool | int | float | str | None)}
    ours = {key: value for key, value in simple.items() if not key.startswith("_") and key not in _NOT_COMPARED}
    return {"class": type(module).__name__} | ours


# The shapes of tensors show the numbers of channels. Weights of other authors may be trained further as ours are.
_NOT_COMPARED = {"training", "channels", "in_channels", "out_channels", "as_published"}


def _new_blocks(network: nn.Module, known: set[str]) -> dict[str, ResidualBlock]:
    """Residual blocks, by name, of which no tensor is among the known names: the trained network lacks them."""
    rows = [(name, row) for name, row in network.named_modules() if isinstance(row, nn.Sequential)]
    # A modulation adds nothing at first, so the block inside it is what becomes the identity.
    blocks = {
        f"{row_name}.{index}": block.block if isinstance(block, ModulatedBlock) else block
        for row_name, row in rows
        for index, block in row.named_children()
    }
    return {
        name: block
        for name, block in blocks.items()
        if isinstance(block, ResidualBlock) and not any(other.startswith(f"{name}.") for other in known)
    }


def _parts_of_input(network: Restorer, name: str) -> int | None:
    """How many maps are concatenated in the input of the layer of a tensor; None if this tensor cannot be widened."""
    if network.concatenated_inputs is None or name.startswith(_ENCODER):
        return None
    layer = name.split(".")[-2]
    return network.concatenated_inputs.get(layer, 1)


def _widened(tensor: Tensor, untrained: Tensor, num_parts: int | None) -> Tensor:
    """A tensor of a narrow network, made to fit a wide one whose first output is the same.

    Args:
        tensor: (out, in, kh, kw) or (out,), of the narrow network.
        untrained: the wide network's own tensor. Its values remain for the new outputs.
        num_parts: the inputs are a concatenation of so many maps, each of which has new channels at its end.

    Returns:
        The wide tensor: the old outputs read the new inputs with weight zero. `tensor` itself if it cannot be widened.
    """
    shrinks = any(new < old for new, old in zip(untrained.shape[:2], tensor.shape[:2], strict=False))
    if num_parts is None or shrinks or untrained.ndim != tensor.ndim or untrained.shape[2:] != tensor.shape[2:]:
        return tensor
    wide = untrained.clone()
    old_outputs = wide[: tensor.shape[0]]
    if tensor.ndim == 1:
        old_outputs.copy_(tensor)
        return wide
    old_outputs.zero_()
    wide_parts, parts = old_outputs.chunk(num_parts, dim=1), tensor.chunk(num_parts, dim=1)
    for wide_part, part in zip(wide_parts, parts, strict=True):
        wide_part[:, : part.shape[1]].copy_(part)
    return wide


def _for_color(tensor: Tensor, shape: torch.Size) -> Tensor:
    """A tensor of a luma network, made to fit a colour network.

    A convolution that needs three times the input channels is changed to take the luma of RGB. One that needs three
    times the output channels gives three equal channels. All other tensors stay as they are. All channels of R come
    first, then those of G, then those of B, which is the order of `pixel_unshuffle` and `pixel_shuffle`.

    Args:
        tensor: of the luma network.
        shape: of the colour network's tensor.
    """
    if tensor.ndim == 4 and shape[1] == 3 * tensor.shape[1]:
        return torch.cat([weight * tensor for weight in FULL_WEIGHTS.tolist()], dim=1)
    if tensor.ndim and shape[0] == 3 * tensor.shape[0]:
        return torch.cat([tensor] * 3, dim=0)
    return tensor
