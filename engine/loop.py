"""The one training loop. A stage says what is trained, on what loss, and how it is validated; the rest is here."""

import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.machine import autocast, choose_precision, convolutions_tried_out
from engine.checkpoint import save_checkpoint
from engine.compiling import compiled
from engine.config import OptimConfig, TrainerConfig
from engine.distributed import Process, largest_over_ranks, mean_over_ranks, wait_for_all
from engine.ema import ExponentialMovingAverage
from engine.finite import FiniteGuard
from engine.loader import batches_of
from engine.run import CHECKPOINT_NAME, Progress, TrainingState, check_run_dir, open_run_dir
from engine.run_log import RunLog, described


class RunConfig(Protocol):
    """The sections that the loop reads of a stage's configuration; the others are the stage's own."""

    trainer: TrainerConfig
    optim: OptimConfig


class Stage(ABC):
    """One stage of the method, as the loop sees it.

    Attributes:
        name: written into checkpoints.
        module: what is trained; called with the tensors of `inputs`, it returns named scalar losses, one "total".
        kept: the part of `module` that is averaged, validated and published.
        best_metric: the validation metric (larger is better) by which the published weights are chosen.
        weights_name: file name of the published weights in the run's folder.
        eager_because: why `module` is not to be compiled, whatever the config says; empty where it may be.
    """

    name: str
    module: nn.Module
    kept: nn.Module
    best_metric: str
    weights_name: str
    eager_because: str = ""

    @abstractmethod
    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The arguments of `module` from a batch on the device."""

    @abstractmethod
    def validate(self, kept: nn.Module, log: RunLog, step: int) -> dict[str, float]:
        """Metrics of `kept`, an eval-mode copy of the stage's `kept`; `best_metric` among them."""

    @abstractmethod
    def publish(self, kept: nn.Module, path: Path) -> None:
        """Write the weights of `kept` to `path`, atomically."""


