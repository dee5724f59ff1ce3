"""The training loop of both stages. A stage says what is trained, on what loss, and how it is validated."""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

from torch import Tensor, nn, stack
from torch.nn.parallel import DistributedDataParallel

from common.errors import is_about_memory
from common.files import full_disk_named
from common.machine import convolutions_tried_out
from engine.compiling import compiled
from engine.config import to_dict
from engine.distributed import (
    Process,
    copy_from_main,
    gather_objects,
    largest_over_ranks,
    mean_over_ranks,
    wait_for_all,
)
from engine.finite import FiniteGuard
from engine.loader import batches_of, check_parts
from engine.meter import Meter, clock_time
from engine.optimizers import build_average, build_optimizer, learning_rate, set_learning_rate
from engine.placement import Placement
from engine.run import Checkpoint, Progress, TrainingState, refuse_other_parts
from engine.run_folder import open_run_dir, save_step
from engine.run_log import RunLog, described
from engine.signals import Requests, Stopped, requests_by_signal
from engine.stage import RunConfig, Stage
from engine.summary import origin, write_summary


def train(
    stage: Stage,
    make_loader: Callable[[int, int], Iterable[Mapping[str, Tensor]]],
    *,
    steps_per_epoch: int,
    batch_size: int,
    config: RunConfig,
    process: Process,
    checkpoint: Checkpoint | None,
    files_of: Callable[[int], Sequence[str]] = lambda step: (),
    images: str = "",
) -> dict[str, float]:
    """Train a stage to the end of its schedule; returns the last validation's metrics.

    On a GPU the host waits for a step's results only where it logs, validates or saves.

    Args:
        stage: what to train.
        make_loader: (first_step, last_step) -> this rank's batches of those global steps.
        steps_per_epoch: steps of one pass over the training images.
        batch_size: samples of one step over all ranks, for the images/s in the log.
        config: the whole configuration; it is saved with the run and in its checkpoints.
        process: this process.
        checkpoint: what `find_checkpoint` found; the run goes on from it. None: it starts from the beginning.
        files_of: step -> the images that this rank's samples of it are cut from, for error messages.
        images: fingerprint of the training images; a run goes on with the same ones.

    Raises:
        ValueError: if the batch does not divide into equal parts, or does not fit into the GPU's memory; or if the
            checkpoint is of other networks, images or parts, or the processes have different images.
        FloatingPointError: if a loss or gradient is not finite, before the update; names step, term and images.
        ChildProcessError: if a worker of the loader was killed.
        Stopped: if a signal stopped the run before its end; everything is saved.
    """
    check_parts(batch_size, config.trainer.micro_batches, process.world_size)
    num_steps = config.trainer.max_steps or config.trainer.epochs * steps_per_epoch
    training = Training(stage, num_steps=num_steps, batch_size=batch_size, config=config, process=process)
    training.guard.files_of = files_of
    training.state.images = same_on_all_ranks(images)
    if checkpoint:
        refuse_other_parts(checkpoint, stage.module, config.trainer.micro_batches)
        training.state.resume(checkpoint)
    loader = make_loader(training.progress.step, num_steps)
    run_dir = training.run_dir
    open_run_dir(run_dir, config, process)
    with (
        _full_memory_named(),
        full_disk_named(run_dir),
        closing(RunLog(run_dir, process, first_step=training.progress.step, last_step=num_steps)) as log,
    ):
        if checkpoint:
            log.line(f"goes on from {checkpoint.path}")
        if checkpoint and not checkpoint.is_measured_alike:
            log.line("validation is not the one of the run so far: the best score starts anew")
        return training.run(loader, log)


def same_on_all_ranks(images: str) -> str:
    """The fingerprint, if all processes have the same one; else a ValueError on all of them."""
    if len(set(gather_objects(images))) > 1:
        raise ValueError("the processes have different images in data.train: put the same ones on every machine")
    return images


