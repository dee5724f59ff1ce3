"""A run's state: what a checkpoint holds, what may change when a run is resumed, and how it goes on."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.machine import device_name
from engine.config import defaults, to_dict
from engine.distributed import from_main
from engine.ema import AveragedWeights
from engine.run_folder import check_run_dir, list_checkpoints, read_newest
from engine.stage import Stage

logger = logging.getLogger(__name__)

# What may change when a run is resumed: where files are, how often they are written, how long the run is, in how many
# parts a batch is computed (the machine may have less memory). All else must stay, or the run would not be the one that
# its config describes.
FREE_ON_RESUME = {
    "encoder", "initial_weights",  # the checkpoint holds all weights
    "recompute_activations",
    "data.root", "data.pack_dir", "data.num_workers", "data.on_error",
    "trainer.run_dir", "trainer.resume", "trainer.dry_run", "trainer.device",
    "trainer.epochs", "trainer.max_steps", "trainer.max_minutes",
    "trainer.log_every_steps", "trainer.validate_every_steps", "trainer.save_every_steps", "trainer.save_every_minutes",
    "trainer.keep_checkpoints", "trainer.timeout_seconds", "trainer.compile", "trainer.micro_batches",
}  # fmt: skip
SCORELESS = {"validation.num_pictures"}  # what may change in `validation` without another score or duration


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read, and fits the configuration of the run that goes on from it.

    Args:
        path: of its file.
        state: what `TrainingState.to_checkpoint` made.
        is_measured_alike: whether validations are those of the run so far, so scores and durations can be compared.
    """

    path: Path
    state: dict
    is_measured_alike: bool


def find_checkpoint(config: Any, *, stage: str) -> Checkpoint | None:
    """The checkpoint to go on from; None: the run starts from the beginning. Writes nothing. Rank 0 reads it for all.

    Args:
        config: the whole configuration.
        stage: name of the stage.

    Raises:
        ValueError, OSError: as `check_run_dir` and `read_newest`; also if the checkpoint lacks a part, or was trained
            with another configuration (names the key and both values).
    """
    return from_main(lambda: _find_checkpoint(config, stage))


def _find_checkpoint(config: Any, stage: str) -> Checkpoint | None:
    check_run_dir(config.trainer)
    if not list_checkpoints(config.trainer.run_dir):
        return None
    path, state = read_newest(config.trainer.run_dir, stage=stage)
    missing = {"config", "progress", "module", "optimizer", "average", "torch_rng"} - state.keys()
    if missing:
        raise ValueError(f"{path} lacks '{min(missing)}': it is no complete training checkpoint")
    changed = refuse_changes(state["config"], config, path)
    for key in ("encoder", "initial_weights"):
        before, now = state["config"].get(key), getattr(config, key, None)
        if before != now:
            logger.warning("%s %s is not read: the run goes on with what it began with, %s", key, now, before)
    return Checkpoint(path, state, is_measured_alike=not changed)


@dataclass
class Progress:
    """How far a run is.

    Args:
        step: steps done.
        elapsed_seconds: on the clock.
        validation_seconds: of the longest validation.
        best: the best metric so far.
        is_validating: whether a validation has begun at this step and its result is not saved yet.
    """

    step: int = 0
    elapsed_seconds: float = 0.0
    validation_seconds: float = 0.0
    best: float = -math.inf
    is_validating: bool = False

    def share(self, num_steps: int, max_minutes: float | None) -> float:
        """Share of the run that is done, 0..1: of its steps or of its minutes, whichever is larger.

        The steps get all minutes but those for the last validation, which are as many as the longest one took so far.
        """
        of_time = 0.0
        if max_minutes:
            seconds = 60 * max_minutes - self.validation_seconds
            of_time = self.elapsed_seconds / seconds if seconds > 0 else 1.0
        return min(max(self.step / num_steps, of_time), 1.0)

    def has_time_to_validate(self, max_minutes: float | None) -> bool:
        """Whether a validation now would leave time for the last one; true until one has been timed."""
        return max_minutes is None or self.elapsed_seconds + 2 * self.validation_seconds <= 60 * max_minutes


@dataclass
class TrainingState:
    """All that changes while a stage trains, and so all that a checkpoint must hold.

    `images` is the fingerprint of the training images: with others, a resumed run would draw other samples.
    """

    stage: Stage
    optimizer: torch.optim.Optimizer
    average: AveragedWeights | None
    progress: Progress
    images: str = ""

    def to_checkpoint(self, config: Any) -> dict:
        """Tensors and plain containers. The config is compared when the run is resumed."""
        return {
            "stage": self.stage.name,
            "context": self.stage.context(),
            "config": to_dict(config),
            "progress": vars(self.progress),
            "device": device_name(self.device),
            "images": self.images,
            "module": self.stage.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "torch_rng": torch.get_rng_state(),
        }

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: if it does not fit the networks, or is of other training images.
        """
        state = checkpoint.state
        if state.get("images", self.images) != self.images:  # older files do not have it
            raise ValueError(
                f"{checkpoint.path} was trained on other images than data.train holds now: bring back those it "
                f"began with, or start another trainer.run_dir"
            )
        try:
            self.stage.module.load_state_dict(state["module"])
            built = self.optimizer.param_groups
            for group, wanted in zip(state["optimizer"]["param_groups"], built, strict=False):
                if "fused" in wanted:
                    group["fused"] = True  # as `build_optimizer` has it; older files may say otherwise
                group.setdefault("lr_share", 1.0)  # older files do not have it
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average:
                self.average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            message = f"{checkpoint.path} does not fit this configuration (channels, widths): {reason}"
            raise ValueError(message) from None
        torch.set_rng_state(state["torch_rng"])
        vars(self.progress).update(state["progress"])
        here = device_name(self.device)
        if not checkpoint.is_measured_alike or state.get("device", here) != here:
            self.progress.validation_seconds = 0.0
        if not checkpoint.is_measured_alike:
            self.progress.best = -math.inf

    @property
    def device(self) -> torch.device:
        return next(self.stage.module.parameters()).device


def refuse_other_parts(checkpoint: Checkpoint, module: nn.Module, micro_batches: int) -> None:
    """Refuse other `trainer.micro_batches` than the checkpoint's where BatchNorm is trained: it normalises each part.

    The same holds for the number of processes, but a run may go on on another machine.
    """
    before = checkpoint.state["config"].get("trainer", {}).get("micro_batches", 1)
    if before != micro_batches and any(isinstance(part, _BatchNorm) and part.training for part in module.modules()):
        raise ValueError(
            f"{checkpoint.path} was trained with trainer.micro_batches {before}, now it is {micro_batches}, and this "
            f"changes what BatchNorm sees: resume with the same number, or start another trainer.run_dir"
        )


def refuse_changes(saved: dict, config: Any, path: Path) -> list[str]:
    """Keys of the validation that changed since the checkpoint. Raises ValueError if one changed that must not."""
    # An older version did what a key's default says, where it did not have the key yet.
    before = dict(_flat(defaults(config))) | dict(_flat(saved))
    now = dict(_flat(to_dict(config)))
    changed = [key for key in sorted(before) if before[key] != now.get(key)]
    for key in changed:
        if key not in FREE_ON_RESUME and not key.startswith("validation."):
            raise ValueError(
                f"{path} was trained with {key} {before[key]}, now it is {now.get(key)}: "
                f"resume with the same config, or start another trainer.run_dir"
            )
    return [key for key in changed if key.startswith("validation.") and key not in SCORELESS]


def _flat(content: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
