"""Fitting a training to a machine: what is left out, which sizes are chosen, and the whole on a small network."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

import train_restorer
from engine.config import parse_config
from evaluation.speed import fitting
from evaluation.speed.fitting import (
    Fit,
    Fitting,
    checked,
    chosen_batch,
    chosen_workers,
    distance,
    read_batches,
    samples_per_second,
)
from evaluation.speed.trials import Reading, Settings, Trial, made_up_patches
from restoration.config import RestorerConfig
from restoration.objective import RestorationObjective
from restoration.weights import load_restorer
from tests import program
from tests.networks import TINY, save_tiny, tiny_restorer
from tests.synthetic import make_data_root, restorer_settings, write_config

CPU = torch.device("cpu")
ALL = Settings("bfloat16", channels_last=True, compile=True)
GIB = 2**30


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def config(tmp_path: Path) -> RestorerConfig:
    """A training that lasts a moment, around a small network's own encoder."""
    settings = restorer_settings(
        make_data_root(tmp_path / "data"), tmp_path / "run", save_tiny(tmp_path / "encoder.st")
    )
    return parse_config(RestorerConfig, ["--config", str(write_config(tmp_path / "config.yaml", settings))])


def gradients_of(errors: dict[str, float | str]) -> Callable[[Settings], list[Tensor]]:
    """Rows whose distance from (1, 0) is the sum of the errors of the settings, by name; a text is an error raised."""

    def gradients(settings: Settings) -> list[Tensor]:
        found = 0.0
        for name, error in errors.items():
            if getattr(settings, name) != getattr(Settings(), name):
                if isinstance(error, str):
                    raise RuntimeError(error)
                found += error
        return [torch.tensor([1.0, found])]

    return gradients


@pytest.mark.parametrize(
    ("errors", "left"),
    [
        ({}, ALL),
        ({"precision": 0.3}, ALL),
        ({"precision": 0.5}, replace(ALL, precision="float32")),
        ({"precision": float("nan")}, replace(ALL, precision="float32")),
        ({"channels_last": "no kernel\nfor it"}, replace(ALL, channels_last=False)),
        ({"compile": 0.5}, replace(ALL, compile=False)),
        ({"compile": "a", "channels_last": "b", "precision": 9.0}, Settings()),
        # Without bfloat16, less is allowed.
        ({"precision": 0.5, "compile": 0.05}, Settings(channels_last=True)),
    ],
)
def test_settings_with_wrong_gradients_are_left_out_and_said(errors: dict, left: Settings, lines: list[str]) -> None:
    assert checked(Settings(), ALL, gradients_of(errors), lines.append) == left
    assert len(lines) == 3
    failed = [line for line in lines if "FAILED, left out" in line]
    assert len(failed) == sum(
        getattr(left, name) != getattr(ALL, name) for name in ("precision", "channels_last", "compile")
    )
    if "channels_last" in errors and len(errors) == 1:
        assert failed == ["check FAILED, left out: eager, bfloat16, channels-last: no kernel for it"]


def test_what_is_not_wanted_is_not_checked(lines: list[str]) -> None:
    assert checked(Settings(), Settings(), gradients_of({}), lines.append) == Settings() and not lines


def test_the_distance_is_that_of_the_worst_tensor_relative_to_its_reference() -> None:
    large, small, none = torch.tensor([3000.0, 4000.0]), torch.tensor([3.0, 4.0]), torch.zeros(2)
    reference = [large, small, none]
    assert distance([large, torch.tensor([3.0, 4.5]), none], reference) == pytest.approx(0.1)
    assert distance([large, none, none], reference) == 1  # a thousandth of the whole gradient, and all of one tensor's
    # Where there should be no gradient, rounding counts against a hundred thousandth of the whole.
    assert distance([large, small, torch.tensor([0.0, 1e-3])], reference) == pytest.approx(0.02)
    assert distance(reference, reference) == 0
    with pytest.raises(RuntimeError, match="2 tensors have gradients, not 3"):
        distance(reference[:2], reference)