def learning_rate(config: OptimConfig, step: int, share: float) -> float:
    """The learning rate of a step.

    Args:
        config: peak, warm-up and schedule.
        step: steps done, for the warm-up.
        share: share of the run that is done, 0..1, for the cosine.
    """
    warmup = min((step + 1) / (config.lr_warmup_steps + 1), 1.0)
    if config.schedule == "constant":
        return config.lr * warmup
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return config.lr * warmup * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam (AdamW where weights decay) over the trainable parameters, fused: one pass, which `FiniteGuard` can stop."""
    kind = torch.optim.AdamW if config.weight_decay else torch.optim.Adam
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return kind(trainable, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def train(
    stage: Stage,
    make_loader: Callable[[int, int], Iterable[Mapping[str, Tensor]]],
    *,
    steps_per_epoch: int,
    batch_size: int,
    config: RunConfig,
    process: Process,
) -> dict[str, float]:
    """Train a stage to the end of its schedule; returns the last validation's metrics.

    Between two lines of the log, validations and checkpoints the host never waits for the step in hand on a GPU.

    Args:
        stage: what to train.
        make_loader: (first_step, last_step) -> this rank's batches of those global steps.
        steps_per_epoch: steps of one pass over the training images.
        batch_size: samples of one step over all ranks, for the images/s that are logged.
        config: the whole configuration, saved with the run and in its checkpoints.
        process: this process.

    Raises:
        FloatingPointError: if a loss or gradient is not finite, before the update; names step and term.
    """
    optim, trainer = config.optim, config.trainer
    run_dir = check_run_dir(trainer)
    device, dtype = process.device, choose_precision(trainer.precision, process.device)
    memory_format = torch.channels_last if trainer.channels_last else torch.contiguous_format
    num_steps = trainer.max_steps or trainer.epochs * steps_per_epoch

    stage.module.to(device=device, memory_format=memory_format)
    optimizer = build_optimizer(stage.module, optim)
    guard = FiniteGuard(device, is_late=device.type == "cuda")
    optimizer.found_inf = guard.found_inf  # heeded on the device, before the host knows
    average = ExponentialMovingAverage(stage.kept, decay=optim.ema_decay) if optim.ema_decay else None
    progress = Progress()
    state = TrainingState(stage.name, stage.module, optimizer, average, progress)
    if trainer.resume:
        state.resume(run_dir / CHECKPOINT_NAME, config)
    loader = make_loader(progress.step, num_steps)
    open_run_dir(run_dir, config, process)
    # Compiled inside DDP: the graph is whole, and a fall back to eager is settled before any rank waits for another.
    model = compiled(stage.module, trainer.compile if not stage.eager_because else False, device)
    if process.world_size > 1:
        # Buffers need no broadcast: the ranks' queues are equal by construction, and only rank 0's statistics are kept.
        device_ids = [device] if device.type == "cuda" else None
        model = DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)

    log = RunLog(run_dir, process, first_step=progress.step, last_step=num_steps)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    num_trainable = sum(parameter.numel() for parameter in trainable)
    log.line(
        f"stage {stage.name}: {num_trainable / 1e6:.2f} M trainable parameters, "
        f"{process.world_size} process(es) on {device.type}, {str(dtype).removeprefix('torch.')}, "
        f"steps {progress.step} to {num_steps}"
        + (f" or {trainer.max_minutes:g} minutes" if trainer.max_minutes else "")
    )
    if trainer.compile is True and stage.eager_because:
        log.line(f"not compiled: {stage.eager_because}")
    if progress.step and progress.share(num_steps, trainer.max_minutes) >= 1:
        log.line(
            "this run is over, nothing is left to train: give all of it more trainer.max_minutes, max_steps or epochs "
            "(the schedule is stretched), or start a new run with a new schedule by --initial_weights"
        )

    def validate_and_save() -> dict[str, float]:
        """On rank 0: measure what is kept, publish it where it is the best so far, save the checkpoint."""
        started = look_at_clock()
        save()  # first, so that nothing is lost should validation fail
        metrics = {}
        if process.is_main:
            kept = average.module if average else stage.kept
            was_training = kept.training
            kept.eval()
            with convolutions_tried_out(False):
                metrics = stage.validate(kept, log, progress.step)
            log.scalars(metrics, progress.step, group="validation")
            is_best = metrics[stage.best_metric] >= progress.best
            if is_best:
                progress.best = metrics[stage.best_metric]
                stage.publish(kept, run_dir / stage.weights_name)
            log.line(f"validation at step {progress.step}: {described(metrics)}" + (" (best)" if is_best else ""))
            kept.train(was_training)
            save()
        wait_for_all()
        progress.validation_seconds = max(progress.validation_seconds, look_at_clock() - started)
        return metrics

    def save() -> None:
        nonlocal saved_at
        guard.settle()
        saved_at = look_at_clock()
        if process.is_main:
            save_checkpoint(run_dir / CHECKPOINT_NAME, state.to_checkpoint(config))

    def look_at_clock() -> float:
        progress.elapsed_seconds = time.perf_counter() - started_at
        return progress.elapsed_seconds

    metrics: dict[str, float] = {}
    is_stopping = False
    model.train()
    meter = _Meter(batch_size)
    saved_at = progress.elapsed_seconds
    started_at = time.perf_counter() - saved_at
    with closing(log), _stop_signals() as stop, convolutions_tried_out(True), batches_of(loader) as batches:
        for batch in meter.timed(batches):
            look_at_clock()
            # All ranks do the same, though their clocks differ and a signal may reach one alone.
            share, is_stopping, has_no_time = largest_over_ranks(
                progress.share(num_steps, trainer.max_minutes),
                stop.requested,
                not progress.has_time_to_validate(trainer.max_minutes),
            )
            if share >= 1 or is_stopping:
                break
            rate = learning_rate(optim, progress.step, share)
            for group in optimizer.param_groups:
                group["lr"] = rate

            batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
            inputs = [
                value.contiguous(memory_format=memory_format) if value.ndim == 4 else value
                for value in stage.inputs(batch)
            ]
            with autocast(device, dtype):
                losses = model(*inputs)
            optimizer.zero_grad(set_to_none=True)
            losses["total"].backward()
            gradient_norm = nn.utils.clip_grad_norm_(trainable, optim.grad_clip_norm or math.inf)
            guard.watch({**losses, "gradient norm": gradient_norm}, progress.step)
            optimizer.step()
            if average:
                average.update()

            progress.step += 1
            log.advance()
            if progress.step % trainer.log_every_steps == 0:
                guard.settle()
                terms = {name: float(mean_over_ranks(value.detach())) for name, value in losses.items()}
                speed = meter.read()
                log.line(f"step {progress.step}: {described(terms)}  lr {rate:.3g}  {described(speed)}")
                log.scalars(terms, progress.step, group="loss")
                log.scalars({"lr": rate, "gradient_norm": float(gradient_norm)} | speed, progress.step, group="train")
            if progress.step == num_steps:
                break
            if progress.step % trainer.validate_every_steps == 0 and not has_no_time:
                metrics = validate_and_save()
            elif _is_due(trainer, progress.step, look_at_clock() - saved_at):
                save()
        if is_stopping:
            save()
            log.line(f"stopped at step {progress.step}, saved; go on with --resume")
        else:
            metrics = validate_and_save()
    return metrics


def _is_due(trainer: TrainerConfig, step: int, seconds_unsaved: float) -> bool:
    """Whether a checkpoint is to be written after this step."""
    by_steps = trainer.save_every_steps is not None and step % trainer.save_every_steps == 0
    return by_steps or (trainer.save_every_minutes is not None and seconds_unsaved >= 60 * trainer.save_every_minutes)


class _Meter:
    """Images per second and the share of time spent waiting for data, since last read."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._start()

    def _start(self) -> None:
        self._steps, self._waited, self._since = 0, 0.0, time.perf_counter()

    def timed(self, batches: Iterator) -> Iterator:
        """The batches, with the wait for each one measured."""
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self._waited += time.perf_counter() - started
            self._steps += 1
            yield batch

    def read(self) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._since, 1e-9)
        values = {
            "images_per_second": self._steps * self.batch_size / seconds,
            "data_time_share": self._waited / seconds,
        }
        self._start()
        return values


class _StopRequest:
    requested = False


@contextmanager
def _stop_signals() -> Iterator[_StopRequest]:
    """Ctrl-C and SIGTERM ask for a stop after the step in hand, so no work is lost; a second Ctrl-C ends at once."""
    stop = _StopRequest()

    def ask(number: int, frame: object) -> None:
        stop.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
