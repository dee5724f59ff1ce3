"""Exponential moving average of a network's weights, the ones that are validated and published."""

import copy

import torch
from torch import nn


class ExponentialMovingAverage:
    """A copy of a module whose parameters are w_ema = d w_ema + (1 - d) w; buffers are copied.

    The decay starts low and rises as (1 + n) / (10 + n) after n updates up to `decay`, so that the first, untrained
    weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for own, other in zip(self.module.parameters(), module.parameters(), strict=True):
            own.lerp_(other, 1 - decay)
        for own, other in zip(self.module.buffers(), module.buffers(), strict=True):
            own.copy_(other)

    def state_dict(self) -> dict:
        return {"num_updates": self.num_updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.num_updates = state["num_updates"]
        self.module.load_state_dict(state["module"])
