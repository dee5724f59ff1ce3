"""Two machines with two processes each, played by two agents of torchrun over loopback, equal one process."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

from cqe.encoder import QualityEncoder
from cqe.weights import save_encoder
from engine.distributed import Process
from engine.run_folder import read_newest
from tests.engine.node_worker import FAULT_STEP, train_both
from tests.places import ROOT
from tests.synthetic import cqe_settings, make_data_root, restorer_settings, write_config

NUM_STEPS = 4
MACHINES = ("first", "second")


def run_agents(folder: Path, fault: str, *, max_restarts: int = 0) -> list[tuple[int, str]]:
    """Run the worker by an agent on each machine; their exit statuses and what they wrote to stderr."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=2"]
    command += ["--rdzv_backend=c10d", f"--rdzv_endpoint=localhost:{port}", f"--max-restarts={max_restarts}"]
    command += [str(ROOT / "tests" / "engine" / "node_worker.py"), str(folder), fault]
    # Without the last variable, processes that start again meet in the store of those before, and look for the dead.
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    agents = []
    try:
        for machine in MACHINES:
            (folder / machine).mkdir()
            options = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True, "cwd": ROOT}
            agents.append(subprocess.Popen(command, env=environment | {"MACHINE": machine}, **options))
        errors = [agent.communicate(timeout=550)[1] for agent in agents]  # it only ends what would never end
    finally:
        for agent in agents:
            agent.kill()
    return [(agent.returncode, error) for agent, error in zip(agents, errors, strict=True)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images, an encoder, and configs of both stages whose runs and packs are in the working folder."""
    root = make_data_root(tmp_path / "data")
    torch.manual_seed(0)
    save_encoder(QualityEncoder(1, width=8, remove_local_mean=True), tmp_path / "encoder.safetensors")
    limits = {"max_steps": NUM_STEPS, "validate_every_steps": 100, "save_every_steps": 1}
    cqe = cqe_settings(root, Path("runs/cqe"), **limits)
    cqe["moco"] |= {"batch_norm": "synced"}
    cqe["optim"] |= {"lr": 1.0e-4}
    restorer = restorer_settings(root, Path("runs/restorer"), tmp_path / "encoder.safetensors", **limits)
    for name, settings in (("cqe", cqe), ("restorer", restorer)):
        settings["data"]["pack_dir"] = "packed"
        write_config(tmp_path / f"{name}.yaml", settings)
    return tmp_path


@pytest.mark.ddp
@pytest.mark.slow
def test_two_machines_train_as_one_process_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = trained_alone_and_by_two_machines(folder, monkeypatch, "none", max_restarts=0)
    assert "goes on from" not in (folder / main / "runs" / "cqe" / "log.txt").read_text()


@pytest.mark.faults
def test_two_machines_one_of_which_loses_a_process_train_as_one_process_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = trained_alone_and_by_two_machines(folder, monkeypatch, "killed", max_restarts=1)
    went_on = re.findall(r"goes on from \S+", (folder / main / "runs" / "cqe" / "log.txt").read_text())
    assert len(went_on) == 1 and str(FAULT_STEP) in went_on[0]


def trained_alone_and_by_two_machines(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str, *, max_restarts: int
) -> str:
    """Compare the ends of both; returns the machine that wrote the runs."""
    (folder / "alone").mkdir()
    monkeypatch.chdir(folder / "alone")
    train_both(folder, Process(0, 1, torch.device("cpu")))
    for status, error in run_agents(folder, fault, max_restarts=max_restarts):
        assert status == 0, error
    # Both machines packed the images on their own disks, and only one wrote the runs.
    assert all((folder / machine / "packed").is_dir() for machine in MACHINES)
    (main,) = [machine for machine in MACHINES if (folder / machine / "runs").exists()]
    for stage in ("cqe", "restorer"):
        run_dir = folder / main / "runs" / stage
        alone, together = (read_newest(path, stage=stage)[1] for path in (folder / "alone" / "runs" / stage, run_dir))
        for part in ("module", "average"):
            assert_equal_but_for_the_order_of_sums(together[part], alone[part])
        assert losses(run_dir) == pytest.approx(losses(folder / "alone" / "runs" / stage), rel=1e-3)
    return main


@pytest.mark.faults
def test_a_process_that_falls_silent_ends_all_within_the_limit(folder: Path) -> None:
    agents = run_agents(folder, "silent")
    assert all(status != 0 for status, _ in agents)
    lines = re.findall(r"node_worker\.py: error: .*", "\n".join(error for _, error in agents))
    assert any(
        re.search(r"lost another one: .* did not answer for 5 s \(in training: trainer\.timeout_seconds\)", line)
        for line in lines
    )
    assert not any("Traceback" in line for line in lines)


def assert_equal_but_for_the_order_of_sums(found: dict, expected: dict) -> None:
    """Compare weights, statistics and queue.

    Adam divides a gradient by its size. Where it is nearly zero, the order of sums shows: in single weights, by less
    than a third of a step of 1e-4. A lost or doubled sample moves most weights by a good part of a step.
    """
    numbers = [
        torch.cat([torch.as_tensor(leaf).double().flatten() for leaf in tree_leaves(x)]) for x in (found, expected)
    ]
    differences = (numbers[0] - numbers[1]).abs()
    assert differences.max() < 3e-5 and (differences > 1e-6).double().mean() < 1e-3


def losses(run_dir: Path) -> dict[int, float]:
    """The total loss of each logged step; of a step done twice, the later."""
    found = re.findall(r"step (\d+): total ([\d.]+)", (run_dir / "log.txt").read_text())
    return {int(step): float(total) for step, total in found}
