"""A run's folder and its state: what is refused before any work, what a checkpoint holds, and how a run goes on."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.checkpoint import load_checkpoint
from engine.config import TrainerConfig, defaults, save_config, to_dict
from engine.distributed import Process, wait_for_all
from engine.ema import ExponentialMovingAverage

CHECKPOINT_NAME = "checkpoint.pt"

# What may change when a run is resumed: where files are, how often they are written, how long the run is. All else must
# stay, or the run would not be the one that its config describes.
FREE_ON_RESUME = {
    "encoder", "initial_weights",  # the checkpoint holds all weights
    "data.root", "data.pack_dir", "data.num_workers",
    "trainer.run_dir", "trainer.resume", "trainer.dry_run", "trainer.device",
    "trainer.epochs", "trainer.max_steps", "trainer.max_minutes",
    "trainer.log_every_steps", "trainer.validate_every_steps", "trainer.save_every_steps", "trainer.save_every_minutes",
    "trainer.compile",
}  # fmt: skip


@dataclass
class Progress:
    """How far a run is: steps done, seconds on the clock, seconds of the longest validation, the best metric so far."""

    step: int = 0
    elapsed_seconds: float = 0.0
    validation_seconds: float = 0.0
    best: float = -math.inf

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
    """All that changes while a stage trains, and so all that a checkpoint must hold."""

    stage_name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: ExponentialMovingAverage | None
    progress: Progress

    def to_checkpoint(self, config: Any) -> dict:
        """Tensors and plain containers. The config is compared when the run is resumed."""
        return {
            "stage": self.stage_name,
            "config": to_dict(config),
            "progress": vars(self.progress),
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "torch_rng": torch.get_rng_state(),
        }

    def resume(self, path: Path, config: Any) -> None:
        """Go on from a checkpoint.

        Raises:
            FileNotFoundError, ValueError: as `load_checkpoint`; also if it lacks a part, does not fit the networks, or
                was trained with another configuration (names the key and both values).
        """
        state = load_checkpoint(path, stage=self.stage_name)
        missing = {"config", "progress", "module", "optimizer", "average", "torch_rng"} - state.keys()
        if missing:
            raise ValueError(f"{path} lacks '{min(missing)}': it is no complete training checkpoint")
        refuse_changes(state["config"], config, path)
        try:
            self.module.load_state_dict(state["module"])
            for group in state["optimizer"]["param_groups"]:
                if not group.get("is_muon"):
                    group["fused"] = True  # as `build_optimizer` has it; older files may say otherwise
                group.setdefault("lr_share", 1.0)  # older files do not have it
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average:
                self.average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} does not fit this configuration (channels, widths): {reason}") from None
        torch.set_rng_state(state["torch_rng"])
        vars(self.progress).update(state["progress"])


def check_run_dir(trainer: TrainerConfig) -> Path:
    """The run's folder, if this run may use it. Writes nothing.

    Raises:
        ValueError: if a run is already there and `trainer.resume` is off.
        FileNotFoundError: if there is none to resume.
        PermissionError: if the folder cannot be written.
    """
    run_dir = Path(trainer.run_dir)
    nearest = next(folder for folder in (run_dir, *run_dir.absolute().parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise PermissionError(f"cannot write to trainer.run_dir {run_dir} ({nearest}); choose another folder")
    checkpoint = run_dir / CHECKPOINT_NAME
    if trainer.resume and not checkpoint.exists():
        raise FileNotFoundError(f"nothing to resume: no {checkpoint}; train with trainer.resume off first")
    if checkpoint.exists() and not trainer.resume:
        raise ValueError(
            f"{run_dir} already holds a run: set trainer.resume to go on, or choose another trainer.run_dir"
        )
    return run_dir


def open_run_dir(run_dir: Path, config: Any, process: Process) -> None:
    """Make the run's folder, with the resolved config in it. Call it last, when nothing can be refused any more."""
    wait_for_all()  # every rank must have looked at the folder before rank 0 writes
    if process.is_main:
        run_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, run_dir / "config.yaml")
    wait_for_all()


def refuse_changes(saved: dict, config: Any, path: Path) -> None:
    # An older version did what a key's default says, where it did not have the key yet.
    before = dict(_flat(defaults(config))) | dict(_flat(saved))
    now = dict(_flat(to_dict(config)))
    for key in sorted(before):
        is_free = key in FREE_ON_RESUME or key.startswith("validation.")
        if not is_free and before[key] != now.get(key):
            raise ValueError(
                f"{path} was trained with {key} {before[key]}, now it is {now.get(key)}: "
                f"resume with the same config, or start another trainer.run_dir"
            )


def _flat(content: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
