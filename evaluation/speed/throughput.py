"""How fast a network runs."""

import statistics
from time import perf_counter

import torch
from torch import Tensor, nn

NUM_REPEATS = 7


@torch.inference_mode()
def megapixels_per_second(network: nn.Module, x: Tensor) -> float:
    """Median speed of a network on a batch of images. A first run is not counted.

    Args:
        network: on the device of x; it runs in the precision of the surrounding autocast.
        x: (N, C, H, W).

    Returns:
        Millions of pixels, however many channels each has, per second.
    """
    num_megapixels = x.shape[0] * x.shape[-2] * x.shape[-1] / 1e6
    return num_megapixels / statistics.median([_seconds(network, x) for _ in range(1 + NUM_REPEATS)][1:])


def _seconds(network: nn.Module, x: Tensor) -> float:
    """Seconds of one run. A GPU still works when the call returns, so we wait for it."""
    _wait(x.device)
    started = perf_counter()
    network(x)
    _wait(x.device)
    return perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
