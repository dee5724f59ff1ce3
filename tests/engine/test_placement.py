"""Device moves, layout and casts: what the loop asks for, and that nothing stays behind on the CPU."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import engine.loop
import engine.script
from engine.config import OptimConfig, TrainerConfig
from engine.distributed import Process
from engine.finite import FiniteGuard
from engine.loop import Training
from engine.placement import Placement
from restoration.config import LossConfig
from restoration.objective import RestorationObjective
from tests.engine.line import Config, Line, LineStage
from tests.networks import tiny_restorer

META = torch.device("meta")
CPU = torch.device("cpu")
EVENTS: list[str] = []


class Recording(Placement):
    """A placement on the CPU that says that it is a GPU, and writes down what it is asked for."""

    is_late = True
    pins_batches = True

    def place(self, module: nn.Module) -> None:
        EVENTS.append("place")
        super().place(module)

    def move(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        EVENTS.append(f"move {' '.join(batch)}")
        return super().move(batch)

    def lay_out(self, inputs: Iterable[Tensor]) -> list[Tensor]:
        EVENTS.append("lay out")
        return super().lay_out(inputs)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        EVENTS.append("cast")
        yield
        EVENTS.append("cast no more")


class RecordedLine(Line):
    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> dict[str, Tensor]:
        EVENTS.append("forward")
        return super().forward(x, y, z)


def test_a_step_is_moved_laid_out_and_cast_and_its_backward_pass_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    EVENTS.clear()
    monkeypatch.setattr(engine.loop, "Placement", Recording)
    guards = []
    monkeypatch.setattr(
        engine.loop, "FiniteGuard", lambda *given, **named: guards.append(named) or FiniteGuard(*given, **named)
    )
    stage = LineStage()
    stage.module = stage.kept = RecordedLine()
    stage.module.weight.register_hook(lambda gradient: EVENTS.append("backward"))
    config = Config(TrainerConfig(run_dir="run", device="cpu", precision="float32"), OptimConfig())
    training = Training(stage, num_steps=2, batch_size=4, config=config, process=Process(0, 1, CPU))
    training.model = stage.module
    batch = {name: torch.rand(4, 1, 1, 1) for name in ("x", "y", "z")}
    for _ in range(2):
        training._gradients(batch)
    begun = ["move x y z", "lay out", "cast", "cast no more"]  # `Stage.begin_step` is cast too
    step = [*begun, "cast", "forward", "cast no more", "backward"]
    assert ["place", *step, *step] == EVENTS and guards == [{"is_late": True}]


def test_batches_are_pinned_where_the_placement_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    monkeypatch.setattr(engine.script, "build_loader", lambda *given, **named: found.update(named))
    monkeypatch.setattr(engine.script, "train", lambda stage, make_loader, **named: make_loader(0, 1))

    class Data(Config):
        data = type("Data", (), {"batch_size": 2, "num_workers": 0})

    config = Data(TrainerConfig(run_dir="run"), OptimConfig())

    class Images(list):
        def fingerprint(self) -> str:
            return ""

    for placement, expected in ((Placement, False), (Recording, True)):
        monkeypatch.setattr(engine.script, "Placement", placement)
        process = Process(0, 1, CPU)
        engine.script.train_on(LineStage(), Images([0, 1]), config=config, process=process, checkpoint=None)
        assert found["pin_memory"] is expected


def test_only_a_gpu_is_late_and_has_pinned_batches() -> None:
    for device, expected in (("cpu", False), ("cuda", True)):
        placement = Placement(torch.device(device), torch.float32, torch.channels_last)
        assert placement.is_late is expected and placement.pins_batches is expected


@pytest.mark.parametrize(("channels_last", "expected"), [(True, torch.channels_last), (False, torch.contiguous_format)])
def test_a_configuration_gives_precision_and_layout(channels_last: bool, expected: torch.memory_format) -> None:
    trainer = TrainerConfig(run_dir="run", precision="bfloat16", channels_last=channels_last)
    assert Placement.of(trainer, CPU) == Placement(CPU, torch.bfloat16, expected)


def test_a_copy_does_not_make_the_host_wait() -> None:
    class Value:
        def to(self, *given: object, **named: object) -> tuple:
            return given, named

    moved = Placement(META, torch.float32, torch.channels_last).move({"x": Value()})
    assert moved == {"x": ((META,), {"non_blocking": True})}


def test_images_are_laid_out_and_other_arguments_left_alone() -> None:
    images, labels = torch.rand(2, 3, 4, 5), torch.arange(2)
    laid_out = Placement(CPU, torch.float32, torch.channels_last).lay_out([images, labels])
    assert laid_out[0].is_contiguous(memory_format=torch.channels_last) and laid_out[1] is labels
    torch.testing.assert_close(laid_out[0], images, rtol=0, atol=0)


def test_nothing_of_a_step_stays_behind_on_the_cpu() -> None:
    """On the meta device an operation with a tensor of the CPU fails, as it would on a GPU."""
    module, images = RestorationObjective(tiny_restorer(), LossConfig()).train(), torch.rand(4, 1, 32, 32)
    placement = Placement(META, torch.float32, torch.channels_last)
    placement.place(module)
    losses = module(*placement.lay_out(placement.move({"degraded": images, "clean": images}).values()))
    losses["total"].backward()
    assert {value.device for value in losses.values()} == {META}
    assert {value.grad.device for value in module.parameters() if value.requires_grad} == {META}
