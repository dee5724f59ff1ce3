"""Training steps of stage 2 under different settings, on made-up patches: their gradients, their time, their memory."""

import copy
import math
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor, nn

from common.machine import convolutions_tried_out, exact_float32, peak_memory
from engine.compiling import compiled
from engine.optimizers import build_optimizer
from engine.placement import Placement
from restoration.config import RestorerConfig
from restoration.networks.recomputing import recompute_activations
from restoration.networks.restorer import Restorer
from restoration.objective import RestorationObjective

TIMED_SECONDS = 1.0
MAX_CALLS = 20
NOISE = 0.01  # standard deviation of weights in place of those that are zero


@dataclass(frozen=True)
class Settings:
    """Keys of the section `trainer` that change a step's speed, and its result only by rounding."""

    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False

    @classmethod
    def wanted(cls, config: RestorerConfig, device: torch.device) -> "Settings":
        """What a configuration asks for on a device."""
        trainer = config.trainer
        precision = Placement.of(trainer, device).precision
        is_compiled = trainer.compile is True or (trainer.compile == "auto" and device.type == "cuda")
        return cls(precision, trainer.channels_last, is_compiled)

    def __str__(self) -> str:
        layout = "channels-last" if self.channels_last else "NCHW"
        return f"{'compiled' if self.compile else 'eager'}, {self.precision}, {layout}"


@dataclass(frozen=True)
class Reading:
    """Seconds of a training step, and the most memory that the process has had, in bytes."""

    seconds: float
    peak_bytes: int


class Trial:
    """A training step of a network under some settings.

    Args:
        network: it is copied. Weights that are all zero get some noise, since no gradient passes through them.
        config: loss, optimiser, and whether activations are computed again.
        settings: how the step runs.
        device: where.
    """

    def __init__(self, network: Restorer, config: RestorerConfig, settings: Settings, device: torch.device) -> None:
        trainer = replace(config.trainer, precision=settings.precision, channels_last=settings.channels_last)
        self.settings, self.placement = settings, Placement.of(trainer, device)
        network = copy.deepcopy(network)
        recompute_activations(network, config.recompute_activations)
        _fill_zeros(network)
        objective = RestorationObjective(network, config.loss).train()
        self.placement.place(objective)
        self.trainable = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        self.max_norm = config.optim.grad_clip_norm or math.inf
        self.optimizer = build_optimizer(objective, config.optim)
        self.optimizer.found_inf = torch.zeros((), device=device)  # as a training has it
        self.model = compiled(objective, settings.compile, device)

    def gradients(self, degraded: Tensor, clean: Tensor) -> list[Tensor]:
        """The gradients of all trained tensors, in the host's memory. Both images are (N, C, H, W) in [0, 1].

        Float32 is float32 here, without TensorFloat-32: its rounding moves the gradients of a deep network by more than
        a wrong kernel need do.

        Raises:
            RuntimeError: if the step fails, or if it was to be compiled and could not be.
        """
        with exact_float32():
            self._backward(*self._placed(degraded, clean))
        if self.settings.compile and not getattr(self.model, "is_compiled", False):
            raise RuntimeError("torch.compile did not work, the line above says why")
        return [part.grad.float().cpu() for part in self.trainable if part.grad is not None]

    def read(self, degraded: Tensor, clean: Tensor) -> Reading:
        """Time whole steps, updates included. The first two are not counted."""
        device, inputs = self.placement.device, self._placed(degraded, clean)
        if self.placement.is_late:
            torch.cuda.reset_peak_memory_stats(device)
        with convolutions_tried_out(True):
            for _ in range(2):  # the first one chooses algorithms
                seconds = self._timed(*inputs, num_calls=1)
            num_calls = min(max(round(TIMED_SECONDS / seconds), 1), MAX_CALLS)
            return Reading(self._timed(*inputs, num_calls=num_calls), peak_memory(device))

    def _timed(self, degraded: Tensor, clean: Tensor, *, num_calls: int) -> float:
        self._wait()
        started = perf_counter()
        for _ in range(num_calls):
            self._backward(degraded, clean)
            nn.utils.clip_grad_norm_(self.trainable, self.max_norm)
            self.optimizer.step()
        self._wait()
        return (perf_counter() - started) / num_calls

    def _backward(self, degraded: Tensor, clean: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self.placement.autocast():
            losses = self.model(degraded, clean)
        losses["total"].backward()

    def _placed(self, degraded: Tensor, clean: Tensor) -> list[Tensor]:
        """The images on the device. A training's loader has them there in time, so the copy is not timed."""
        return self.placement.lay_out(self.placement.move({"degraded": degraded, "clean": clean}).values())

    def _wait(self) -> None:
        if self.placement.is_late:
            torch.cuda.synchronize(self.placement.device)


def made_up_patches(num: int, channels: int, size_px: int) -> tuple[Tensor, Tensor]:
    """Degraded and clean images, (num, channels, size_px, size_px) in [0, 1]: blocks of grey, and noise on them."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(num, channels, -(-size_px // 8), -(-size_px // 8), generator=generator)
    clean = nn.functional.interpolate(coarse, scale_factor=8)[..., :size_px, :size_px].contiguous()
    return clean.add(0.05 * torch.randn(clean.shape, generator=generator)).clamp(0, 1), clean


@torch.no_grad()
def _fill_zeros(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.requires_grad and not parameter.any():
            parameter.copy_(NOISE * torch.randn(parameter.shape, generator=generator))
