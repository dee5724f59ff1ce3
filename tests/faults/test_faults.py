"""Trainings that are killed at random moments, whose disk fills, and whose images break: `make faults`."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from cqe.encoder import QualityEncoder
from cqe.weights import save_encoder
from engine.run_folder import list_checkpoints, read_newest
from tests.faults.trainings import finish, start
from tests.places import ROOT
from tests.synthetic import cqe_settings, make_data_root, restorer_settings

pytestmark = pytest.mark.faults
KILLS = 10  # of each stage
WORKERS = {"cqe": 0, "restorer": 2}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict]:
    """`settings(stage, run_dir, **trainer)`: a configuration that trains for a few seconds and saves all the time."""
    folder = tmp_path_factory.mktemp("faults")
    root = make_data_root(folder / "data")
    torch.manual_seed(0)
    save_encoder(QualityEncoder(1, width=8, remove_local_mean=True), folder / "encoder.safetensors")

    def make(stage: str, run_dir: Path, **trainer: object) -> dict:
        trainer = {"max_steps": 12, "save_every_steps": 1} | trainer
        if stage == "cqe":
            made = cqe_settings(root, run_dir, **trainer)
        else:
            made = restorer_settings(root, run_dir, folder / "encoder.safetensors", **trainer)
        made["data"]["num_workers"] = WORKERS[stage]
        return made

    return make


@pytest.fixture(autouse=True)
def project_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def weights(folder: Path, stage: str) -> dict:
    """All that training changes, and the published file."""
    state = read_newest(folder / "run", stage=stage)[1]
    published = (folder / "run" / {"cqe": "encoder", "restorer": "restorer"}[stage]).with_suffix(".safetensors")
    return {name: state[name] for name in ("module", "optimizer", "average")} | {
        "published": torch.frombuffer(bytearray(published.read_bytes()), dtype=torch.uint8)
    }


def output(folder: Path) -> str:
    path = folder / "output.txt"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("stage", ["cqe", "restorer"])
def test_a_training_killed_at_a_random_moment_ends_with_the_same_weights(
    stage: str, settings: Callable[..., dict], tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    process = start(stage, settings(stage, whole / "run"), whole)
    began = begun(process, whole)
    process.join()
    seconds = time.perf_counter() - began
    assert process.exitcode == 0, output(whole)
    moments = random.Random(stage)
    steps = []
    for kill in range(KILLS):
        folder = tmp_path / f"kill{kill}"
        process = start(stage, settings(stage, folder / "run"), folder)
        begun(process, folder)
        process.join(seconds * moments.random())
        process.kill()
        process.join()
        left = list_checkpoints(folder / "run")
        steps.append(int(left[0].stem.rpartition("_")[2]) if left else 0)
        assert finish(stage, settings(stage, folder / "run"), folder) == 0, output(folder)
        torch.testing.assert_close(weights(folder, stage), weights(whole, stage), rtol=0, atol=0)
    print(f"{stage}: trained for {seconds:.1f} s; the kills left checkpoints of steps {sorted(steps)}")
    assert len(set(steps)) > 2  # the kills came at different moments of the run


def begun(process: BaseProcess, folder: Path) -> float:
    """Wait until the training has begun its steps; returns the time on the clock."""
    while process.is_alive() and "stage " not in output(folder):
        time.sleep(0.01)
    return time.perf_counter()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of three megabytes; skipped where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root and tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_is_named_and_the_run_goes_on_once_there_is_room(
    settings: Callable[..., dict], small_disk: Path, tmp_path: Path
) -> None:
    whole, filled = tmp_path / "whole", tmp_path / "filled"
    assert finish("restorer", settings("restorer", whole / "run"), whole) == 0, output(whole)
    given = settings("restorer", small_disk / "run")
    process = start("restorer", given, filled)
    begun(process, filled)
    process.terminate()
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM, output(filled)
    stopped = list_checkpoints(small_disk / "run")[0]
    ballast = small_disk / "ballast"
    size = stopped.stat().st_size
    status = os.statvfs(small_disk)
    ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - size // 2))
    assert finish("restorer", given, filled) == 2
    last = output(filled).strip().splitlines()[-1]
    assert f"{small_disk / 'run'}" in last and "No space left on device" in last and "make room there" in last, last
    assert read_newest(small_disk / "run", stage="restorer")[0] == stopped
    ballast.unlink()
    assert finish("restorer", given, filled) == 0, output(filled)
    expected = read_newest(whole / "run", stage="restorer")[1]["module"]
    found = read_newest(small_disk / "run", stage="restorer")[1]["module"]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_image_that_breaks_in_epoch_3_is_named_or_left_out(settings: Callable[..., dict], tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    given = settings("restorer", folder / "run", max_steps=6)  # two steps an epoch: epochs 0 to 2
    given["data"]["pack_dir"] = str(tmp_path / "packed")
    assert finish("restorer", given, folder) == 0, output(folder)
    (pack,) = (tmp_path / "packed").glob("train-*")
    with open(pack / "pixels.bin", "r+b") as file:
        file.write(bytes(1000))
    given["trainer"]["max_steps"] = 12
    assert finish("restorer", given, folder) == 2
    assert "the packed pixels of train/" in output(folder).splitlines()[-1]
    given["data"]["on_error"] = "skip"
    assert finish("restorer", given, folder) == 0, output(folder)
    assert (folder / "run" / "log.txt").read_text().count("left out of the training: ") == 1
    assert read_newest(folder / "run", stage="restorer")[1]["progress"]["step"] == 12