class Training:
    """One run of one stage: what its phases share, and the phases. Arguments as those of `train`."""

    def __init__(self, stage: Stage, *, num_steps: int, batch_size: int, config: RunConfig, process: Process) -> None:
        self.stage, self.config, self.process = stage, config, process
        self.optim, self.trainer = config.optim, config.trainer
        self.num_steps, self.batch_size = num_steps, batch_size
        self.run_dir = Path(config.trainer.run_dir)
        self.device = process.device
        self.placement = Placement.of(self.trainer, self.device)

        self.placement.place(stage.module)
        self.optimizer = build_optimizer(stage.module, self.optim)
        self.guard = FiniteGuard(self.device, is_late=self.placement.is_late)
        # Adam and Muon read this flag on the device, so they skip a bad step without a sync. The library's wait for it.
        self.optimizer.found_inf = self.guard.found_inf
        self.average = build_average(stage.kept, self.optimizer, self.optim)
        self.progress = Progress()
        self.state = TrainingState(stage, self.optimizer, self.average, self.progress)
        self.trainable = [parameter for parameter in stage.module.parameters() if parameter.requires_grad]

    def run(self, loader: Iterable[Mapping[str, Tensor]], log: RunLog) -> dict[str, float]:
        """All steps, and what is due between them; returns the last validation's metrics."""
        stop = 0
        self.log = log
        self.origin = origin(self.device) if self.process.is_main else {}
        self.model = self._wrapped()
        self._log_start()
        self.model.train()
        self.meter = Meter(self.batch_size, self.device)
        self._start_clock()
        with requests_by_signal() as requests, convolutions_tried_out(True), batches_of(loader) as batches:
            if self.progress.is_validating and self.progress.share(self.num_steps, self.trainer.max_minutes) < 1:
                self._validate()  # this run was killed before it had published the best
            for number, batch in enumerate(self.meter.timed(batches)):
                if number == 0:
                    self._start_clock()  # again: the workers have started, and the first images were read
                self._look_at_clock()
                # All ranks must do the same, but their clocks differ and a signal may reach only one of them.
                share, stop, is_save_asked, has_no_time = largest_over_ranks(
                    self.progress.share(self.num_steps, self.trainer.max_minutes),
                    requests.stop,
                    requests.save,
                    not self.progress.has_time_to_validate(self.trainer.max_minutes),
                )
                if share >= 1 or stop:
                    break
                if is_save_asked:
                    self._save_as_asked(requests)
                rate = learning_rate(self.optim, self.progress.step, share)
                set_learning_rate(self.optimizer, rate)
                losses, gradient_norm = self._gradients(batch)
                self.guard.watch({**losses, "gradient norm": gradient_norm}, self.progress.step)
                self._update()

                if self.progress.step % self.trainer.log_every_steps == 0:
                    self._log_step(losses, {"lr": rate, "gradient_norm": gradient_norm})
                if self.progress.step == self.num_steps:
                    break
                if self.progress.step % self.trainer.validate_every_steps == 0 and not has_no_time:
                    self._validate()
                elif self._is_save_due():
                    self._save()
            if stop and share < 1:
                self._stop(int(stop))
            metrics = self._validate()
            self._summarize("done")
        return metrics

    def _wrapped(self) -> nn.Module:
        """The stage's module as it is called: compiled and distributed, where the config and the launcher say so."""
        # Compiled inside DDP: the graph is whole, and if compiling fails, that is settled before ranks wait for others.
        model = compiled(self.stage.module, False if self.stage.eager_because else self.trainer.compile, self.device)
        self.step_module = model
        if self.process.world_size == 1:
            return model
        # Buffers need no broadcast: the ranks' queues are equal by construction, and only rank 0's statistics are kept.
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)

    def _gradients(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of the batch, clipped; returns its losses on this rank, and the gradients' norm before clipping.

        This rank's share goes through the network in `trainer.micro_batches` equal parts, so the mean over the share is
        the mean of the parts' means.
        """
        num_parts = self.trainer.micro_batches
        self.optimizer.zero_grad(set_to_none=True)
        inputs = self.placement.lay_out(self.stage.inputs(self.placement.move(batch)))
        with self.placement.autocast():
            self.stage.begin_step(inputs, num_parts)
        terms = []
        for number, part in enumerate(zip(*(value.chunk(num_parts) for value in inputs), strict=True), start=1):
            with self._averaged_over_ranks(number == num_parts):
                with self.placement.autocast():
                    losses = self.model(*part)
                (losses["total"] / num_parts).backward()
            terms.append({name: value.detach() for name, value in losses.items()})
        losses = {name: stack([of_part[name] for of_part in terms]).mean() for name in terms[0]}
        return losses, nn.utils.clip_grad_norm_(self.trainable, self.optim.grad_clip_norm or math.inf)

    def _averaged_over_ranks(self, is_last: bool) -> AbstractContextManager:
        """The ranks average their gradients in the last part's backward pass; before it each adds up its own."""
        is_distributed = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if is_distributed and not is_last else nullcontext()

    def _update(self) -> None:
        self.optimizer.step()
        if self.average:
            self.average.update()
        self.progress.step += 1
        seconds = self._seconds_left()
        self.log.advance(self.progress.step + self.meter.steps_in(seconds), self.meter.note(seconds))

    def _validate(self) -> dict[str, float]:
        """Measure what is kept; rank 0 publishes it if it is the best so far, and saves. Returns {} on other ranks."""
        started = self._look_at_clock()
        self.progress.is_validating = True
        self._save()  # first, so that nothing is lost if validation fails
        kept = self.average.module if self.average else self.stage.kept
        metrics = self._measured(kept)
        if self.process.is_main:
            self.log.scalars(metrics, self.progress.step, group="validation")
            is_best = metrics[self.stage.best_metric] >= self.progress.best
            if is_best:
                self.progress.best = metrics[self.stage.best_metric]
                self.stage.publish(kept, self.run_dir / self.stage.weights_name)
            self.log.line(
                f"validation at step {self.progress.step}: {described(metrics)}" + (" (best)" if is_best else "")
            )
        self.progress.is_validating = False
        self._save()
        wait_for_all()
        seconds = self._look_at_clock() - started
        self.progress.validation_seconds = max(self.progress.validation_seconds, seconds)
        self.meter.leave_out(seconds)
        return metrics

    def _measured(self, kept: nn.Module) -> dict[str, float]:
        """The stage's metrics of what is kept, on rank 0; {} on other ranks."""
        if not (self.stage.splits_validation or self.process.is_main):
            return {}
        if self.stage.splits_validation:  # weights are equal on all ranks, but BatchNorm's statistics may differ
            copy_from_main(kept.buffers())
        was_training = kept.training
        kept.eval()
        with convolutions_tried_out(False):
            metrics = self.stage.validate(kept, self.log, self.progress.step)
        kept.train(was_training)
        return metrics

    def _save(self) -> None:
        self.guard.settle()
        self._saved_at = self._look_at_clock()
        if self.process.is_main:
            state = self.state.to_checkpoint(self.config)
            save_step(self.run_dir, self.progress.step, state, keep=self.trainer.keep_checkpoints)

    def _save_as_asked(self, requests: Requests) -> None:
        requests.save = False
        self._save()
        self.log.line(f"saved at step {self.progress.step}, as a signal asked")

    def _stop(self, number: int) -> NoReturn:
        self._save()
        name = signal.Signals(number).name
        self.log.line(f"stopped by {name} at step {self.progress.step}, saved; the same command with --resume goes on")
        self._summarize("stopped")
        wait_for_all()  # a launcher ends the others soon after one has ended, and rank 0 writes
        raise Stopped(number)

    def _is_save_due(self) -> bool:
        by_steps, by_minutes = self.trainer.save_every_steps, self.trainer.save_every_minutes
        if by_steps is not None and self.progress.step % by_steps == 0:
            return True
        return by_minutes is not None and self._look_at_clock() - self._saved_at >= 60 * by_minutes

    def _start_clock(self) -> None:
        self._saved_at = self.progress.elapsed_seconds
        self._started_at = time.perf_counter() - self.progress.elapsed_seconds

    def _look_at_clock(self) -> float:
        seconds_compiling = getattr(self.step_module, "compile_seconds", 0.0)
        self.progress.elapsed_seconds = time.perf_counter() - self._started_at - seconds_compiling
        return self.progress.elapsed_seconds

    def _summarize(self, end: str) -> None:
        """On rank 0: write `summary.md`; `end` says how the run ended."""
        if not self.process.is_main:
            return
        step = self.progress.step
        num_trained = sum(parameter.numel() for parameter in self.trainable)
        facts = {
            "stage": f"{self.stage.name}, {num_trained:,} trained parameters",
            "training": f"{end} after {step:,} steps of {self.batch_size} samples, {clock_time(self._look_at_clock())}",
            "processes": f"{self.process.world_size} on {self.device.type}, {self.placement.precision}",
        }
        write_summary(
            self.run_dir,
            title=str(self.run_dir),
            facts=facts | self.origin,
            weights=self.run_dir / self.stage.weights_name,
            best=self.stage.best_metric,
            best_score=self.progress.best,
            config=to_dict(self.config),
        )

    def _seconds_left(self) -> float:
        limit = 60 * (self.trainer.max_minutes or math.inf) - self._look_at_clock()
        return self.meter.seconds_left(self.num_steps - self.progress.step, limit)

    def _log_start(self) -> None:
        num_trainable = sum(parameter.numel() for parameter in self.trainable)
        max_minutes = self.trainer.max_minutes
        self.log.line(
            f"stage {self.stage.name}: {num_trainable / 1e6:.2f} M trainable parameters, "
            f"{self.process.world_size} process(es) on {self.device.type}, {self.placement.precision}, "
            f"steps {self.progress.step} to {self.num_steps}" + (f" or {max_minutes:g} minutes" if max_minutes else "")
        )
        if self.trainer.compile is True and self.stage.eager_because:
            self.log.line(f"not compiled: {self.stage.eager_because}")
        if self.progress.step and self.progress.share(self.num_steps, max_minutes) >= 1:
            self.log.line(
                "this run is over, nothing is left to train: raise trainer.max_minutes, max_steps or epochs "
                "(the schedule is stretched), or start a new run from its weights (initial_weights)"
            )

    def _log_step(self, losses: Mapping[str, Tensor], values: Mapping[str, float | Tensor]) -> None:
        self.guard.settle()
        step = self.progress.step
        terms = {name: float(mean_over_ranks(value.detach())) for name, value in losses.items()}
        speed = self.meter.read()
        left = clock_time(self._seconds_left())
        self.log.line(f"step {step}: {described(terms)}  lr {values['lr']:.3g}  {described(speed)}  eta {left}")
        self.log.scalars(terms, step, group="loss")
        self.log.scalars({name: float(value) for name, value in values.items()} | speed, step, group="train")


@contextmanager
def _full_memory_named() -> Iterator[None]:
    """Turn the block's error about a full memory into a ValueError that says what to change."""
    try:
        yield
    except RuntimeError as error:
        if not is_about_memory(error):
            raise
        raise ValueError(
            "the memory is full: raise trainer.micro_batches, set recompute_activations (stage 2), or lower "
            f"data.patch_size_px; --dry-run estimates the memory ({' '.join(str(error).split())[:150]})"
        ) from error
