"""What a kill or a full disk does to a run, at each place where it touches the disk. Longer ones: tests/faults."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.run_folder import list_checkpoints, read_newest
from tests.engine.line import LineStage
from tests.engine.test_loop import Batches, run

TRAINER = {"max_steps": 5, "save_every_steps": 2, "validate_every_steps": 3, "resume": "auto"}
TOUCHES = [(os, "fsync"), (os, "replace"), (Path, "write_bytes"), (Path, "write_text"), (Path, "unlink")]


class BestInTheMiddle(LineStage):
    """The weights of step 3 are the best, so a killed run must not forget that it measured them."""

    def validate(self, kept: nn.Module, log: object, step: int) -> dict[str, float]:
        return {"score": float(-abs(step - 3))}


def train(tmp_path: Path) -> None:
    stage = BestInTheMiddle()
    run(tmp_path, stage, Batches(stage), optim={"lr": 0.1, "ema_decay": 0.5}, **TRAINER)


def outcome(tmp_path: Path) -> dict:
    """What a finished run leaves, without times and paths."""
    state = read_newest(tmp_path / "run", stage="line")[1]
    published = (tmp_path / "run" / "line.txt").read_text()
    progress = {name: state["progress"][name] for name in ("step", "best")}
    return (
        {name: state[name] for name in ("module", "optimizer", "average")} | progress | {"published": float(published)}
    )


def before_each_touch(act: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `act` with 0, 1, ... before each call that writes, flushes, renames or removes a file."""
    count = iter(range(1_000_000))

    def acting(function: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            act(next(count))
            return function(*arguments, **options)

        return call

    for owner, name in TOUCHES:
        monkeypatch.setattr(owner, name, acting(getattr(owner, name)))


def test_a_run_killed_wherever_it_touches_the_disk_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.loop.origin", lambda device: {})  # asks git, which takes longer than the training
    touches: list[int] = []
    with monkeypatch.context() as context:
        before_each_touch(touches.append, context)
        train(tmp_path / "whole")
    whole = outcome(tmp_path / "whole")
    assert len(touches) > 25  # six saves with two flushes each, at least
    for last in touches:
        folder = tmp_path / f"killed before {last}"
        if (child := os.fork()) == 0:
            before_each_touch(
                lambda count, last=last: count == last and os.kill(os.getpid(), signal.SIGKILL), monkeypatch
            )
            train(folder)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        train(folder)
        torch.testing.assert_close(outcome(folder), whole, rtol=0, atol=0)
        assert not list((folder / "run").glob(".*.part"))


def test_a_disk_that_fills_while_saving_leaves_the_checkpoints_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "whole")
    write = Path.write_bytes

    def fill(path: Path, content: bytes) -> int:
        if "checkpoint_000000004" not in path.name:
            return write(path, content)
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(Path, "write_bytes", fill)
        with pytest.raises(OSError, match=r"checkpoint_000000004\.pt was not written: No space left on device \(.*MB"):
            train(tmp_path / "filled")
    assert [path.name for path in list_checkpoints(tmp_path / "filled" / "run")] == [
        "checkpoint_000000003.pt",
        "checkpoint_000000002.pt",
    ]
    train(tmp_path / "filled")
    torch.testing.assert_close(outcome(tmp_path / "filled"), outcome(tmp_path / "whole"), rtol=0, atol=0)
