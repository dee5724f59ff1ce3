"""What only a GPU can show. `make test-gpu` runs this file; it is the first thing to do where there is one."""

import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import engine.loop
import engine.script
import train_cqe
import train_restorer
from commands.fit import untrained
from common.machine import exact_float32
from cqe.config import CqeConfig
from engine.config import parse_config
from engine.distributed import process_group
from engine.placement import Placement
from engine.run_folder import read_newest
from engine.signals import Stopped
from evaluation.speed.fitting import TOLERANCES, distance
from evaluation.speed.trials import Settings, Trial, made_up_patches
from restoration.config import RestorerConfig
from restoration.networks import build_restorer
from restoration.start import open_start
from restoration.weights import load_restorer, open_weights
from tests import program
from tests.places import ROOT
from tests.program import run_python
from tests.synthetic import cqe_settings, make_data_root, restorer_settings, write_config

DEVICE = torch.device("cuda")
CONFIGS = ("fast_tiny_gray", "fast_gray", "paper_gray")
SIZE_PX = 64

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch sees no CUDA device"),
    pytest.mark.slow,
]


@pytest.fixture
def config(tmp_path: Path) -> RestorerConfig:
    """A small training on the GPU, in float32; also written to `config.yaml`."""
    root, run_dir = make_data_root(tmp_path / "data"), tmp_path / "run"
    settings = restorer_settings(root, run_dir, ROOT / "weights" / "cqe_gray.safetensors", device=DEVICE.type)
    return parse_config(RestorerConfig, ["--config", str(write_config(tmp_path / "config.yaml", settings))])


def gradients(name: str, settings: Settings) -> list[Tensor]:
    """Of a step of a shipped config, on made-up patches."""
    path = ROOT / "configs" / "restorer" / f"{name}.yaml"
    config = parse_config(RestorerConfig, [f"--config={path}", "--encoder=cqe_gray"])
    torch.manual_seed(0)
    trial = Trial(untrained(config), config, settings, DEVICE)
    return trial.gradients(*made_up_patches(2, 1, SIZE_PX))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_channels_last_and_bfloat16_gradients_are_near_the_plain_ones(name: str, precision: str) -> None:
    found = gradients(name, Settings(precision, channels_last=True))
    assert distance(found, gradients(name, Settings())) < TOLERANCES[precision]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_gradients_are_near_the_eager_ones(precision: str) -> None:
    """Of a small network: to compile the others takes minutes. `make train-for` checks the one that it trains."""
    eager, name = Settings(precision, channels_last=True), "fast_tiny_gray"
    assert distance(gradients(name, replace(eager, compile=True)), gradients(name, eager)) < TOLERANCES[precision]


def test_pinned_batches_arrive_whole_while_the_device_is_busy(config: RestorerConfig) -> None:
    """The loader's buffers are used again while copies from them may still be under way."""
    placement = Placement.of(config.trainer, DEVICE)
    numbers = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 256, 256)
    busy, moved = torch.rand(4096, 4096, device=DEVICE), []
    for (batch,) in DataLoader(TensorDataset(numbers), batch_size=2, pin_memory=placement.pins_batches):
        busy = busy @ busy / busy.norm()
        moved.append(placement.move({"x": batch})["x"])
    assert all(one.device.type == DEVICE.type for one in moved)
    torch.testing.assert_close(torch.cat(moved).cpu(), numbers, rtol=0, atol=0)


def train(config: RestorerConfig) -> dict:
    """Train by the script's own `run`, float32 without TensorFloat-32; returns the last checkpoint."""
    with process_group(config.trainer.device) as process, exact_float32():
        train_restorer.run(config, process)
    return read_newest(config.trainer.run_dir, stage="restorer")[1]


def changed(config: RestorerConfig, **trainer: object) -> RestorerConfig:
    return replace(config, trainer=replace(config.trainer, **trainer))


def assert_near(found: dict, expected: dict, config: RestorerConfig) -> None:
    """The weights moved alike in a few steps. Not to the bit: a GPU adds in another order each time, and Adam's first
    steps make as much of a small gradient, whose sign may then differ, as of a large one."""
    encoder = open_start(config, None).encoder  # first, as the script does: it draws random numbers
    torch.manual_seed(config.trainer.seed)
    network = build_restorer(config.network, encoder, config.data.channels)
    start = {f"restorer.{name}": value for name, value in network.state_dict().items()}
    moved, off = (
        torch.cat([(one[name] - other[name]).flatten() for name, value in start.items() if value.is_floating_point()])
        for one, other in ((expected["module"], start), (found["module"], expected["module"]))
    )
    assert moved.norm() > 0 and off.norm() < 0.05 * moved.norm()


