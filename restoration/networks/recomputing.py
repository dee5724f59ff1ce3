"""Activation checkpointing: parts of a network keep only their inputs, and are computed again in the backward pass.

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost (2016).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Recomputing(nn.Module):
    """Base of the modules that hand their larger parts to `part`.

    `recompute_activations` switches all of a network. It changes neither results nor gradients, and no tensor's name.
    """

    is_recomputed = False

    def part(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`function(*inputs)`, which must draw no random numbers and change no buffers."""
        if self.is_recomputed and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
        return function(*inputs)


class RecomputingBlocks(nn.Sequential, Recomputing):
    """Blocks one after the other, each a part of its own. All of them also read the conditions, if there are any."""

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        for block in self:
            x = self.part(block, x, *conditions)
        return x


def recompute_activations(network: nn.Module, is_on: bool = True) -> None:
    """Let all `Recomputing` modules of a network trade time for memory, or not."""
    for module in network.modules():
        if isinstance(module, Recomputing):
            module.is_recomputed = is_on
