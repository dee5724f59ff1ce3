"""The authors' weight files (`deblock_gray.pth`, `deblock_color.pth`), loaded into `PaperRestorer`.

The files are state dicts of 612 tensors, with the module names of the release. The table below gives our module for
each of them. Every tensor of the file is used, and every tensor of the network is set.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cqe.encoder import QualityEncoder
from restoration.networks.paper import POOLING_WINDOWS_PX, PaperRestorer

_FINGERPRINT = ("E.conv1.weight", "AFFs.0.conv.0.main.0.weight", "invertible1.F.main.0.weight")


def is_released(state_dict: Mapping[str, Any]) -> bool:
    """Whether the tensor names are those of the authors' network. Some may be missing."""
    return all(name in state_dict for name in _FINGERPRINT)


def load_released(state_dict: Mapping[str, Tensor]) -> PaperRestorer:
    """The released network with the authors' weights, in eval mode.

    Args:
        state_dict: the content of their file. Its shapes tell whether it is for gray or for colour.

    Raises:
        ValueError: if a tensor is missing, is unknown, or has another shape or type. The message names the first.
    """
    channels = _image_channels(state_dict)
    restorer = PaperRestorer(QualityEncoder(channels), channels, released_fusion=True)
    ours = restorer.state_dict()
    our_names = {released_name(name): name for name in ours}
    for name, our_name in our_names.items():
        if name not in state_dict:
            raise ValueError(f"released weights lack the tensor {name!r}; is the file complete?")
        _check_shape(name, state_dict[name], tuple(ours[our_name].shape))
    for name in state_dict:
        if name not in our_names:
            raise ValueError(f"released weights have an unknown tensor {name!r}; this is another network's file")
    restorer.load_state_dict({our_name: state_dict[name] for name, our_name in our_names.items()})
    return restorer.eval()


def released_name(name: str) -> str:
    """The name in the release of a tensor of `PaperRestorer`."""
    for ours, theirs in _released_modules():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    raise AssertionError(f"no released name for {name!r}")


def _image_channels(state_dict: Mapping[str, Tensor]) -> int:
    first = state_dict.get("conv.weight")
    shape = tuple(getattr(first, "shape", ()))
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise ValueError(f"released weights need 'conv.weight' of shape (64, 1 or 3, 3, 3), got {shape or first}")
    return shape[1]


def _check_shape(name: str, value: object, expected: tuple[int, ...]) -> None:
    found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if found != expected:
        raise ValueError(f"released weights have {name!r} of shape {found}, expected {expected}")
    is_counter = name.endswith("num_batches_tracked")
    if value.layout != torch.strided or value.is_meta or not (is_counter or value.is_floating_point()):
        raise ValueError(
            f"released weights have {name!r} as {value.dtype}, {value.layout}; plain real numbers expected"
        )
    if not value.isfinite().all():
        raise ValueError(f"released weights have numbers in {name!r} that are not finite; the file is of no use")


def _released_modules() -> Iterator[tuple[str, str]]:
    """Pairs of module names, ours and theirs."""
    yield "encoder.network", "E"
    yield "reduce2", "conv2"
    yield "reduce3", "conv3"
    for index in (0, 1):
        yield f"effm{index + 1}.body.0", f"AFFs.{index}.conv.0.main.0"
        yield f"effm{index + 1}.body.2", f"AFFs.{index}.conv.1.main.0"
    yield "head", "conv"
    for index, block in enumerate(("mid1.0", "mid1.1", "mid2.0", "mid2.1")):
        yield f"mixing.{index}.body.0", f"{block}.main.0.main.0"
        yield f"mixing.{index}.body.2", f"{block}.main.1.main.0"
    yield "mixing.4", "mid2.2"
    for index, (stage, num_groups) in enumerate((("m3", 2), ("m2", 4), ("m1", 4))):
        for ours, theirs in (("phi1", "F"), ("phi2", "H"), ("phi3", "G")):
            yield f"stages.{index}.fusion.{ours}.body", f"invertible{index + 1}.{theirs}.main"
        yield f"stages.{index}.merge", f"{stage}.0"
        for group in range(num_groups):  # theirs count from 1; number 0 is the first convolution of the stage
            for ours, theirs in _GROUP_MODULES.items():
                yield f"stages.{index}.groups.{group}.{ours}", f"{stage}.{group + 1}.{theirs}"
    for index in range(len(POOLING_WINDOWS_PX)):
        yield f"pyramid.projections.{index}", f"paramid.stages.{index}.1"
    yield "pyramid.merge", "paramid.bottleneck"
    yield "tail", "tail"


_GROUP_MODULES = {
    "attention.head": "body.0.RA_RB1.0",
    "attention.trunk": "body.0.RA_TB.0.body",
    "attention.mask.before": "body.0.RA_MB.0.MB_RB1.0",
    "attention.mask.down": "body.0.RA_MB.0.MB_Down.0",
    "attention.mask.middle": "body.0.RA_MB.0.MB_RB2",
    "attention.mask.up": "body.0.RA_MB.0.MB_Up.0",
    "attention.mask.after": "body.0.RA_MB.0.MB_RB3.0",
    "attention.mask.project": "body.0.RA_MB.0.MB_1x1conv.0",
    "attention.tail": "body.0.RA_tail",
    "merge": "body.1",
}