@pytest.mark.parametrize(("optimizer", "num_workers"), [("adam", 0), ("muon", 2)])
def test_a_stopped_and_resumed_training_equals_an_uninterrupted_one(
    config: RestorerConfig, optimizer: str, num_workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(
        config,
        optim=replace(config.optim, name=optimizer),
        data=replace(config.data, num_workers=num_workers),
    )
    whole = train(changed(config, run_dir=str(tmp_path / "whole")))
    build_loader = engine.script.build_loader

    def stopping(*arguments: object, **options: object) -> object:
        for index, batch in enumerate(build_loader(*arguments, **options)):
            if index == 3:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as context:
        context.setattr(engine.script, "build_loader", stopping)
        with pytest.raises(Stopped):
            train(config)
    parts = train(changed(config, resume=True))
    assert parts["progress"]["step"] == whole["progress"]["step"] == 6
    assert_near(parts, whole, config)


def test_a_gpu_trains_as_a_cpu_does(config: RestorerConfig, tmp_path: Path) -> None:
    on_cpu = train(changed(config, run_dir=str(tmp_path / "cpu"), device="cpu"))
    assert_near(train(config), on_cpu, config)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
def test_a_loss_that_is_not_finite_harms_no_weight(
    config: RestorerConfig, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, optim=replace(config.optim, name=optimizer))
    loss, calls = train_restorer.RestorationObjective.forward, []

    def spoiled(self: object, degraded: Tensor, clean: Tensor) -> dict[str, Tensor]:
        calls.append(degraded)
        terms = loss(self, degraded, clean)
        return {name: value * (math.nan if len(calls) == 4 else 1) for name, value in terms.items()}

    monkeypatch.setattr(train_restorer.RestorationObjective, "forward", spoiled)
    with pytest.raises(FloatingPointError, match="is nan at step 3: stopped before the update"):
        train(changed(config, compile=False))
    state = read_newest(config.trainer.run_dir, stage="restorer")[1]
    assert all(value.isfinite().all() for value in state["module"].values())


def test_a_compiled_bfloat16_training_publishes_weights(config: RestorerConfig) -> None:
    train(changed(config, precision="bfloat16", channels_last=True, compile=True))
    run_dir = Path(config.trainer.run_dir)
    log = (run_dir / "log.txt").read_text()
    assert "compiled in" in log and "not compiled" not in log and "memory_gib" in log
    assert load_restorer(run_dir / "restorer.safetensors").channels == 1


def test_stage_1_trains_and_publishes_an_encoder_with_its_probe(tmp_path: Path) -> None:
    settings = cqe_settings(make_data_root(tmp_path / "data"), tmp_path / "run", device=DEVICE.type, precision="auto")
    with process_group(DEVICE.type) as process:
        train_cqe.run(parse_config(CqeConfig, [f"--config={write_config(tmp_path / 'cqe.yaml', settings)}"]), process)
    opened = open_weights(tmp_path / "run" / "encoder.safetensors", needs="encoder")
    assert opened.probe is not None and all(value.isfinite().all() for value in opened.encoder.state_dict().values())


def test_every_check_of_the_kit_passes(config: RestorerConfig, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = [f"--config={tmp_path / 'config.yaml'}", "--trainer.precision=auto", "--trainer.channels_last=true"]
    program.run("fit", "--output", tmp_path / "fitted.yaml", "--", *options)
    said = capsys.readouterr().out
    assert said.count("check passed") == 3 and "FAILED" not in said


@pytest.mark.ddp
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_equal_one(config: RestorerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")  # `train` has no TensorFloat-32 either
    alone = train(config)
    pair = tmp_path / "pair"
    script = ROOT / "train_restorer.py"
    done = run_python(script, f"--config={tmp_path / 'config.yaml'}", f"--trainer.run_dir={pair}", num_processes=2)
    assert done.returncode == 0, done.stderr
    assert_near(read_newest(pair, stage="restorer")[1], alone, config)
