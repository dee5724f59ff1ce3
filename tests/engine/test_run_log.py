"""The log of a run: lines, and what TensorBoard reads back."""

import io
import json
import logging
import math
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.distributed import Process
from engine.run_log import RunLog, described

MAIN, OTHER = (Process(rank, 2, torch.device("cpu")) for rank in (0, 1))


def read_back(run_dir: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "images": 0})  # 0: keep all
    return accumulator.Reload()


def test_scalars_are_curves_by_group_name_and_step(tmp_path: Path) -> None:
    with closing(RunLog(tmp_path, MAIN)) as log:
        log.scalars({"total": 0.5, "mae": 0.25}, 1, group="loss")
        log.scalars({"total": 0.125}, 7, group="loss")
        log.scalars({"lr": 1e-3}, 7, group="train")
    found = read_back(tmp_path)
    curves = {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert curves == {
        "loss/total": [(1, 0.5), (7, 0.125)],
        "loss/mae": [(1, 0.25)],
        "train/lr": [(7, pytest.approx(1e-3))],
    }


def test_a_resumed_run_replaces_the_steps_that_it_makes_again_and_no_others(tmp_path: Path) -> None:
    for first_step, values in ((0, {1: 0.1, 2: 0.2, 3: 0.3}), (2, {3: 0.5})):
        with closing(RunLog(tmp_path, MAIN, first_step=first_step)) as log:
            for step, value in values.items():
                log.scalars({"total": value}, step, group="loss")
    events = read_back(tmp_path).Scalars("loss/total")
    # Two steps were done when the second part began, so step 3 is made again.
    assert [(event.step, event.value) for event in events] == [
        (1, pytest.approx(0.1)),
        (2, pytest.approx(0.2)),
        (3, 0.5),
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_comes_back_with_its_pixels(tmp_path: Path, channels: int) -> None:
    levels = torch.arange(channels * 6).reshape(channels, 2, 3) * 10
    with closing(RunLog(tmp_path, MAIN)) as log:
        log.picture("quality_10/0", levels / 255, 4)
        log.picture("clamped", torch.full((channels, 2, 3), 1.5), 4)
    found = read_back(tmp_path)
    (event,) = found.Images("quality_10/0")
    picture = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))
    assert event.step == 4
    np.testing.assert_array_equal(picture, levels.expand(3, 2, 3).permute(1, 2, 0).numpy())
    (event,) = found.Images("clamped")
    assert (np.asarray(Image.open(io.BytesIO(event.encoded_image_string))) == 255).all()


def test_points_are_written_for_the_projector_with_their_labels(tmp_path: Path) -> None:
    rows = torch.tensor([[0.5, -1.0], [0.25, 2.0], [3.0, 4.0]])
    with closing(RunLog(tmp_path, MAIN)) as log:
        log.points("representation", rows, ["Q10", "Q20", "Q10"], 5)
    (table,), (labels,) = tmp_path.rglob("tensors.tsv"), tmp_path.rglob("metadata.tsv")
    np.testing.assert_allclose(np.loadtxt(table, delimiter="\t"), rows.numpy())
    assert labels.read_text().split() == ["Q10", "Q20", "Q10"]
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert "representation" in config
    assert all(json.dumps(path.relative_to(tmp_path).as_posix()) in config for path in (table, labels))


def test_scalars_are_also_lines_of_json(tmp_path: Path) -> None:
    with closing(RunLog(tmp_path, MAIN)) as log:
        log.scalars({"total": 0.5, "mae": 0.25}, 1, group="loss")
        log.scalars({"psnr": math.inf}, 2, group="validation")
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "loss/total": 0.5, "loss/mae": 0.25}, {"step": 2, "validation/psnr": None}]


@pytest.mark.parametrize(("first_step", "kept"), [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_a_resumed_run_keeps_the_lines_of_its_earlier_steps(tmp_path: Path, first_step: int, kept: list[int]) -> None:
    with closing(RunLog(tmp_path, MAIN)) as log:
        for step in (1, 2, 3):
            log.scalars({"total": 0.5}, step, group="loss")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "val')  # killed while it wrote
    with closing(RunLog(tmp_path, MAIN, first_step=first_step)) as log:
        log.scalars({"total": 0.25}, first_step + 1, group="loss")
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*kept, first_step + 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_latest_picture_is_a_png(tmp_path: Path, channels: int) -> None:
    levels = torch.arange(channels * 6, dtype=torch.uint8).reshape(channels, 2, 3) * 10
    with closing(RunLog(tmp_path, MAIN)) as log:
        log.picture("quality_10/0: input, output, truth", torch.zeros(channels, 2, 3), 1)
        log.picture("quality_10/0: input, output, truth", levels / 255, 2)
    (path,) = (tmp_path / "pictures").iterdir()
    assert path.name == "quality_10_0_input_output_truth.png"
    picture = np.asarray(Image.open(path)).reshape(2, 3, channels)
    np.testing.assert_array_equal(picture, levels.permute(1, 2, 0).numpy())


def test_ranks_other_than_0_write_nothing(tmp_path: Path) -> None:
    with closing(RunLog(tmp_path, OTHER)) as log:
        log.line("unseen")
        log.advance(2, "note")
        log.scalars({"total": 1.0}, 1, group="loss")
        log.picture("picture", torch.zeros(1, 2, 2), 1)
        log.points("points", torch.zeros(2, 2), ["a", "b"], 1)
    assert not list(tmp_path.iterdir())


def test_lines_go_to_the_terminal_and_the_file_of_this_run_only(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "later").mkdir()
    before = list(logging.getLogger().handlers)
    with closing(RunLog(tmp_path, MAIN)) as log:
        log.line("first")
    with closing(RunLog(tmp_path / "later", MAIN)) as log:
        log.line("second")
    assert [line.split(" ", 1)[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["first"]
    assert [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()] == ["first", "second"]
    assert logging.getLogger().handlers == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_file_that_cannot_be_written_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    log = RunLog(tmp_path, MAIN)
    for _ in range(3):
        log.line("a line")
    with pytest.raises(OSError, match="No space left"):  # the run's end says it once more, by its status
        log.close()
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.endswith("a line") for line in lines) == 3
    assert sum("log.txt cannot be written: [Errno 28]" in line for line in lines) == 1 and len(lines) == 4


def test_numbers_are_described_with_four_digits() -> None:
    assert described({"mae": 0.012345, "psnr": 29.0412}) == "mae 0.01235  psnr 29.041"
