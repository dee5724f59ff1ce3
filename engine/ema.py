"""Exponential moving average of a network's weights, the ones that are validated and published."""

import copy

import torch
from torch import nn


class ExponentialMovingAverage:
    """A copy of a module whose parameters are w_ema = d w_ema + (1 - d) w; buffers are copied.

    The decay starts low and rises as (1 + n) / (10 + n) after n updates up to `decay`, so that the first, untrained
    weights are soon forgotten.

    Args:
        module: what is averaged; from here on its parameters and buffers change in place only, frozen ones never.
        decay: d in the long run, 0..1.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        # Listed once: walking through the modules takes longer than the update itself does on a GPU.
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
        """Take in the module's present weights."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        # As lerp_ and copy_ of each tensor, to the bit, but in a few GPU kernels instead of hundreds (as torch.optim).
        torch._foreach_lerp_(*self._weights, 1 - decay)
        for own, other in self._buffers.values():
            torch._foreach_copy_(own, other)

    def state_dict(self) -> dict:
        return {"num_updates": self.num_updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.num_updates = state["num_updates"]
        self.module.load_state_dict(state["module"])
