"""The benchmark: its arithmetic, what its cases compute, its file. Nothing here depends on how fast anything is."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.machine import cpu_model
from data.augment import NUM_SYMMETRIES, symmetry
from data.color import to_image
from data.config import DataConfig
from data.jpeg import jpeg_roundtrip
from data.patches import RestorationPatches
from evaluation.scores.image_sets import ImageSet
from evaluation.scores.protocol import JpegSource, evaluate
from evaluation.speed import loader, networks, ratios, scoring, worker
from evaluation.speed.networks import BASELINE, network_rows, operations, run_in_turns, usual_cases
from evaluation.speed.worker import Case, Reading, Runner, build_network
from restoration.networks import FastOptions, NetworkConfig
from tests import program
from tests.patches import corners, noise, pack_images

SMALL = FastOptions(widths=(4, 4, 4), blocks_down=(1, 0, 0), blocks_up=(0, 0, 0))
ENCODER = {"in_channels": 1, "width": 8}


def small_case(kind: str = "step", *, is_ours: bool = True, **given: object) -> Case:
    network = NetworkConfig("fast", fast=SMALL).described()
    return Case(kind, is_ours, network, ENCODER, **({"batch_size": 2, "size_px": 16, "device": "cpu"} | given))


def test_a_row_is_work_over_the_median_seconds_and_ours_over_the_baseline() -> None:
    row = ratios.rates_row("x", [2.0, 1.0, 4.0], [8.0, 10.0, 9.0], "images/s", work=6, baseline_work=3)
    assert row == {
        "name": "x",
        "ours": 3.0,  # 6 / 2
        "baseline": 3 / 9,
        "unit": "images/s",
        "ratio": pytest.approx(9.0),
        "spread": [pytest.approx(4.5), pytest.approx(20.0)],  # (6 / 4) / (3 / 9) and (6 / 1) / (3 / 10)
        "rounds": 3,
    }


@pytest.mark.parametrize("seconds", [([], []), ([1.0], [1.0, 2.0])])
def test_a_row_needs_as_many_rounds_of_both(seconds: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="as many rounds of both"):
        ratios.rates_row("x", *seconds, "images/s")


def test_memory_is_in_megabytes_and_has_no_spread() -> None:
    row = ratios.memory_row("m", 3_000_000, 12_000_000)
    assert (row["ours"], row["baseline"], row["ratio"], row["spread"]) == (3.0, 12.0, 0.25, None)


def test_the_table_says_where_with_what_and_when() -> None:
    result = ratios.circumstances(torch.device("cpu"))
    assert result["versions"]["torch"] == torch.__version__ and result["machine"]["gpu"] == "none"
    rows = [ratios.rates_row("x", [1.0], [2.0], "images/s"), ratios.memory_row("m", 1, 2)]
    title, rows, notes = ratios.section(result | {"settings": {"batch": 3}, "rows": rows})
    assert rows[1:] == [["x", "1", "0.5", "images/s", "2", "2..2"], ["m", "1e-06", "2e-06", "MB", "0.5", "-"]]
    text = "\n".join([title, *notes])
    for expected in (torch.__version__, np.__version__, cpu_model(), result["date"], "batch 3"):
        assert str(expected) in text


def test_the_loaders_time_is_that_of_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is ours: a sample of the data set takes one second, a decoded image forty."""
    clock = [0.0]
    monkeypatch.setattr(loader, "process_time", lambda: clock[0])
    for owner, name, seconds in ((RestorationPatches, "__getitem__", 1), (loader, "field_sample", 40)):
        monkeypatch.setattr(owner, name, taking(seconds, getattr(owner, name), clock))
    luma, colour = loader.loader_rows(2, size_px=(48, 40), config=DataConfig(patch_size_px=16))
    for row in (luma, colour):
        assert (row["ours"], row["baseline"], row["ratio"], row["rounds"]) == (1.0, 1 / 40, 40.0, 2)
    assert "luma" in luma["name"] and "colour" in colour["name"]


