"""What a stage of the method gives the training loop: a module, its inputs, its validation, its published weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from engine.config import OptimConfig, TrainerConfig
from engine.run_log import RunLog


class RunConfig(Protocol):
    """The sections of a stage's configuration that the loop reads; the others are the stage's own."""

    trainer: TrainerConfig
    optim: OptimConfig


class Stage(ABC):
    """One stage of the method, as the loop sees it.

    Attributes:
        name: written into checkpoints.
        module: what is trained. It is called with the tensors of `inputs` and returns named scalar losses, one of them
            "total".
        kept: the part of `module` that is averaged, validated and published.
        best_metric: the validation metric (larger is better) that chooses the published weights.
        weights_name: file name of the published weights in the run's folder.
        splits_validation: whether `validate` is called on every rank and shares the work; else only on rank 0.
        eager_because: why `module` must not be compiled, whatever the config says; empty if it may be.
    """

    name: str
    module: nn.Module
    kept: nn.Module
    best_metric: str
    weights_name: str
    splits_validation: bool = False
    eager_because: str = ""

    def context(self) -> dict:
        """What a resumed run builds this stage from, besides its config. Plain containers and tensors."""
        return {}

    @abstractmethod
    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The arguments of `module`, from a batch on the device."""

    def begin_step(self, inputs: Sequence[Tensor], num_parts: int) -> None:  # noqa: B027 - most stages need nothing
        """Called once a step with the arguments that `module` will then get in this many equal parts, in order."""

    @abstractmethod
    def blank_batch(self, num_samples: int) -> dict[str, Tensor]:
        """A batch as `inputs` takes it: of this many samples, on the meta device, without content."""

    @abstractmethod
    def validate(self, kept: nn.Module, log: RunLog, step: int) -> dict[str, float]:
        """Metrics of `kept`, which is the stage's `kept` or its average, in eval mode; `best_metric` is among them.

        If the stage splits its validation, rank 0 returns the metrics and the others {}.
        """

    @abstractmethod
    def publish(self, kept: nn.Module, path: Path) -> None:
        """Write the weights of `kept` to `path`, atomically."""
