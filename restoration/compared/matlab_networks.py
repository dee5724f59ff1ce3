"""ARCNN and DnCNN from their authors' MATLAB files.

ARCNN: `weights_conv1`, `biases_conv1` and so on, for `conv1`, `conv2`, `conv22`, `conv3`; as in
hkchengrex/PyTorch-ARCNN (`weights/q10.mat` to `q40.mat`). DnCNN: MatConvNet's `net.layers`, as in cszn/DnCNN
(`model/DnCNN3.mat`). Both filter by correlation, as PyTorch does.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.weight_files import WeightFile, load_exactly
from restoration.compared.matlab_files import read_matlab
from restoration.networks.arcnn import ARCNN
from restoration.networks.dncnn import DnCNN


def open_arcnn(file: WeightFile) -> ARCNN | None:
    """ARCNN, for luma. Arguments and errors as in `restoration.compared`."""
    variables = read_matlab(file.content)
    if variables is None or "weights_conv22" not in variables:
        return None
    network, tensors = ARCNN(1), {}
    with _reading(file):
        for layer in ("conv1", "conv2", "conv22", "conv3"):
            tensors[f"{layer}.weight"] = _arcnn_filters(variables[f"weights_{layer}"])
            tensors[f"{layer}.bias"] = _numbers(variables[f"biases_{layer}"]).flatten()
    load_exactly(network, tensors, file.path)
    return network


def open_dncnn(file: WeightFile) -> DnCNN | None:
    """DnCNN of any depth and width, from a file of version 7.3. Arguments and errors as in `restoration.compared`."""
    net = (read_matlab(file.content) or {}).get("net")
    if not isinstance(net, dict) or "layers" not in net:
        return None
    tensors: dict[str, Tensor] = {}
    with _reading(file):
        kinds = [layer["type"] for layer in net["layers"]]
        depth = kinds.count("conv")
        if depth < 2 or kinds != [*["conv", "relu"] * (depth - 1), "conv"]:
            raise ValueError(f"its layers are {', '.join(kinds)}")
        for index in range(0, len(kinds), 2):
            filters, biases = map(_numbers, net["layers"][index]["weights"])
            # (height, width, in, out). MATLAB drops a last axis of one entry, as luma's last layer has.
            filters = filters.reshape(*filters.shape, *[1] * (4 - filters.ndim))
            tensors[f"model.{index}.weight"] = filters.permute(3, 2, 0, 1)
            tensors[f"model.{index}.bias"] = biases.flatten()
        width, channels = tensors["model.0.weight"].shape[:2]
        network = DnCNN(channels, depth=depth, width=width)
    load_exactly(network, tensors, file.path)
    return network


@contextmanager
def _reading(file: WeightFile) -> Iterator[None]:
    """Wraps the reading of a file's variables: what is missing or of another kind is a ValueError that names it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError) as error:  # the last one from torch
        raise ValueError(f"{file.path} is not as the authors' MATLAB files are ({error})") from None


def _arcnn_filters(value: Any) -> Tensor:
    """(in, side * side, out), or (in, side * side) for one output, as (out, in, side, side)."""
    filters = _numbers(value)
    filters = filters[..., None] if filters.ndim == 2 else filters
    side = math.isqrt(filters.shape[1])
    # MATLAB stores the columns of a filter one after the other.
    return filters.unflatten(1, (side, side)).permute(3, 0, 2, 1)


def _numbers(value: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value, np.float32))
