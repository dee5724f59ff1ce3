"""Networks that the library spandrel knows by their state dicts: FBCNN, SwinIR, SCUNet, NAFNet, GRL and others.

Spandrel finds the architecture and its options from the tensors, and knows what each network needs: its range of
pixels, sizes that fit, and whether images may be cut into tiles.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.weight_files import WeightFile
from restoration.networks.restorer import Restorer

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

# What spandrel's functions raise for a state dict that only resembles a network that they know.
_DAMAGED = (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError, RuntimeError, ArithmeticError)


class SpandrelNetwork(Restorer):
    """A network of spandrel's.

    Args:
        descriptor: spandrel's network and what it needs.
    """

    takes_encoder = False

    def __init__(self, descriptor: "ImageModelDescriptor") -> None:
        super().__init__(None, descriptor.input_channels, size_multiple=1)  # spandrel pads
        self.descriptor = descriptor
        self.model = descriptor.model  # so that it moves with this module
        self.tiling = {"SUPPORTED": "fine", "DISCOURAGED": "discouraged", "INTERNAL": "never"}[descriptor.tiling.name]

    @property
    def title(self) -> str:
        return self.descriptor.architecture.name

    def restored(self, padded: Tensor) -> Tensor:
        return torch.cat([self.descriptor(image[None]) for image in padded])  # spandrel takes one image at a time


def open_spandrel(file: WeightFile) -> SpandrelNetwork | None:
    """A network that maps images to images of the same size. Arguments and errors as in `restoration.compared`."""
    if not isinstance(file.content, Mapping):
        return None
    from spandrel import MAIN_REGISTRY, ImageModelDescriptor, canonicalize_state_dict

    try:
        tensors = dict(canonicalize_state_dict(dict(file.content)))  # a copy: spandrel removes tensors
        found = next((one for one in MAIN_REGISTRY.architectures("detection") if one.detect(tensors)), None)
    except _DAMAGED:
        return None
    if found is None:
        return None
    name = found.architecture.name
    try:
        descriptor = found.architecture.load(tensors)
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file.path} looks like {name}, but spandrel cannot load it ({reason})") from None
    channels = descriptor.input_channels
    if not isinstance(descriptor, ImageModelDescriptor) or descriptor.scale != 1:
        raise ValueError(f"{file.path} holds {name} for another task ({descriptor.purpose}, x{descriptor.scale})")
    if channels != descriptor.output_channels or channels not in (1, 3):
        raise ValueError(f"{file.path} holds {name} for {channels} channels; networks for 1 or 3 can be used")
    return SpandrelNetwork(descriptor)
