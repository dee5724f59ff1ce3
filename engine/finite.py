"""A stop at the first loss or gradient that is not finite, for which the host need not wait for the device."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


class FiniteGuard:
    """Watches the losses and the gradient norm of every step.

    A GPU works behind the host, and a host that asks it for a number waits until it has caught up. So the numbers of a
    step are copied to the host behind the step's work and read a step later, and the device keeps harm away by itself
    until then: `found_inf` is 1.0 from the first step on that has a number which is not finite. The fused Adam, which
    looks for an attribute of this name (torch.amp.GradScaler sets it likewise), then leaves weights and moments as
    they are. On a CPU the numbers are read at once.

    Args:
        device: where the numbers are.
        is_late: read a step's numbers with the next step, or at once.
    """

    def __init__(self, device: torch.device, *, is_late: bool) -> None:
        self.found_inf = torch.zeros((), device=device)
        self.is_late = is_late
        self._unread: _Report | None = None

    def watch(self, values: Mapping[str, Tensor], step: int) -> None:
        """Take in a step's numbers, before its update; raises as `settle` for those that are due to be read."""
        numbers = torch.stack([value.detach().float() for value in values.values()])
        torch.maximum(self.found_inf, (~numbers.isfinite()).any().float(), out=self.found_inf)
        earlier, self._unread = self._unread, _Report(step, tuple(values), *_sent_to_host(numbers))
        if earlier:
            earlier.check()
        if not self.is_late:
            self.settle()

    def settle(self) -> None:
        """Read what is still unread; to be called before anything is logged, validated or saved.

        Raises:
            FloatingPointError: if a number was not finite; names step and term.
        """
        if self._unread:
            self._unread.check()
            self._unread = None


@dataclass(frozen=True)
class _Report:
    step: int
    names: tuple[str, ...]
    numbers: Tensor
    wait: Callable[[], None]

    def check(self) -> None:
        self.wait()
        for name, number in zip(self.names, self.numbers.tolist(), strict=True):
            if not math.isfinite(number):
                raise FloatingPointError(
                    f"{name} is {number} at step {self.step}: stopped before the update, the last checkpoint "
                    f"is unharmed; lower optim.lr, set optim.grad_clip_norm, or use trainer.precision float32"
                )


def _sent_to_host(numbers: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """The numbers in the host's memory (pinned), and what to call before they are read: they may be on their way."""
    on_host = numbers.to("cpu", non_blocking=True)
    if numbers.device.type != "cuda":
        return on_host, lambda: None
    event = torch.cuda.Event()
    event.record()
    return on_host, event.synchronize
