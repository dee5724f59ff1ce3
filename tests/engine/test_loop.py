"""The training loop, on a stage so small that every number can be worked out beside it."""

import logging
import math
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import engine.loop
from common.files import sha256
from engine.checkpoint import save_checkpoint
from engine.config import OptimConfig, TrainerConfig
from engine.distributed import Process
from engine.finite import FiniteGuard
from engine.loop import train
from engine.optimizers import learning_rate
from engine.run import Progress, find_checkpoint
from engine.run_folder import list_checkpoints, read_newest
from engine.signals import Stopped
from tests.engine.line import Config, Line, LineStage

ALONE = Process(0, 1, torch.device("cpu"))
NUM_STEPS = 6


class Clock:
    """A clock that stands still but where a test moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr("engine.loop.time.perf_counter", lambda: self.seconds)


class Batches:
    """Batches that depend on the step alone; remembers the weight before each step; may spoil one or end the run.

    With a clock, a step takes two seconds on it.
    """

    def __init__(
        self,
        stage: LineStage,
        *,
        spoil: dict[int, str] | None = None,
        stop_at: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.stage, self.spoil, self.stop_at, self.clock = stage, spoil or {}, stop_at, clock
        self.weights: list[float] = []

    def __call__(self, first_step: int, last_step: int) -> Iterator[dict[str, Tensor]]:
        for step in range(first_step, last_step):
            self.weights.append(self.stage.module.weight.tolist())
            generator = torch.Generator().manual_seed(step)
            batch = {name: torch.rand(4, 1, 1, 1, generator=generator) for name in ("x", "y", "z")}
            if step in self.spoil:
                batch[self.spoil[step]][1] = math.inf
            if step == self.stop_at:
                signal.raise_signal(signal.SIGTERM)
            yield batch
            if self.clock:
                self.clock.seconds += 2


def run(
    tmp_path: Path,
    stage: LineStage,
    batches: Batches | None = None,
    *,
    optim: dict | None = None,
    images: str = "",
    **trainer,
) -> dict[str, float]:
    settings = {"run_dir": str(tmp_path / "run"), "max_steps": NUM_STEPS, "device": "cpu", "precision": "float32"}
    config = Config(TrainerConfig(**settings | trainer), OptimConfig(**optim or {}))
    return train(
        stage,
        batches or Batches(stage),
        steps_per_epoch=3,
        batch_size=4,
        config=config,
        process=ALONE,
        checkpoint=find_checkpoint(config, stage="line"),
        images=images,
    )


def saved(tmp_path: Path) -> dict:
    return read_newest(tmp_path / "run", stage="line")[1]


def change_saved(tmp_path: Path, state: dict) -> None:
    save_checkpoint(list_checkpoints(tmp_path / "run")[0], state)


def test_the_share_done_is_of_steps_or_of_time_whichever_is_further() -> None:
    progress = Progress(step=25, elapsed_seconds=30.0)
    assert progress.share(100, None) == 0.25
    assert progress.share(100, 1.0) == 0.5
    assert progress.share(100, 10.0) == 0.25
    assert progress.share(10, None) == 1.0
    progress = Progress(elapsed_seconds=30.0, validation_seconds=20.0)
    assert progress.share(100, 1.0) == 0.75 and progress.share(100, 1 / 3) == 1.0
    assert progress.has_time_to_validate(7 / 6) and not progress.has_time_to_validate(1.1)
    assert progress.has_time_to_validate(None)


def test_steps_are_adam_with_the_scheduled_rate(tmp_path: Path) -> None:
    stage = LineStage()
    batches = Batches(stage)
    optim = {"lr": 0.1, "lr_warmup_steps": 2, "betas": (0.5, 0.75), "final_lr_ratio": 0.5}
    run(tmp_path, stage, batches, optim=optim)
    # Adam as its authors print it, in float64.
    weight, first, second = 0.5, 0.0, 0.0
    for step in range(NUM_STEPS):
        assert batches.weights[step] == pytest.approx(weight, abs=1e-6)
        generator = torch.Generator().manual_seed(step)
        x, y = (torch.rand(4, generator=generator).double() for _ in range(2))
        gradient = (2 * (weight * x - y) * x).mean().item()
        first, second = 0.5 * first + 0.5 * gradient, 0.75 * second + 0.25 * gradient**2
        rate = learning_rate(OptimConfig(**optim), step, step / NUM_STEPS)
        weight -= rate * first / (1 - 0.5 ** (step + 1)) / (math.sqrt(second / (1 - 0.75 ** (step + 1))) + 1e-8)
    assert stage.module.weight.item() == pytest.approx(weight, abs=1e-6)


def test_a_batch_in_parts_makes_the_steps_of_the_whole_batch(tmp_path: Path) -> None:
    optim = {"lr": 0.1, "grad_clip_norm": 0.2, "ema_decay": 0.5}
    stages, weights = [], []
    for parts in (1, 2, 4):
        stages.append(LineStage())
        batches = Batches(stages[-1])
        run(tmp_path / str(parts), stages[-1], batches, optim=optim, micro_batches=parts)
        weights.append(batches.weights)
        # Sums in another order. A lost or wrongly weighed part changes gradients by tenths.
        assert weights[-1] == pytest.approx(weights[0], abs=1e-6)
        assert losses_of(log_of(tmp_path / str(parts))) == losses_of(log_of(tmp_path / "1"))
    assert [stage.begun for stage in stages] == [[parts] * NUM_STEPS for parts in (1, 2, 4)]


def test_a_batch_must_divide_into_the_parts(tmp_path: Path) -> None:
    message = r"data\.batch_size \(4\) must be a multiple of 1 process\(es\) times trainer\.micro_batches \(3\)"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, LineStage(), micro_batches=3)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED, no memory. Tried to allocate"),
        RuntimeError("not enough memory: no memory. Tried to allocate 9 bytes"),
    ],
)
def test_a_full_memory_is_named_with_what_to_change(
    error: RuntimeError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*inputs: Tensor) -> None:
        raise error

    stage = LineStage()
    monkeypatch.setattr(stage.module, "forward", full)
    with pytest.raises(
        ValueError, match=r"memory is full: raise trainer\.micro_batches, .* memory\. Tried to allocate"
    ):
        run(tmp_path, stage)


def test_epochs_decide_where_max_steps_does_not(tmp_path: Path) -> None:
    run(tmp_path, LineStage(), max_steps=None, epochs=3)
    assert saved(tmp_path)["progress"]["step"] == 9  # three steps an epoch


def test_a_time_limit_ends_the_run_validated_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = LineStage()
    run(tmp_path, stage, Batches(stage, clock=Clock(monkeypatch)), max_minutes=1 / 60)  # over after any step
    assert saved(tmp_path)["progress"]["step"] == 1
    assert [step for step, *_ in stage.validated] == [1]


def test_the_learning_rate_follows_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = watched_rates(monkeypatch)
    stage = LineStage()
    run(tmp_path, stage, Batches(stage, clock=Clock(monkeypatch)), max_minutes=0.1)  # two seconds a step, of six
    assert rates == [(0, 0.0), (1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3))]
    assert saved(tmp_path)["progress"]["step"] == 3


def test_a_time_limit_holds_with_all_validations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    rates = watched_rates(monkeypatch)

    class SlowlyValidated(LineStage):
        def validate(self, kept: nn.Module, log: object, step: int) -> dict[str, float]:
            clock.seconds += 10
            return super().validate(kept, log, step)

    stage = SlowlyValidated()
    limits = {"max_minutes": 1.0, "max_steps": 1000, "validate_every_steps": 10}
    run(tmp_path, stage, Batches(stage, clock=clock), **limits)
    # Ten steps, a validation, ten steps, none (it would leave no time for the last one), and the last one.
    assert [step for step, *_ in stage.validated] == [10, 20] and clock.seconds == 60
    assert rates[9:11] == [(9, pytest.approx(18 / 60)), (10, pytest.approx(30 / 50))]  # a sixth is kept for validation
    assert [share for _, share in rates] == sorted(share for _, share in rates) and rates[-1][1] < 1


def test_a_resumed_run_can_be_given_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def go(**trainer) -> None:
        stage = LineStage()
        run(tmp_path, stage, Batches(stage, clock=Clock(monkeypatch)), max_steps=100, **trainer)

    go(max_minutes=0.1)
    assert "this run is over" not in log_of(tmp_path)
    rates = watched_rates(monkeypatch)
    go(max_minutes=0.1, resume=True)
    assert rates == [] and "this run is over, nothing is left to train" in log_of(tmp_path)
    assert "start a new run from its weights (initial_weights)" in log_of(tmp_path)
    go(max_minutes=0.2, resume=True)
    assert rates == [(step, pytest.approx(step / 6)) for step in (3, 4, 5)]  # six seconds of twelve were over
    assert saved(tmp_path)["progress"]["elapsed_seconds"] == 12


def test_checkpoints_come_by_time_and_by_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    save = engine.loop.save_step
    monkeypatch.setattr(
        "engine.loop.save_step",
        lambda folder, step, *rest, **options: steps.append(step) or save(folder, step, *rest, **options),
    )
    for name, expected, trainer in (
        ("time", [4, 7], {"save_every_minutes": 0.1}),  # six seconds; a step's time shows with the next step
        ("steps", [3, 6], {"save_every_minutes": None, "save_every_steps": 3}),
        ("both", [4, 5, 8], {"save_every_minutes": 0.1, "save_every_steps": 5}),
        ("neither", [], {"save_every_minutes": None}),
    ):
        steps.clear()
        stage = LineStage()
        run(tmp_path / name, stage, Batches(stage, clock=Clock(monkeypatch)), max_steps=9, **trainer)
        assert steps == [*expected, 9, 9]  # before and after the last validation


def watched_rates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Steps and shares for which the learning rate is asked, in a list that grows."""
    rates = []
    monkeypatch.setattr(
        "engine.loop.learning_rate", lambda config, step, share: rates.append((step, share)) or config.lr
    )
    return rates