def taking(seconds: float, function: Callable, clock: list[float]) -> Callable:
    def timed(*arguments: object) -> object:
        clock[0] += seconds
        return function(*arguments)

    return timed


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_of_the_fields_is_a_patch_of_the_image_and_its_coded_twin(tmp_path: Path, channels: int) -> None:
    image = noise(40, 48)
    config = DataConfig(channels=channels, patch_size_px=16, qualities=[30])
    dataset = RestorationPatches([pack_images(tmp_path, image)], config, seed=0)
    rng = np.random.default_rng(1)
    for _ in range(3):
        degraded, clean = map(to_image, loader.field_sample([tmp_path / "set" / "0.png"], dataset, rng))
        turned = (np.ascontiguousarray(symmetry(image, index)) for index in range(NUM_SYMMETRIES))
        planes = (loader.luma(view) if channels == 1 else view for view in turned)
        patch = torch.from_numpy(clean.reshape(16, 16, channels)).permute(2, 0, 1)
        assert sum(len(corners(patch, plane)) for plane in planes) == 1
        np.testing.assert_array_equal(degraded, jpeg_roundtrip(clean, 30))


def test_our_scores_are_those_of_the_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "NUM_IMAGES", 4)
    monkeypatch.setattr(scoring, "SIZE_PX", (61, 43))
    paths = scoring.write_images(tmp_path)
    assert len({path.read_bytes() for path in paths}) == 4
    expected = scoring.plain_loop(paths)
    sets = [ImageSet("speed", paths)]
    found = evaluate(JpegSource(), sets, scoring.QUALITIES, "gray", method="jpeg", workers=2)["results"]["speed"]
    assert len(expected) == 4 * len(scoring.QUALITIES) == sum(len(scores["images"]) for scores in found.values())
    for (quality, stem), scores in expected.items():
        ours = found[str(quality)]["images"][stem]
        assert [ours[name] for name in ("psnr", "ssim", "psnrb")] == pytest.approx(scores, abs=1e-9)
    monkeypatch.setattr(scoring, "QUALITIES", (20,))
    clock = iter([0.0, 2.0, 10.0])  # before ours, between, after the loop
    monkeypatch.setattr(scoring, "perf_counter", lambda: next(clock))
    row = scoring.scoring_row(1, workers=1, folder=tmp_path)
    assert (row["ours"], row["baseline"], row["ratio"]) == (4 / 2, 4 / 8, 4.0)


