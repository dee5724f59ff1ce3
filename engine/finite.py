"""Stops a training at the first loss or gradient that is not finite, without making the host wait for the GPU."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class FiniteGuard:
    """Watches the losses and the gradient norm of every step.

    On a GPU, reading a number makes the host wait until the GPU has finished all earlier work. So a step's numbers are
    copied to the host in the background and read one step later. Until then `found_inf` protects the weights: it is a
    tensor on the device, and becomes 1.0 at the first step with a number that is not finite. Adam and Muon read it on
    the device (torch.amp.GradScaler sets an attribute of the same name) and then change neither weights nor state. On
    a CPU the numbers are read at once.

    Args:
        device: where the numbers are.
        is_late: read a step's numbers with the next step; otherwise at once.

    Attributes:
        files_of: step -> the images of its samples, for the message.
    """

    def __init__(self, device: torch.device, *, is_late: bool) -> None:
        self.found_inf = torch.zeros((), device=device)
        self.is_late = is_late
        self.files_of: Callable[[int], Sequence[str]] = lambda step: ()
        self._unread: _Report | None = None

    def watch(self, values: Mapping[str, Tensor], step: int) -> None:
        """Watch a step's numbers, before its update. Raises as `settle` for the numbers that are read now."""
        numbers = torch.stack([value.detach().float() for value in values.values()])
        torch.maximum(self.found_inf, (~numbers.isfinite()).any().float(), out=self.found_inf)
        earlier, self._unread = self._unread, _Report(step, tuple(values), *_sent_to_host(numbers))
        if earlier:
            earlier.check(self.files_of)
        if not self.is_late:
            self.settle()

    def settle(self) -> None:
        """Read what is still unread. Call it before anything is logged, validated or saved.

        Raises:
            FloatingPointError: if a number was not finite; names step, term and images.
        """
        if self._unread:
            self._unread.check(self.files_of)
            self._unread = None


@dataclass(frozen=True)
class _Report:
    step: int
    names: tuple[str, ...]
    numbers: Tensor
    wait: Callable[[], None]

    def check(self, files_of: Callable[[int], Sequence[str]]) -> None:
        self.wait()
        for name, number in zip(self.names, self.numbers.tolist(), strict=True):
            if not math.isfinite(number):
                raise FloatingPointError(
                    f"{name} is {number} at step {self.step}: stopped before the update, the last checkpoint "
                    f"is unharmed; lower optim.lr, set optim.grad_clip_norm, or use trainer.precision float32"
                    + (f"; images of this step: {', '.join(files)}" if (files := files_of(self.step)) else "")
                )


def _sent_to_host(numbers: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """The numbers in the host's (pinned) memory, and a function that waits until the copy is complete."""
    on_host = numbers.to("cpu", non_blocking=True)
    if numbers.device.type != "cuda":
        return on_host, lambda: None
    event = torch.cuda.Event()
    event.record()
    return on_host, event.synchronize