def log_of(tmp_path: Path) -> str:
    return (tmp_path / "run" / "log.txt").read_text()


def losses_of(log: str) -> list[str]:
    """The losses of the logged steps, as printed."""
    return re.findall(r"step \d+: (total .*?)  lr", log)


def test_validation_sees_eval_mode_and_happens_on_time_and_at_the_end(tmp_path: Path) -> None:
    stage = LineStage()
    metrics = run(tmp_path, stage, validate_every_steps=4)
    assert [(step, training) for step, _, training in stage.validated] == [(4, False), (6, False)]
    assert metrics == {"score": 6.0} and stage.module.training


def test_the_best_weights_are_published_and_the_best_score_survives_a_restart(tmp_path: Path) -> None:
    stage = LineStage(scores=(1.0, 3.0, 2.0))
    run(tmp_path, stage, validate_every_steps=2)
    weights = {step: weight for step, weight, _ in stage.validated}
    published = tmp_path / "run" / "line.txt"
    assert float(published.read_text()) == weights[4] and saved(tmp_path)["progress"]["best"] == 3.0
    run(tmp_path, LineStage(scores=(2.5,)), max_steps=8, resume=True)
    assert float(published.read_text()) == weights[4]
    resumed = LineStage(scores=(3.5,))
    run(tmp_path, resumed, max_steps=9, resume=True)
    assert float(published.read_text()) == resumed.module.weight.item()


