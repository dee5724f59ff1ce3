"""torch.compile for training, and eager training where compiling fails."""

import logging
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


def compiled(module: nn.Module, choice: bool | Literal["auto"], device: torch.device) -> nn.Module:
    """The module to call in training. It shares all parameters and buffers with `module`, which is the one to save.

    Args:
        module: called with tensors, returns named scalar losses, one of them "total". It must draw no random numbers
            and change no parameters, because the first call runs it twice.
        choice: whether to compile; "auto": on CUDA only (the gain there is not measured).
        device: where it runs.
    """
    if choice is False or (choice == "auto" and device.type != "cuda"):
        return module
    return CompiledOrEager(module)


class CompiledOrEager(nn.Module):
    """Calls a module compiled, or eagerly if compiling fails (no C++ compiler, an unsupported operation).

    The first call tries a forward and a backward pass, and leaves no gradient and no changed buffer behind. An error in
    the training step itself would come too late: DistributedDataParallel cannot undo a backward pass that it has begun.

    Attributes:
        compile_seconds: how long compiling took; 0 before the first call.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.compile_seconds = 0.0
        self._call = None

    @property
    def is_compiled(self) -> bool:
        """Whether calls run compiled code; False before the first call."""
        return self._call not in (None, self.module)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        if self._call is None:
            # All patches have one size, so code for other sizes is not needed.
            call = torch.compile(self.module.forward, dynamic=False)
            self._call = call if self._works(call, *inputs) else self.module
        return self._call(*inputs)

    def _works(self, call: Callable[..., dict[str, Tensor]], *inputs: Tensor) -> bool:
        trainable = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        buffers = list(self.module.buffers())
        started = time.perf_counter()
        before = [buffer.clone() for buffer in buffers]
        try:
            total = call(*inputs)["total"]
            with torch.autocast(total.device.type, enabled=False):
                torch.autograd.grad(total, trainable, allow_unused=True)
        except Exception as error:  # any: an error of the module itself comes again without compiling
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            logger.warning("not compiled, training goes on without (%s)", reason)
            return False
        else:
            logger.info("compiled in %.0f s", time.perf_counter() - started)
            return True
        finally:
            self.compile_seconds = time.perf_counter() - started
            with torch.no_grad():
                for buffer, value in zip(buffers, before, strict=True):
                    buffer.copy_(value)
