"""A run's folder: one run at a time, the newest checkpoints kept, damaged ones passed over."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from common.files import written_whole
from engine.checkpoint import save_checkpoint
from engine.config import TrainerConfig, parse_config
from engine.distributed import Process
from engine.run_folder import (
    LOCK_NAME,
    check_run_dir,
    list_checkpoints,
    locked_run_dir,
    open_run_dir,
    read_newest,
    save_step,
)
from tests.engine.line import Config

NUMBER_20 = torch.tensor(20.0).numpy().tobytes()
ALONE = Process(0, 1, torch.device("cpu"))


def state(step: int) -> dict:
    return {"stage": "line", "progress": {"step": step}, "module": {"w": torch.full((100,), float(step))}}


def save_steps(run_dir: Path, *steps: int, keep: int = 2) -> list[str]:
    run_dir.mkdir(exist_ok=True)
    for step in steps:
        save_step(run_dir, step, state(step), keep=keep)
    return [path.name for path in list_checkpoints(run_dir)]


def newest_step(run_dir: Path) -> int:
    return read_newest(run_dir, stage="line")[1]["progress"]["step"]


def trainer(run_dir: Path, **given: object) -> TrainerConfig:
    return TrainerConfig(run_dir=str(run_dir), device="cpu", **given)


def test_the_newest_are_kept_and_named_by_step(tmp_path: Path) -> None:
    assert save_steps(tmp_path, 5, 10, 99, keep=2) == ["checkpoint_000000099.pt", "checkpoint_000000010.pt"]
    assert save_steps(tmp_path, 99, keep=2) == ["checkpoint_000000099.pt", "checkpoint_000000010.pt"]  # saved again
    assert save_steps(tmp_path, 1_000_000_000, keep=1) == ["checkpoint_1000000000.pt"]
    assert newest_step(tmp_path) == 1_000_000_000


def test_the_checkpoint_of_an_older_version_counts_as_the_oldest(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint.pt", state(7))
    (tmp_path / "other.pt").touch()
    assert newest_step(tmp_path) == 7
    assert save_steps(tmp_path, 8) == ["checkpoint_000000008.pt", "checkpoint.pt"]
    assert save_steps(tmp_path, 9) == ["checkpoint_000000009.pt", "checkpoint_000000008.pt"]
    assert (tmp_path / "other.pt").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.write_bytes(
            path.read_bytes().replace(state(20)["module"]["w"].numpy().tobytes(), bytes(400))
        ),
    ],
    ids=["cut short", "empty", "zeros", "zeros within"],
)
def test_a_damaged_newest_one_is_passed_over_and_replaced(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    save_steps(tmp_path, 10, 20)
    damage(tmp_path / "checkpoint_000000020.pt")
    with caplog.at_level(logging.WARNING):
        assert newest_step(tmp_path) == 10
    (warning,) = caplog.messages
    assert warning.startswith("passed over: ") and "checkpoint_000000020.pt" in warning
    # The run that goes on at 10 saves at 15. The damaged one is then neither kept nor counted.
    assert save_steps(tmp_path, 15) == ["checkpoint_000000015.pt", "checkpoint_000000010.pt"]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_again(tmp_path: Path) -> None:
    save_steps(tmp_path, 10, 20)
    for path in list_checkpoints(tmp_path):
        os.truncate(path, 50)
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read \(.*checkpoint_000000010\.pt .*\): start"):
        newest_step(tmp_path)


def test_whether_a_run_is_there_must_fit_what_is_asked(tmp_path: Path) -> None:
    none, some = tmp_path / "none", tmp_path / "some"
    save_steps(some, 1)
    for resume in ("auto", False):
        check_run_dir(trainer(none, resume=resume))
    for resume in ("auto", True):
        check_run_dir(trainer(some, resume=resume))
    with pytest.raises(FileNotFoundError, match=r"nothing to resume: no checkpoint in .*none; .*set it to auto"):
        check_run_dir(trainer(none, resume=True))
    with pytest.raises(ValueError, match=r"some already holds a run: set trainer.resume to go on, or choose another"):
        check_run_dir(trainer(some))
    assert not none.exists()


@pytest.mark.parametrize("below", ["", "below"])
def test_a_run_directory_that_cannot_be_made_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file") as caught:
        check_run_dir(trainer(tmp_path / "file" / below))
    assert "\n" not in str(caught.value)


def test_two_runs_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.run_folder.LOCK_WAIT_SECONDS", 0.1)
    run_dir = tmp_path / "deep" / "run"
    with locked_run_dir(trainer(run_dir), ALONE):
        if (child := os.fork()) == 0:  # another process: what holds here must hold between two trainings
            try:
                with locked_run_dir(trainer(run_dir, resume="auto"), ALONE):
                    os._exit(0)
            except BlockingIOError as error:
                is_named = str(error) == (
                    f"another run uses {run_dir}: wait for its end, stop it, or choose another trainer.run_dir"
                )
                os._exit(3 if is_named else 4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        with locked_run_dir(trainer(run_dir), Process(1, 2, torch.device("cpu"))):
            pass  # another rank of the same run
    assert list((tmp_path / "deep").iterdir()) == []  # nothing was written, so nothing is left


def test_a_killed_run_holds_its_folder_no_longer(tmp_path: Path) -> None:
    ready, begin = os.pipe()
    if (child := os.fork()) == 0:
        with locked_run_dir(trainer(tmp_path / "run"), ALONE):
            os.write(begin, b"x")
            signal.pause()
    os.read(ready, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked_run_dir(trainer(tmp_path / "run"), ALONE):
        assert (tmp_path / "run" / LOCK_NAME).exists()


def test_a_folder_with_content_stays_and_can_be_locked_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked_run_dir(trainer(tmp_path / "run"), ALONE):
            (tmp_path / "run" / "log.txt").touch()
    with FileLock(tmp_path / "run" / LOCK_NAME, timeout=0):
        pass


def test_an_opened_folder_has_a_config_that_can_repeat_the_run_and_no_half_written_files(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "checkpoint_000000001.pt") as working:
        raise KeyboardInterrupt
    for name in (f".checkpoint_000000001.pt.{os.getpid()}.part", ".line.txt.1.part", ".config", "log.txt"):
        (tmp_path / name).write_text("half")
    assert working.name == f".checkpoint_000000001.pt.{os.getpid()}.part"
    for resume in (True, "auto"):
        open_run_dir(tmp_path, Config(trainer(tmp_path, resume=resume, seed=3)), ALONE)
        repeated = parse_config(Config, ["--config", str(tmp_path / "config.yaml")])
        assert repeated.trainer == trainer(tmp_path, seed=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".config", "config.yaml", "log.txt"]