def machine(speeds: dict[int, float], *, fixed: float = 1.0, each: float = 1.0, room: int = 10**9) -> Callable:
    """Readings of a device with these images/s at each batch size; memory in GiB. `room` images fit."""

    def read(size: int) -> Reading | None:
        return None if size > room else Reading(size / speeds[size], int((fixed + each * size) * GIB))

    return read


@pytest.mark.parametrize(
    ("read", "limits", "tried", "chosen"),
    [
        # The speed stops growing at 32; 16 is within a tenth of it.
        (machine({4: 50, 8: 100, 16: 190, 32: 200, 64: 200}), {}, [4, 8, 16, 32, 64], 16),
        # 16 would take 17 GiB.
        (machine({4: 10, 8: 20, 16: 40}), {"limit_bytes": 16 * GIB}, [4, 8], 8),
        (machine({4: 10, 8: 20, 16: 40}), {"limit_bytes": 17 * GIB}, [4, 8, 16], 16),
        (machine({4: 10, 8: 20}), {"largest": 9}, [4, 8], 8),
        # Memory runs out where it was not foreseen.
        (machine({4: 10, 8: 20, 16: 40}, each=0.0, room=9), {}, [4, 8], 8),
        # Not even the first size fits: smaller ones are tried.
        (machine({4: 10, 2: 6, 1: 3}, room=2), {}, [2], 2),
        (machine({}, room=0), {}, [], None),
        (machine({4: 10, 8: 20, 16: 40}, each=0.0), {"limit_bytes": 4 * GIB, "failing": 16}, [4, 8], 8),
    ],
)
def test_the_batch_grows_until_speed_or_memory_stops_it(
    read: Callable, limits: dict, tried: list[int], chosen: int | None, lines: list[str]
) -> None:
    options = {"largest": 64, "limit_bytes": 1000 * GIB} | limits
    failing = options.pop("failing", None)

    def read_or_fail(size: int) -> Reading | None:
        if size == failing:
            raise RuntimeError("CUFFT_INTERNAL_ERROR")
        return read(size)

    readings = read_batches(read_or_fail, start=4, say=lines.append, **options)
    assert list(readings) == tried
    assert not readings or chosen_batch(readings) == chosen
    assert failing is None or lines[-1] == "  batch 16: failed: CUFFT_INTERNAL_ERROR"