def test_the_averaged_weights_are_validated_and_published(tmp_path: Path) -> None:
    stage = LineStage()
    batches = Batches(stage)
    run(tmp_path, stage, batches, optim={"lr": 0.1, "ema_decay": 0.25})
    averaged = batches.weights[0]
    for index, weight in enumerate([*batches.weights[1:], stage.module.weight.item()], start=1):
        decay = min(0.25, (1 + index) / (10 + index))
        averaged = decay * averaged + (1 - decay) * weight
    published = float((tmp_path / "run" / "line.txt").read_text())
    assert published == pytest.approx(averaged, abs=1e-6)  # float32 against float64
    assert published != pytest.approx(stage.module.weight.item(), abs=1e-4)
    assert stage.validated[-1][1] == published


@pytest.mark.parametrize(("clip", "expected"), [(None, None), (0.01, 0.01), (1e6, None)])
def test_gradients_are_clipped_to_the_norm(tmp_path: Path, clip: float | None, expected: float | None) -> None:
    stage = LineStage()
    run(tmp_path, stage, optim={"grad_clip_norm": clip}, max_steps=1)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(4, generator=generator) for _ in range(2))
    unclipped = (2 * (0.5 * x - y) * x).mean().item()
    # The gradient of the last step is still there. clip_grad_norm_ adds 1e-6 to the norm that it divides by.
    assert abs(stage.module.weight.grad.item()) == pytest.approx(expected or abs(unclipped), rel=1e-4)


