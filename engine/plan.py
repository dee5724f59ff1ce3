"""What a training would do, as `--dry-run` prints it: its size, cost, length and learning rate."""

import torch

from common.machine import choose_precision
from engine.config import OptimConfig
from engine.distributed import Process
from engine.estimate import StepCost, step_cost
from engine.loader import check_parts
from engine.optimizers import build_optimizer, learning_rate
from engine.stage import RunConfig, Stage

NUM_INTERVALS = 10  # of the learning-rate curve
BAR_LENGTH = 40


def plan(
    stage: Stage, *, num_images: int, pixels_per_image: int, batch_size: int, config: RunConfig, process: Process
) -> str:
    """The lines of `--dry-run`.

    Args:
        stage: what would be trained. It is not changed.
        num_images: training images; an epoch takes one sample of each.
        pixels_per_image: pixels of the coded patches that a sample has.
        batch_size: samples of one step over all ranks.
        config: the whole configuration.
        process: this process. Arithmetic and memory are those of one process.

    Raises:
        ValueError: as `build_optimizer` and `check_parts`.
    """
    trainer = config.trainer
    # Both refuse what the training would refuse.
    check_parts(batch_size, trainer.micro_batches, process.world_size)
    build_optimizer(stage.module, config.optim)
    dtype = choose_precision(trainer.precision, process.device)
    num_parts = trainer.micro_batches
    num_samples = batch_size // process.world_size // num_parts
    batch = stage.blank_batch(num_samples)
    cost = step_cost(stage.module, stage.inputs, batch, optim=config.optim, dtype=dtype, num_parts=num_parts)
    steps_per_epoch = num_images // batch_size
    num_steps = trainer.max_steps or trainer.epochs * steps_per_epoch
    pixels = batch_size * pixels_per_image
    limit = f", or as many as {trainer.max_minutes:g} minutes allow" if trainer.max_minutes else ""
    rows = {
        "run": f"stage {stage.name}, {trainer.run_dir}; a dry run, nothing is trained",
        "parameters": f"{cost.num_trained / 1e6:.2f} M trained, {cost.num_frozen / 1e6:.2f} M others",
        "arithmetic": _arithmetic(cost, num_samples, stage.inputs(batch)[0].shape),
        "memory": _memory(cost, str(dtype).removeprefix("torch.")),
        "images": f"{num_images:,}; an epoch has {steps_per_epoch:,} steps of {batch_size}",
        "steps": f"{num_steps:,}, which is {num_steps / max(steps_per_epoch, 1):,.1f} epochs{limit}",
        "pixels": f"{pixels / 1e6:.3g} million in a step, {num_steps * pixels / 1e9:.3g} billion in all these steps",
        "rates": f"the learning rate by the share of the {'minutes' if trainer.max_minutes else 'steps'} that is done",
    }
    return "\n".join([*(f"{name:<11} {text}" for name, text in rows.items()), *_rate_lines(config.optim, num_steps)])


def _arithmetic(cost: StepCost, num_samples: int, shape: torch.Size) -> str:
    forward = cost.forward_macs / 1e9 / num_samples
    sample = f"a sample of {shape[-2]}x{shape[-1]} pixels"
    return f"{forward:.2f} GMAC for the forward pass of {sample}, {cost.total_flops / 1e12:.3g} TFLOP for a step"


def _memory(cost: StepCost, precision: str) -> str:
    kept, step = (size / 2**30 for size in (cost.kept_bytes, cost.step_bytes))
    return (
        f"about {kept + step:.2f} GiB in each process ({precision}): {kept:.2f} for weights and the optimiser's state, "
        f"{step:.2f} for activations and gradients"
    )


def _rate_lines(optim: OptimConfig, num_steps: int) -> list[str]:
    """The learning rate at shares of the run, as numbers and as bars."""
    lines = []
    for interval in range(NUM_INTERVALS + 1):
        share = interval / NUM_INTERVALS
        rate = learning_rate(optim, round(share * num_steps), share)
        lines.append(f"{share:>11.0%} {rate:.2e} {'#' * round(BAR_LENGTH * rate / optim.lr)}".rstrip())
    return lines
