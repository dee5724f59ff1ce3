"""Averages of a network's weights, which are validated and published: a moving one, and a schedule-free optimiser's."""

import copy

import torch
from torch import Tensor, nn


class AveragedWeights:
    """Base of the averages: a copy of a module that follows it by `update`; buffers are copied.

    Args:
        module: what is averaged. Its parameters and buffers must change in place only, and frozen ones not at all.
    """

    def __init__(self, module: nn.Module) -> None:
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
        """Follow the module's latest step."""
        self._update_weights(*self._weights)
        for own, other in self._buffers.values():
            torch._foreach_copy_(own, other)

    def _update_weights(self, averages: list[Tensor], weights: list[Tensor]) -> None:
        """Change the averages of the trained weights in place."""
        raise NotImplementedError

    def state_dict(self) -> dict:
        return {"module": self.module.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.module.load_state_dict(state["module"])


class ExponentialMovingAverage(AveragedWeights):
    """Parameters are w_ema = d w_ema + (1 - d) w.

    The decay starts low, so that the untrained weights are soon forgotten: after n updates it is
    min((1 + n) / (10 + n), `decay`).

    Args:
        module: as in `AveragedWeights`.
        decay: the final d, 0..1.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        super().__init__(module)
        self.decay = decay
        self.num_updates = 0

    def _update_weights(self, averages: list[Tensor], weights: list[Tensor]) -> None:
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        # Equal to lerp_ of each tensor, to the bit, but in a few GPU kernels instead of hundreds.
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def state_dict(self) -> dict:
        return {"num_updates": self.num_updates} | super().state_dict()

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.num_updates = state["num_updates"]


class ScheduleFreeAverage(AveragedWeights):
    """The x of a schedule-free optimiser, which trains at y = beta x + (1 - beta) z and keeps z.

    Args:
        module: as in `AveragedWeights`.
        optimizer: `ScheduleFreeAdamW` of pytorch-optimizer, over the module's parameters.

    Source: Defazio et al., The Road Less Scheduled (2024), Eq. 1-3.
    """

    def __init__(self, module: nn.Module, *, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(module)
        self.optimizer = optimizer

    def _update_weights(self, averages: list[Tensor], weights: list[Tensor]) -> None:
        beta = self.optimizer.param_groups[0]["betas"][0]
        # No z before the first step: all three are equal then.
        zs = [self.optimizer.state.get(weight, {}).get("z", weight) for weight in weights]
        torch._foreach_copy_(averages, weights)
        torch._foreach_lerp_(averages, zs, 1 - 1 / beta)
