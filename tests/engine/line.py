"""A stage so small that every number can be worked out beside it: one weight w, with the loss mean((w x - y)^2)."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.config import OptimConfig, TrainerConfig
from engine.stage import Stage


@dataclass(frozen=True)
class Config:
    trainer: TrainerConfig
    optim: OptimConfig = field(default_factory=OptimConfig)


class Line(nn.Module):
    """The weight, its loss, and a second term that is only watched."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> dict[str, Tensor]:
        return {"total": (self.weight * x - y).square().mean(), "watched": z.mean()}


class LineStage(Stage):
    """Scores are the given ones, in order, then the step; remembers each step and validation."""

    name = "line"
    best_metric = "score"
    weights_name = "line.txt"

    def __init__(self, scores: tuple[float, ...] = ()) -> None:
        self.module = self.kept = Line()
        self.scores = list(scores)
        self.validated: list[tuple[int, float, bool]] = []
        self.begun: list[int] = []  # in how many parts each step came

    def inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return batch["x"], batch["y"], batch["z"]

    def blank_batch(self, num_samples: int) -> dict[str, Tensor]:
        return {name: torch.empty(num_samples, 1, 1, 1, device="meta") for name in ("x", "y", "z")}

    def begin_step(self, inputs: list[Tensor], num_parts: int) -> None:
        self.begun.append(num_parts)

    def validate(self, kept: nn.Module, log: object, step: int) -> dict[str, float]:
        self.validated.append((step, kept.weight.item(), kept.training))
        return {"score": self.scores.pop(0) if self.scores else float(step)}

    def publish(self, kept: nn.Module, path: Path) -> None:
        path.write_text(repr(kept.weight.item()))