def test_a_round_repeats_short_calls_and_gives_the_seconds_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shapes = [0.0], []
    monkeypatch.setattr(worker, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(worker, "MATMUL_SIDE", {"cpu": 8})
    monkeypatch.setattr(torch, "mm", taking(0.3, lambda left, right: shapes.append(left.shape), clock))
    runner = Runner(small_case("matmul"))
    before = len(shapes)
    assert runner.round().seconds == pytest.approx(0.3)
    assert len(shapes) == before + 1 + 4 and set(shapes) == {(8, 8)}  # one to warm up, then more than a second


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_step_trains_all_but_the_encoder(monkeypatch: pytest.MonkeyPatch, is_ours: bool) -> None:
    monkeypatch.setattr(worker, "ROUND_SECONDS", 1e-9)  # one call a round
    torch.manual_seed(3)
    start = build_network(small_case()).state_dict()
    torch.manual_seed(3)
    runner = Runner(small_case(is_ours=is_ours))
    reading = runner.round()  # the second step: the last layer, which starts at zero, lets gradients pass from here on
    end = runner.model.restorer.state_dict()
    assert {name for name in start if torch.equal(start[name], end[name])} == {
        name for name in start if name.startswith("encoder.")
    }
    is_channels_last = end["down2.0.body.0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert is_channels_last == is_ours and reading.settings.endswith("channels-last" if is_ours else "float32 NCHW")


def test_inference_runs_the_network_in_eval_mode_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ROUND_SECONDS", 1e-9)
    runner = Runner(small_case("inference"))
    seen = []
    runner.model.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    runner.round()
    ((image, restored),) = seen
    assert image.shape == restored.shape == (2, 1, 16, 16)
    assert not runner.model.training and restored.is_inference()


@pytest.mark.parametrize("kind", ["inference", "step"])
def test_operations_are_counted_layer_by_layer(kind: str) -> None:
    """Two to a multiply-accumulate; back: as many for the weights, and for an input that has a gradient."""
    case = small_case(kind)
    network, total = build_network(case), 0

    def count(layer: nn.Conv2d, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        forward = 2 * layer.weight.numel() * output.numel() // output.shape[1]
        is_trained = kind == "step" and layer.weight.requires_grad
        total += forward * (1 + is_trained + (is_trained and inputs[0].requires_grad))

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network(torch.rand(2, 1, 16, 16))
    assert operations(case) == total


def test_the_usual_cases_are_the_configured_networks_and_the_release() -> None:
    cases = usual_cases(8, 256, torch.device("cpu"), compile_step="auto")
    assert list(cases) == [BASELINE, "paper", "fast", "tiny"]
    release = build_network(cases.pop(BASELINE))
    assert all(stage.released_fusion for stage in release.stages)
    assert sum(parameter.numel() for parameter in release.parameters()) == pytest.approx(13.9e6, rel=0.01)  # the paper
    for case in cases.values():
        assert (case.is_ours, case.compile, case.batch_size, case.size_px) == (True, "auto", 8, 256)
        build_network(case)
    assert not any(stage.released_fusion for stage in build_network(cases["paper"]).stages)


def test_rows_of_networks_are_ratios_to_the_release_and_to_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {BASELINE: [8.0, 10.0, 12.0], "small": [2.0, 2.0, 2.0], "matmul": [0.5, 0.5, 0.5]}
    peaks = {BASELINE: 6_000_000, "small": 2_000_000, "matmul": 0}

    def turns(cases: dict[str, Case], num_rounds: int, title: str) -> dict[str, list[Reading]]:
        assert list(cases) == list(seconds) and num_rounds == 3
        assert cases["small"].kind == cases[BASELINE].kind in title.replace("training ", "")
        assert cases["matmul"].kind == "matmul" and cases["matmul"].is_ours
        return {name: [Reading(x, peaks[name], f"{name}'s") for x in seconds[name]] for name in cases}

    monkeypatch.setattr(networks, "run_in_turns", turns)
    monkeypatch.setattr(networks, "MATMUL_SIDE", {"cpu": 1000})
    case = small_case()
    rows, settings = network_rows({BASELINE: small_case(is_ours=False), "small": case}, 3)
    assert [row["unit"] for row in rows] == 2 * ["images/s", "MB", "TFLOP/s"]
    speed, memory, share = rows[:3]
    assert (speed["ours"], speed["baseline"], speed["ratio"]) == (1.0, 0.2, pytest.approx(5.0))
    assert speed["spread"] == [pytest.approx(4.0), pytest.approx(6.0)]
    assert (memory["ours"], memory["baseline"], memory["ratio"]) == (2.0, 6.0, pytest.approx(1 / 3))
    assert share["baseline"] == pytest.approx(2 * 1000**3 / 0.5 / 1e12)
    assert share["ours"] == pytest.approx(operations(case) / 2.0 / 1e12)
    assert settings["small (training step)"] == "small's" and len(settings) == 6


@pytest.mark.ddp
@pytest.mark.slow
def test_each_case_runs_in_a_process_of_its_own_that_ends_with_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(networks.subprocess, "Popen", Recorded)
    readings = run_in_turns({"x": small_case(), "y": small_case("inference", is_ours=False)}, 1, "test")
    assert {name: len(rounds) for name, rounds in readings.items()} == {"x": 1, "y": 1}
    assert all(reading.seconds > 0 for (reading,) in readings.values())
    assert readings["y"][0].settings == "float32 NCHW"
    with pytest.raises(ValueError, match="z: inference does not fit into the cpu memory: choose fewer or smaller"):
        run_in_turns({"z": small_case("inference", batch_size=10**12)}, 1, "test")
    assert len(started) == 3 and all(process.poll() is not None for process in started)


def test_the_command_writes_and_prints_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    row = ratios.rates_row("the row", [1.0], [2.0], "images/s")
    monkeypatch.setattr(loader, "loader_rows", lambda num_rounds: [row] * num_rounds)
    monkeypatch.setattr(scoring, "scoring_row", lambda num_rounds, workers: row)
    monkeypatch.setattr(
        networks, "network_rows", lambda cases, num_rounds: ([row], {"paper": f"{cases['paper'].compile}"})
    )
    file = tmp_path / "new" / "speed.json"
    given = ["--rounds", "1", "--size", "64", "--compile", "off", "--device", "cpu"]
    program.run("benchmark", "--json", str(file), *given)
    result = json.loads(file.read_text())
    assert set(result) == {"machine", "versions", "date", "settings", "rows"}
    assert result["settings"] == {"batch": 1, "size": 64, "compile": "off", "paper": "False"}
    assert result["rows"] == [row] * 7
    assert "the row" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--rounds", "0"], "must be a whole number of at least 1, got 0"),
        (["--batch", "-1"], "must be a whole number of at least 1, got -1"),
        (["--size", "big"], "must be a whole number of at least 1, got big"),
        (["--compile", "maybe"], "invalid choice: 'maybe'"),
        (["--json", "speed.png"], "speed.png is named like a picture"),
    ],
)
def test_a_mistake_is_one_line(given: list[str], complaint: str, refusal: Callable) -> None:
    assert complaint in refusal("benchmark", *given)
