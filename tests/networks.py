"""Small restoration networks and the authors' weights, for tests of all that takes a weight file."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cqe.encoder import QualityEncoder
from cqe.quality import QualityProbe
from restoration.networks import FastOptions, NetworkConfig, build_restorer
from restoration.networks.restorer import Restorer
from restoration.weights import save_restorer
from tests.places import GOLDEN

TINY = NetworkConfig("fast", fast=FastOptions(widths=(4, 4, 4), blocks_down=(0, 0, 0), blocks_up=(1, 0, 0)))


def tiny_restorer(channels: int = 1, *, width: int = 8, tail_std: float = 0.0) -> Restorer:
    """A network around an untrained encoder. With `tail_std` 0 it returns its input."""
    restorer = build_restorer(TINY, QualityEncoder(channels, width=width, remove_local_mean=True), channels)
    if tail_std:
        torch.nn.init.normal_(restorer.tail.weight, std=tail_std)
    return restorer


def save_tiny(path: Path, restorer: Restorer | None = None, *, probe: QualityProbe | None = None) -> Path:
    """Write `tiny_restorer`, one of luma unless it is given; returns the path."""
    save_restorer(restorer or tiny_restorer(), TINY, path, probe=probe)
    return path


def released_weights(name: str) -> dict[str, Tensor]:
    """A state dict with the released names and shapes, filled by the rule of the golden vectors."""
    shapes = json.loads((GOLDEN / f"released_{name}_keys.json").read_text())
    return {key: torch.from_numpy(_draw(key, tuple(shape))) for key, shape in shapes.items()}


def _draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng([0, zlib.crc32(key.encode())])
    if key.endswith(".num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith(".running_var"):
        return np.asarray(0.5 + rng.random(shape), np.float32)
    normal = rng.standard_normal(shape)
    is_batch_norm = key.startswith("E.") and ("bn" in key or ".downsample.1." in key)
    if key.endswith(".running_mean"):
        normal = 0.1 * normal
    elif len(shape) == 4:
        gain = 1 if key.startswith("E.") else 0.72
        normal = gain * normal / np.sqrt(np.prod(shape[1:]))
    elif is_batch_norm and key.endswith(".weight"):
        normal = 1 + 0.1 * normal
    else:
        normal = (0.1 if is_batch_norm else 0.01) * normal
    return np.asarray(normal, np.float32)
