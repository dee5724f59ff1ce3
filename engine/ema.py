"""Exponential moving average of a network's weights, the ones that are validated and published."""

import copy

import torch
from torch import nn


class ExponentialMovingAverage:
    """A copy of a module whose parameters are w_ema = d w_ema + (1 - d) w; buffers are copied.

    The decay starts low, so that the untrained weights are soon forgotten: after n updates it is
    min((1 + n) / (10 + n), `decay`).

    Args:
        module: what is averaged. Its parameters and buffers must change in place only, and frozen ones not at all.
        decay: the final d, 0..1.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        # The lists are made once: on a GPU, walking through the modules takes longer than the update itself.
        weights = zip(self.module.parameters(), module.parameters(), strict=True)
        trained = [(own, other) for own, other in weights if other.requires_grad]
        self._weights = tuple([pair[side] for pair in trained] for side in (0, 1))
        self._buffers: dict[torch.dtype, tuple[list, list]] = {}
        for own, other in zip(self.module.buffers(), module.buffers(), strict=True):
            group = self._buffers.setdefault(own.dtype, ([], []))
            group[0].append(own)
            group[1].append(other)

    @torch.no_grad()
    def update(self) -> None:
        """Add the module's current weights to the average."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        # Equal to lerp_ and copy_ of each tensor, to the bit, but in a few GPU kernels instead of hundreds.
        torch._foreach_lerp_(*self._weights, 1 - decay)
        for own, other in self._buffers.values():
            torch._foreach_copy_(own, other)

    def state_dict(self) -> dict:
        return {"num_updates": self.num_updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.num_updates = state["num_updates"]
        self.module.load_state_dict(state["module"])
