"""The arithmetic of a network, counted while it runs."""

import torch
from torch.utils.flop_counter import FlopCounterMode

SIZE_PX = 256  # the image that published figures are for


def count_gmac(restorer: torch.nn.Module) -> float:
    """Billions of multiply-accumulates for one 256x256 image, encoder included.

    Args:
        restorer: a restoration network in eval mode, on the CPU, with its number of `channels`.
    """
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        restorer(torch.zeros(1, restorer.channels, SIZE_PX, SIZE_PX))
    return counter.get_total_flops() / 2e9  # a multiply-accumulate is two operations