@pytest.mark.parametrize("spoiled", ["x", "y"])
def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path, spoiled: str) -> None:
    stage = LineStage()
    batches = Batches(stage, spoil={3: spoiled})
    with pytest.raises(FloatingPointError, match="^total is (inf|nan) at step 3: stopped before the update") as caught:
        run(tmp_path, stage, batches, save_every_steps=2)
    assert "\n" not in str(caught.value) and "optim.lr" in str(caught.value)
    assert stage.module.weight.item() == batches.weights[3]
    assert saved(tmp_path)["progress"]["step"] == 2


def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    class Root(Line):
        def forward(self, x: Tensor, y: Tensor, z: Tensor) -> dict[str, Tensor]:
            return {"total": (self.weight - self.weight.detach()).sqrt()}  # 0, but its slope is not finite

    stage = LineStage()
    stage.module = stage.kept = Root()
    with pytest.raises(FloatingPointError, match="^gradient norm is (inf|nan) at step 0"):
        run(tmp_path, stage)
    assert stage.module.weight.item() == 0.5


@pytest.fixture
def late_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop looks for numbers that are not finite as it does on a GPU."""
    monkeypatch.setattr("engine.loop.FiniteGuard", lambda device, is_late: FiniteGuard(device, is_late=True))


@pytest.mark.parametrize("trainer", [{"save_every_steps": 2}, {"validate_every_steps": 2}, {"log_every_steps": 2}])
def test_a_late_stop_harms_neither_weights_nor_checkpoint(tmp_path: Path, late_guard: None, trainer: dict) -> None:
    stage = LineStage()
    batches = Batches(stage, spoil={3: "x"})
    optim = {"grad_clip_norm": 1.0, "ema_decay": 0.5}
    with pytest.raises(FloatingPointError, match="^total is (inf|nan) at step 3"):
        run(tmp_path, stage, batches, optim=optim, **trainer)
    assert len(batches.weights) == 4  # caught after the step, before anything was logged, validated or saved
    assert stage.module.weight.item() == batches.weights[3] != batches.weights[2]
    if "log_every_steps" in trainer:
        assert "step 2:" in log_of(tmp_path) and "step 4:" not in log_of(tmp_path)
    else:
        assert saved(tmp_path)["progress"]["step"] == 2


def test_a_late_stop_comes_with_the_next_step_which_changes_nothing(tmp_path: Path, late_guard: None) -> None:
    stage = LineStage()
    batches = Batches(stage, spoil={3: "x"})
    with pytest.raises(FloatingPointError, match="^total is (inf|nan) at step 3"):
        run(tmp_path, stage, batches)
    assert len(batches.weights) == 5
    assert stage.module.weight.item() == batches.weights[4] == batches.weights[3]


def test_a_step_asks_the_device_for_no_number(tmp_path: Path, late_guard: None) -> None:
    asked = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._local_scalar_dense.default:
                asked.append(len(batches.weights))  # the step in hand, from 1
            return function(*args, **kwargs or {})

    stage = LineStage()
    batches = Batches(stage)
    with Watch():
        optim = {"grad_clip_norm": 0.1, "weight_decay": 0.1, "ema_decay": 0.5, "lr_warmup_steps": 2}
        run(tmp_path, stage, batches, optim=optim, log_every_steps=5)
    assert set(asked) == {5, 6}  # the step that is logged, and the last, which is validated


def test_a_failed_run_takes_its_log_handlers_along(tmp_path: Path) -> None:
    before = list(logging.getLogger().handlers)
    stage = LineStage()
    with pytest.raises(FloatingPointError):
        run(tmp_path, stage, Batches(stage, spoil={0: "x"}))
    assert logging.getLogger().handlers == before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, stop_at: int, micro_batches: int
) -> None:
    settings = {
        "optim": {"lr": 0.1, "lr_warmup_steps": 2, "ema_decay": 0.5},
        "validate_every_steps": 2,
        "micro_batches": micro_batches,
    }
    run(tmp_path / "whole", LineStage(), **settings)
    stage = LineStage()
    with pytest.raises(Stopped) as stopped:
        run(tmp_path / "parts", stage, Batches(stage, stop_at=stop_at), **settings)
    assert stopped.value.code == 143
    assert saved(tmp_path / "parts")["progress"]["step"] == stop_at
    run(tmp_path / "parts", LineStage(), **settings, resume=True)
    whole, parts = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    for state in (whole, parts):
        del state["stage"], state["config"], state["device"], state["images"]
        del state["progress"]["elapsed_seconds"], state["progress"]["validation_seconds"]
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_ctrl_c_stops_too_and_a_run_that_is_through_is_not_called_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Batches):
        def __call__(self, first_step: int, last_step: int) -> Iterator[dict[str, Tensor]]:
            for step, batch in enumerate(super().__call__(first_step, last_step), start=first_step):
                if step == NUM_STEPS - 1:
                    signal.raise_signal(signal.SIGINT)
                yield batch

    stage = LineStage()
    with pytest.raises(Stopped) as stopped:
        run(tmp_path, stage, Interrupted(stage))
    assert stopped.value.code == 130 and saved(tmp_path)["progress"]["step"] == NUM_STEPS - 1
    assert "stopped by SIGINT at step 5, saved; the same command with --resume goes on" in log_of(tmp_path)
    monkeypatch.setattr(LineStage, "validate", lambda *_: signal.raise_signal(signal.SIGINT) or {"score": 0.0})
    assert run(tmp_path, LineStage(), resume=True) == {"score": 0.0}


def test_sigusr1_saves_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    save = engine.loop.save_step
    monkeypatch.setattr(
        "engine.loop.save_step",
        lambda run_dir, step, state, keep: steps.append(step) or save(run_dir, step, state, keep=keep),
    )

    class Signalled(Batches):
        def __call__(self, first_step: int, last_step: int) -> Iterator[dict[str, Tensor]]:
            for step, batch in enumerate(super().__call__(first_step, last_step), start=first_step):
                if step in (2, 4):
                    signal.raise_signal(signal.SIGUSR1)
                yield batch

    stage = LineStage()
    run(tmp_path, stage, Signalled(stage))
    assert steps == [2, 4, NUM_STEPS, NUM_STEPS] and "saved at step 4, as a signal asked" in log_of(tmp_path)


def test_auto_starts_or_goes_on(tmp_path: Path) -> None:
    stage = LineStage()
    with pytest.raises(Stopped):
        run(tmp_path, stage, Batches(stage, stop_at=4), resume="auto")
    resumed = LineStage()
    batches = Batches(resumed)
    run(tmp_path, resumed, batches, resume="auto")
    assert len(batches.weights) == 2 and saved(tmp_path)["progress"]["step"] == NUM_STEPS


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path: Path) -> None:
    run(tmp_path / "whole", LineStage())
    run(tmp_path / "parts", LineStage(), save_every_steps=2)
    newest = list_checkpoints(tmp_path / "parts" / "run")[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    stage = LineStage()
    batches = Batches(stage)
    run(tmp_path / "parts", stage, batches, resume=True)
    assert len(batches.weights) == 2  # steps 4 and 5
    assert saved(tmp_path / "parts")["module"] == saved(tmp_path / "whole")["module"]


def test_other_validation_settings_begin_a_new_best(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Measured(Config):
        validation: dict = field(default_factory=dict)

    def go(*scores: float, max_steps: int, **validation: int) -> Path:
        stage = LineStage(scores=scores)
        trainer = TrainerConfig(
            run_dir=str(tmp_path / "run"), max_steps=max_steps, device="cpu", precision="float32", resume="auto"
        )
        config = Measured(trainer, validation=validation)
        train(
            stage,
            Batches(stage),
            steps_per_epoch=3,
            batch_size=4,
            config=config,
            process=ALONE,
            checkpoint=find_checkpoint(config, stage="line"),
        )
        return (tmp_path / "run" / "line.txt").read_text() == repr(stage.module.weight.item())

    assert go(30.0, max_steps=2, num_images=5, num_pictures=1)
    assert not go(29.0, max_steps=4, num_images=5, num_pictures=2)
    assert go(28.0, max_steps=6, num_images=100, num_pictures=2) and saved(tmp_path)["progress"]["best"] == 28.0
    assert log_of(tmp_path).count("validation is not the one of the run so far: the best score starts anew") == 1


def test_a_validations_duration_is_forgotten_on_another_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, LineStage(), max_steps=3)
    for device, expected in (("cpu", 500.0), ("a far faster one", 0.0)):
        state = saved(tmp_path)
        state["progress"]["validation_seconds"] = 500.0
        state["device"] = device
        change_saved(tmp_path, state)
        stage = LineStage()
        with pytest.raises(Stopped):
            run(tmp_path, stage, Batches(stage, stop_at=3), resume=True)
        assert saved(tmp_path)["progress"]["validation_seconds"] == expected


def test_a_checkpoint_of_an_adam_that_is_not_fused_goes_on(tmp_path: Path) -> None:
    run(tmp_path, LineStage(), max_steps=3)
    state = saved(tmp_path)
    state["optimizer"]["param_groups"][0]["fused"] = None
    change_saved(tmp_path, state)
    run(tmp_path, LineStage(), resume=True)
    assert saved(tmp_path)["progress"]["step"] == NUM_STEPS


def test_a_step_can_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_it(function: Callable, **options: object) -> Callable:
        compiled.append(function)
        return function

    compiled: list[Callable] = []
    monkeypatch.setattr(torch, "compile", compile_it)
    stages = {"auto": LineStage(), "told": LineStage(), "refusing": LineStage()}
    stages["refusing"].eager_because = "it is too short"
    for name, stage in stages.items():
        run(tmp_path / name, stage, compile="auto" if name == "auto" else True)
    assert compiled == [stages["told"].module.forward]
    assert len({stage.module.weight.item() for stage in stages.values()}) == 1
    assert list(saved(tmp_path / "told")["module"]) == ["weight"]
    assert "not compiled: it is too short" in log_of(tmp_path / "refusing")


def test_compiling_takes_none_of_the_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr("engine.compiling.time.perf_counter", lambda: clock.seconds)

    def compile_slowly(function: Callable, **options: object) -> Callable:
        def call(*inputs: Tensor) -> dict[str, Tensor]:
            clock.seconds += 0 if called else 3600
            called.append(inputs)
            return function(*inputs)

        called: list[tuple[Tensor, ...]] = []
        return call

    monkeypatch.setattr(torch, "compile", compile_slowly)
    rates = watched_rates(monkeypatch)
    stage = LineStage()
    run(tmp_path, stage, Batches(stage, clock=clock), compile=True, max_steps=100, max_minutes=0.1)
    assert rates == [(0, 0.0), (1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3))]
    assert saved(tmp_path)["progress"]["elapsed_seconds"] == 6


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path, LineStage())
    before = saved(tmp_path)["module"]
    run(tmp_path, LineStage(), resume=True)
    torch.testing.assert_close(saved(tmp_path)["module"], before, rtol=0, atol=0)


def test_a_run_directory_in_use_is_refused(tmp_path: Path) -> None:
    run(tmp_path, LineStage())
    with pytest.raises(ValueError, match=r"run already holds a run: set trainer.resume to go on, or choose another"):
        run(tmp_path, LineStage())


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nothing to resume: no checkpoint in .*run; train with trainer.resume off first"
    ):
        run(tmp_path, LineStage(), resume=True)
    assert not (tmp_path / "run").exists()


def test_averaging_cannot_be_switched_on_or_off_by_resuming(tmp_path: Path) -> None:
    run(tmp_path, LineStage())
    with pytest.raises(ValueError, match=r"checkpoint_\d+\.pt was trained with optim\.ema_decay None, now it is"):
        run(tmp_path, LineStage(), optim={"ema_decay": 0.5}, resume=True)


def test_a_checkpoint_from_before_an_option_goes_on_with_its_default_only(tmp_path: Path) -> None:
    run(tmp_path, LineStage(), max_steps=3)
    state = saved(tmp_path)
    for key in ("name", "momentum", "adam_lr", "adam_layers", "ema_decay"):
        del state["config"]["optim"][key]
    del state["optimizer"]["param_groups"][0]["lr_share"]
    change_saved(tmp_path, state)
    with pytest.raises(ValueError, match=r"checkpoint_\d+\.pt was trained with optim\.name adam, now it is adamw"):
        run(tmp_path, LineStage(), optim={"name": "adamw"}, resume=True)
    run(tmp_path, LineStage(), resume=True)
    assert saved(tmp_path)["progress"]["step"] == NUM_STEPS


def test_the_speed_in_the_log_leaves_validations_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stage = Clock(monkeypatch), LineStage()

    def validate(*_: object) -> dict[str, float]:
        clock.seconds += 100
        return {"score": 0.0}

    monkeypatch.setattr(LineStage, "validate", validate)
    run(tmp_path, stage, Batches(stage, clock=clock), log_every_steps=2, validate_every_steps=3)
    speeds = [float(speed) for speed in re.findall(r"images_per_second (\S+)", log_of(tmp_path))]
    assert speeds == [4, 2, 2]  # 4 samples in two seconds; the clock moves before a step, so the first was free


def test_a_run_goes_on_with_its_own_images_only(tmp_path: Path) -> None:
    run(tmp_path, LineStage(), max_steps=3, images="cats")
    with pytest.raises(
        ValueError, match=r"checkpoint_\d+\.pt was trained on other images than data\.train holds now: "
    ):
        run(tmp_path, LineStage(), images="dogs", resume=True)
    assert saved(tmp_path)["progress"]["step"] == 3
    run(tmp_path, LineStage(), max_steps=4, images="cats", resume=True)
    state = saved(tmp_path)
    del state["images"]  # as older versions wrote it
    change_saved(tmp_path, state)
    run(tmp_path, LineStage(), images="dogs", resume=True)
    assert saved(tmp_path)["progress"]["step"] == NUM_STEPS


def test_a_batch_may_be_computed_in_other_parts_by_resuming(tmp_path: Path) -> None:
    run(tmp_path, LineStage(), max_steps=3)
    run(tmp_path, LineStage(), micro_batches=2, resume=True)
    assert saved(tmp_path)["progress"]["step"] == NUM_STEPS


def test_a_checkpoint_of_another_network_is_named(tmp_path: Path) -> None:
    run(tmp_path, LineStage())
    stage = LineStage()
    stage.module = stage.kept = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"checkpoint_\d+\.pt does not fit this configuration") as caught:
        run(tmp_path, stage, resume=True)
    assert "\n" not in str(caught.value)


def test_the_log_has_steps_and_validations(tmp_path: Path) -> None:
    run(tmp_path, LineStage(), log_every_steps=3)
    text = (tmp_path / "run" / "log.txt").read_text()
    assert "stage line" in text and "step 3: total" in text and "step 6: total" in text and "step 2: total" not in text
    assert "watched" in text and "lr " in text and "images_per_second" in text and "data_time_share" in text
    assert "validation at step 6: score" in text
    assert list((tmp_path / "run").glob("events.out.tfevents*"))


def test_a_line_says_when_the_run_will_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(name: str, **trainer) -> list[str]:
        stage = LineStage()
        run(tmp_path / name, stage, Batches(stage, clock=Clock(monkeypatch)), log_every_steps=10, **trainer)
        text = (tmp_path / name / "run" / "log.txt").read_text()
        return [line.split("eta ")[1] for line in text.splitlines() if "eta " in line]

    # Two seconds a step. The time of a step is known when the next one is asked for.
    assert lines("steps", max_steps=30) == ["0:00:40", "0:00:20", "0:00:00"]
    assert lines("minutes", max_steps=10_000, max_minutes=1.0)[:2] == ["0:00:42", "0:00:22"]


def test_the_run_explains_itself_when_it_is_done(tmp_path: Path) -> None:
    run(tmp_path, LineStage(scores=(1.0, 3.0, 2.0)), validate_every_steps=2)
    text = (tmp_path / "run" / "summary.md").read_text()
    assert "| training | done after 6 steps of 4 samples, 0:0" in text and "| stage | line, 1 trained" in text
    assert "| 2 | 1.0000 |\n| **4** | 3.0000 |\n| 6 | 2.0000 |" in text
    assert f"sha256 {sha256(tmp_path / 'run' / 'line.txt')}" in text and "max_steps: 6" in text
    stage = LineStage()
    with pytest.raises(Stopped):
        run(tmp_path, stage, Batches(stage, stop_at=7), max_steps=8, resume=True)
    text = (tmp_path / "run" / "summary.md").read_text()
    assert "stopped after 7 steps" in text and "| **4** | 3.0000 |" in text
