"""Where a training step runs: the one place that moves tensors to the device, lays them out, and casts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.machine import autocast, choose_precision
from engine.config import TrainerConfig


@dataclass(frozen=True)
class Placement:
    """A device, the type of autocast and the layout of images."""

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format

    @classmethod
    def of(cls, trainer: TrainerConfig, device: torch.device) -> "Placement":
        """The placement of a configuration on a device."""
        layout = torch.channels_last if trainer.channels_last else torch.contiguous_format
        return cls(device, choose_precision(trainer.precision, device), layout)

    @property
    def precision(self) -> str:
        """The type of autocast by its name, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def is_late(self) -> bool:
        """Whether the device works while the host goes on. Its results are then read a step later."""
        return self.device.type == "cuda"

    @property
    def pins_batches(self) -> bool:
        """Whether batches come in pinned memory, from which the device copies while it computes."""
        return self.device.type == "cuda"

    def place(self, module: nn.Module) -> None:
        """Move a module, in place."""
        module.to(device=self.device, memory_format=self.memory_format)

    def move(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the device. The copies may still be under way; what uses them on the device waits for them."""
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def lay_out(self, inputs: Iterable[Tensor]) -> list[Tensor]:
        """A module's arguments, images among them in the layout."""
        return [value.contiguous(memory_format=self.memory_format) if value.ndim == 4 else value for value in inputs]

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return autocast(self.device, self.dtype)
