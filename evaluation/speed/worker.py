"""Runs one network, or a matrix product, again and again in a process of its own; measures time and peak memory.

`evaluation.speed.networks` starts such processes and lets them run in turns. They exchange lines of JSON: a `Case`
first, then "go" for each round, answered by a `Reading` or an `{"error": ...}`.
"""

import json
import logging
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.errors import is_about_memory
from common.machine import autocast, choose_precision, convolutions_tried_out, host_bytes
from cqe.encoder import QualityEncoder
from engine.compiling import compiled
from engine.config import OptimConfig
from engine.optimizers import build_optimizer
from restoration.config import LossConfig
from restoration.networks import NetworkConfig, build_restorer
from restoration.networks.restorer import Restorer
from restoration.objective import RestorationObjective

ROUND_SECONDS = 1.0  # a round repeats a shorter call
MAX_CALLS = 100
MATMUL_SIDE = {"cuda": 8192, "cpu": 1536}


@dataclass(frozen=True)
class Case:
    """What one process runs.

    Args:
        kind: a training step, a forward pass, or a matrix product in the type that our settings choose.
        is_ours: True for our settings; False for eager float32 in NCHW with PyTorch's defaults.
        network: `NetworkConfig.described()`; unused by "matmul", as is `encoder`.
        encoder: arguments of `QualityEncoder`.
        batch_size: images.
        size_px: side of an image.
        device: "cuda" or "cpu".
        compile: torch.compile for our training step, as `engine.compiling`.
    """

    kind: Literal["step", "inference", "matmul"]
    is_ours: bool
    network: dict[str, Any]
    encoder: dict[str, Any]
    batch_size: int
    size_px: int
    device: str
    compile: bool | Literal["auto"] = False


@dataclass(frozen=True)
class Reading:
    """One round: seconds of one call, peak memory since the start in bytes, and the settings of the calls."""

    seconds: float
    peak_bytes: int
    settings: str


class Runner:
    """A case, ready to run."""

    def __init__(self, case: Case) -> None:
        self.case, self.device = case, torch.device(case.device)
        self.bytes_before = host_bytes("VmRSS")
        self.dtype = choose_precision("auto", self.device) if case.is_ours else torch.float32
        self.layout = torch.channels_last if case.is_ours else torch.contiguous_format
        self.model: nn.Module | None = None
        self.call = {"step": self._step, "inference": self._inference, "matmul": self._matmul}[case.kind]()
        self.call_seconds = self._timed(1)
        if self.call_seconds < ROUND_SECONDS:  # the first call is slow, which matters little where calls are long
            self.call_seconds = self._timed(1)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)  # choosing algorithms may have taken more

    def round(self) -> Reading:
        """Run for about `ROUND_SECONDS`, at least once."""
        num_calls = min(MAX_CALLS, math.ceil(ROUND_SECONDS / self.call_seconds))
        if num_calls > 1:
            self._timed(1)  # warm up: other processes have run meanwhile
        seconds = self._timed(num_calls) / num_calls
        reading = Reading(seconds, self._peak_bytes(), self._settings())
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # the next process needs the memory
        return reading

    def _timed(self, num_calls: int) -> float:
        with convolutions_tried_out(self.case.is_ours), autocast(self.device, self.dtype):
            self._wait()
            started = perf_counter()
            for _ in range(num_calls):
                self.call()
            self._wait()
            return perf_counter() - started

    def _step(self) -> Callable[[], None]:
        objective = RestorationObjective(build_network(self.case), LossConfig()).train()
        objective.to(self.device, memory_format=self.layout)
        trainable = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        optimizer = build_optimizer(objective, OptimConfig()) if self.case.is_ours else torch.optim.Adam(trainable)
        self.model = compiled(objective, self.case.compile, self.device) if self.case.is_ours else objective
        degraded, clean = self._images(), self._images()

        def step() -> None:
            total = self.model(degraded, clean)["total"]
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, enabled=False):
                total.backward()
                optimizer.step()

        return step

    def _inference(self) -> Callable[[], None]:
        self.model = build_network(self.case).to(self.device, memory_format=self.layout).eval()
        degraded = self._images()

        @torch.inference_mode()
        def infer() -> None:
            self.model(degraded)

        return infer

    def _matmul(self) -> Callable[[], None]:
        side = MATMUL_SIDE[self.device.type]
        left, right = (torch.randn(side, side, dtype=self.dtype, device=self.device) for _ in range(2))
        return lambda: torch.mm(left, right)

    def _images(self) -> Tensor:
        size, channels = self.case.size_px, self.case.encoder["in_channels"]
        images = torch.rand(self.case.batch_size, channels, size, size, device=self.device)
        return images.contiguous(memory_format=self.layout)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _peak_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return host_bytes("VmHWM") - self.bytes_before

    def _settings(self) -> str:
        settings = [str(self.dtype).removeprefix("torch.")]
        if self.model:
            settings.append("channels-last" if self.case.is_ours else "NCHW")
        if getattr(self.model, "is_compiled", False):
            settings.append("compiled")
        return " ".join(settings)


def build_network(case: Case) -> Restorer:
    """The case's network, untrained: its weights do not matter for speed."""
    config = NetworkConfig.of(case.network["name"], case.network["options"])
    return build_restorer(config, QualityEncoder(**case.encoder), case.encoder["in_channels"])


def main() -> None:
    """Serve one case until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    sys.stdout = sys.stderr  # what a library prints must not mix with the answers
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    case = Case(**json.loads(sys.stdin.readline()))
    runner = None
    for _ in sys.stdin:
        try:
            runner = runner or Runner(case)
            answer = asdict(runner.round())
        except RuntimeError as error:
            if not is_about_memory(error):
                raise
            answer = {
                "error": f"{case.kind} does not fit into the {case.device} memory: choose fewer or smaller images"
            }
        print(json.dumps(answer), file=answers)
