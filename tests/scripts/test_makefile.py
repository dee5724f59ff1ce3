"""`make train-for`, with a program in place of Python: what is stored when the training ends, or is stopped."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.places import ROOT

pytestmark = pytest.mark.skipif(not (shutil.which("make") and os.name == "posix"), reason="needs make and a shell")

RUN = Path("runs/train_for/fast_gray")

# Trains until a signal comes, or at once to the end; `publish` writes a file of 17 MiB.
STAND_IN = """#!/usr/bin/env python3
import os, pathlib, signal, sys, time

run = pathlib.Path("runs/train_for/fast_gray")

def stop(number, frame):
    time.sleep(0.5)  # saving takes a moment, in which make must wait
    (run / "restorer.safetensors").write_text("weights")
    sys.exit(128 + number)

if sys.argv[1:] == ["train_restorer.py", "--help"]:
    print("usage")
elif sys.argv[1] == "train_restorer.py":
    run.mkdir(parents=True)
    if os.environ["ENDS"].startswith("at once"):
        (run / "restorer.safetensors").write_text("weights")
        sys.exit()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    (run / "begun").touch()
    time.sleep(60)
elif sys.argv[2] == "publish" and os.environ["ENDS"] == "at once, but a full disk":
    sys.exit(2)
elif sys.argv[2] == "publish":
    assert (run / "restorer.safetensors").read_text() == "weights"
    (run / "fast_gray.safetensors").write_bytes(bytes(17 * 2**20))
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str], subprocess.Popen]:
    """`start(ends)`: make, in a session of its own, with a training that ends "at once", "at once, but a full
    disk" (which `publish` meets), or "when stopped"."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "python").write_text(STAND_IN)
    (tmp_path / "python").chmod(0o755)

    def make(ends: str) -> subprocess.Popen:
        command = ["make", "train-for", "PYTHON=./python", "MINUTES=1"]
        return subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"ENDS": ends}, start_new_session=True)

    return make


def published(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / RUN).glob("fast_gray.safetensors*"))


def test_a_training_that_ends_is_published_in_pieces(start: Callable, tmp_path: Path) -> None:
    assert start("at once").wait(timeout=60) == 0
    pieces = [f"fast_gray.safetensors.part-{end}" for end in ("aa", "ab")]
    assert published(tmp_path) == ["fast_gray.safetensors", *pieces]
    sizes = [(tmp_path / RUN / name).stat().st_size for name in pieces]
    assert sizes == [15 * 2**20, 2 * 2**20]


def test_weights_that_cannot_be_published_are_an_error(start: Callable, tmp_path: Path) -> None:
    assert start("at once, but a full disk").wait(timeout=60) != 0
    assert published(tmp_path) == []


@pytest.mark.parametrize(
    ("send", "number"),
    [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGTERM), (os.killpg, signal.SIGINT)],  # to make, to all; Ctrl-C
)
def test_a_stopped_training_saves_and_is_published(
    send: Callable, number: signal.Signals, start: Callable, tmp_path: Path
) -> None:
    make = start("when stopped")
    while not (tmp_path / RUN / "begun").exists():
        assert make.poll() is None
        time.sleep(0.05)
    send(make.pid, number)
    assert make.wait(timeout=60) != 0
    assert "fast_gray.safetensors" in published(tmp_path)