@pytest.mark.parametrize(("device", "fits"), [("cuda", False), ("cpu", True)])
def test_a_step_that_leaves_no_room_for_validation_does_not_fit(
    device: str, fits: bool, config: RestorerConfig, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """On a CPU the peak is that of all steps so far; a smaller batch would never fit."""
    reading = Reading(1.0, 80 * GIB)
    monkeypatch.setattr(fitting, "memory_limit", lambda device: 90 * GIB)
    monkeypatch.setattr(Trial, "__init__", lambda self, *arguments: None)
    monkeypatch.setattr(Trial, "read", lambda self, *patches: reading)
    found = Fitting(tiny_restorer(), config, torch.device(device), lines.append)._read(Settings(), 8, 32)
    assert found == (reading if fits else None)


def test_an_error_of_the_first_batch_is_raised() -> None:
    def failing(size: int) -> Reading:
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        read_batches(failing, start=4, largest=8, limit_bytes=GIB, say=print)


@pytest.mark.parametrize(
    ("needed", "of_one", "most", "expected"),
    [(800, 250, 15, 5), (8000, 250, 15, 15), (1, 250, 15, 1), (800, 250, 1, 1)],
)
def test_the_loader_gets_as_many_workers_as_feed_the_device(
    needed: float, of_one: float, most: int, expected: int, lines: list[str]
) -> None:
    assert chosen_workers(needed, of_one, most, lines.append) == expected
    assert ("TOO SLOW" in lines[0]) == (expected * of_one < needed)


@pytest.mark.parametrize(
    ("cores", "free_mib", "most", "is_said"),
    [(16, 10_000, 15, False), (16, 64, 8, True), (16, 1, 0, True), (1, 64, 1, False)],
)
def test_workers_have_room_for_their_batches_in_shared_memory(
    cores: int,
    free_mib: int,
    most: int,
    is_said: bool,
    config: RestorerConfig,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[str],
) -> None:
    """A batch of 8 luma pairs of 256 pixels takes 1 MiB; a worker holds four, and half the memory is theirs."""
    monkeypatch.setattr(fitting, "usable_cores", lambda: cores)
    monkeypatch.setattr(fitting, "shared_memory", lambda: free_mib * 2**20)
    assert Fitting(tiny_restorer(), config, CPU, lines.append)._most_workers(8, 256) == most
    assert [f"room for the batches of {most} worker(s)" in line for line in lines] == [True] * is_said


def test_a_training_without_workers_is_said_to_wait(lines: list[str]) -> None:
    assert chosen_workers(800, 250, 0, lines.append) == 0
    assert "no worker" in lines[0]


def test_the_speed_of_the_loader_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first use of an image reads it and compares its checksum. That is not counted."""
    clock, used = [0.0], set()

    class Samples:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, position: tuple[int, int]) -> int:
            assert position[1] < 3
            clock[0] += 0.25 if position[1] in used else 10.0
            used.add(position[1])
            return 0

    monkeypatch.setattr(fitting, "perf_counter", lambda: clock[0])
    assert samples_per_second(Samples()) == 4.0


def test_gradients_reach_every_weight_and_stay_near_in_bfloat16(config: RestorerConfig) -> None:
    network = tiny_restorer()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    config = replace(config, network=TINY)
    patches = made_up_patches(2, 1, 32)
    plain, half = (
        Trial(network, config, Settings(precision), CPU).gradients(*patches) for precision in ("float32", "bfloat16")
    )
    assert [one.shape for one in plain] == [value.shape for value in network.parameters() if value.requires_grad]
    assert (torch.cat([one.flatten() for one in plain]) != 0).float().mean() > 0.9  # ReLUs may switch some off
    assert 0 < distance(half, plain) < fitting.TOLERANCES["bfloat16"]
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)


def test_gradients_are_compared_without_tensorfloat_32(config: RestorerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    found, forward = [], RestorationObjective.forward

    def watched(self: RestorationObjective, *images: Tensor) -> dict[str, Tensor]:
        found.append(torch.backends.cudnn.allow_tf32)
        return forward(self, *images)

    monkeypatch.setattr(RestorationObjective, "forward", watched)
    before = torch.backends.cudnn.allow_tf32
    trial = Trial(tiny_restorer(), config, Settings(), CPU)
    trial.gradients(*made_up_patches(1, 1, 16))
    assert found == [False] and torch.backends.cudnn.allow_tf32 == before


def test_a_step_computes_activations_again_where_the_config_says_so(config: RestorerConfig) -> None:
    for is_on in (False, True):
        trial = Trial(tiny_restorer(), replace(config, recompute_activations=is_on), Settings(), CPU)
        assert any(getattr(module, "is_recomputed", False) for module in trial.model.modules()) == is_on


def test_a_step_that_cannot_be_compiled_is_left_out(
    config: RestorerConfig, monkeypatch: pytest.MonkeyPatch, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def failing(function: Callable, **options: object) -> Callable:
        def call(*inputs: Tensor) -> None:
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", failing)

    def gradients(settings: Settings) -> list[Tensor]:
        return Trial(tiny_restorer(), config, settings, CPU).gradients(*made_up_patches(1, 1, 16))

    with caplog.at_level(logging.WARNING):
        assert checked(Settings(), Settings(compile=True), gradients, lines.append) == Settings()
    assert "torch.compile did not work" in lines[0] and "no compiler" in caplog.text


def test_the_patch_is_halved_where_no_batch_fits(
    config: RestorerConfig, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    config = replace(config, data=replace(config.data, patch_size_px=128))
    sizes = []

    def read(self: Fitting, settings: Settings, batch_size: int, size_px: int) -> Reading | None:
        sizes.append(size_px)
        return Reading(1.0, GIB) if size_px <= largest else None

    monkeypatch.setattr(Fitting, "_read", read)
    largest = 64
    found, readings = Fitting(tiny_restorer(), config, CPU, lines.append)._readings(Settings(), 8)
    assert found == 64 and sorted(set(sizes)) == [64, 128] and readings
    largest = 0
    with pytest.raises(
        ValueError, match="no step fits into the memory of cpu, however small: choose a smaller network"
    ):
        Fitting(tiny_restorer(), config, CPU, lines.append)._readings(Settings(), 8)


def test_a_step_that_needs_too_much_memory_is_told_from_one_that_fails() -> None:
    def failing(message: str) -> Reading:
        raise RuntimeError(message)

    assert fitting.within_memory(lambda: Reading(1.0, 2)) == Reading(1.0, 2)
    assert fitting.within_memory(lambda: failing("CUDA out of memory. Tried to allocate 2 GiB")) is None
    with pytest.raises(RuntimeError, match="no kernel"):
        fitting.within_memory(lambda: failing("no kernel image"))


@pytest.mark.parametrize(("seconds", "is_kept"), [(0.5, True), (2.0, False)])
def test_a_compiled_step_is_kept_if_it_is_faster(
    seconds: float, is_kept: bool, config: RestorerConfig, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(Trial, "gradients", lambda self, *patches: torch.ones(3))
    monkeypatch.setattr(Trial, "read", lambda self, *patches: Reading(seconds, GIB))
    plain = Settings()
    found = Fitting(tiny_restorer(), config, CPU, lines.append)._compiled(plain, 2, 16, 1.0)
    assert found == ((replace(plain, compile=True), 0.5) if is_kept else (plain, 1.0))
    assert ("2.00 times as fast" if is_kept else "not faster") in lines[-1]


def test_the_overlay_validates_ten_times() -> None:
    overlay = Fit(Settings("bfloat16", True, False), 32, 256, 15, steps_per_second=20).overlay(25)
    assert overlay["data"] == {"batch_size": 32, "patch_size_px": 256, "num_workers": 15}
    assert overlay["trainer"] == {
        "precision": "bfloat16", "channels_last": True, "compile": False, "validate_every_steps": 3000,
        "epochs": 1_000_000, "max_steps": None, "micro_batches": 1,
    }  # fmt: skip


def test_a_training_is_fitted_run_and_stored_as_the_makefile_does(
    tmp_path: Path, config: RestorerConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("evaluation.speed.trials.TIMED_SECONDS", 0.0)
    monkeypatch.setattr(fitting, "LOADER_SECONDS", 0.0)
    fitted, given = tmp_path / "fitted.yaml", [f"--config={tmp_path / 'config.yaml'}", "--trainer.max_minutes=1"]
    program.run("fit", "--output", fitted, "--", *given)
    said = capsys.readouterr().out
    assert "chosen: batch" in said and "loader: " in said and "eager, float32, NCHW" in said
    overlay = yaml.safe_load(fitted.read_text())
    assert overlay["data"]["patch_size_px"] == 32 and 4 <= overlay["data"]["batch_size"] <= 8
    before = fitted.read_bytes()
    program.run("fit", "--output", fitted, "--", *given)
    assert "is kept" in capsys.readouterr().out and fitted.read_bytes() == before
    # For ten times the minutes, validations are ten times as far apart; all else stays.
    program.run("fit", "--output", fitted, "--", given[0], "--trainer.max_minutes=10")
    assert "for 10 minutes" in capsys.readouterr().out
    longer = yaml.safe_load(fitted.read_text())
    every = [part["trainer"].pop("validate_every_steps") for part in (overlay, longer)]
    assert every[1] == pytest.approx(10 * every[0], abs=5) and longer == overlay
    fitted.write_bytes(before)
    arguments = ["train", given[0], f"--config={fitted}", "--trainer.max_steps=1", "--data.num_workers=0"]
    monkeypatch.setattr("sys.argv", arguments)
    train_restorer.main()
    program.run(
        "publish", "--weights", tmp_path / "run" / "restorer.safetensors", "--output", tmp_path / "n.safetensors"
    )
    assert load_restorer(tmp_path / "n.safetensors").channels == 1


def test_an_encoder_of_other_channels_is_refused(
    tmp_path: Path, config: RestorerConfig, refusal: Callable[..., str]
) -> None:
    given = [f"--config={tmp_path / 'config.yaml'}", "--data.channels=3"]
    assert "3 channel(s) are needed" in refusal("fit", "--output", tmp_path / "fitted.yaml", "--", *given)
