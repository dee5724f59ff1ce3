"""The batch script of docs/training.md, run with stand-ins for SLURM's programs."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.places import ROOT

SRUN = """#!/bin/bash
trap 'echo "saved" >> calls; kill $!; exit 143' TERM
echo "srun $*" >> calls
sleep 100 & wait
"""
SCONTROL = """#!/bin/bash
[ "$1" = show ] && printf 'first\\nsecond\\n' || echo "scontrol $*" >> calls
"""


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_the_job_saves_and_queues_itself_again(number: int, tmp_path: Path) -> None:
    (script,) = re.findall(
        r"^```bash\n(#!/bin/bash\n.*?)^```$", (ROOT / "docs/training.md").read_text(), re.DOTALL | re.M
    )
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL), ("job", script)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "42", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "first,second"}
    environment = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    calls = tmp_path / "calls"
    job = subprocess.Popen(["bash", "./job"], cwd=tmp_path, env=environment)
    try:
        while job.poll() is None and not (calls.exists() and "srun" in calls.read_text()):
            time.sleep(0.01)
        job.send_signal(number)
        job.wait(timeout=60)  # it only ends what would never end
    finally:
        job.kill()
    started, *then = calls.read_text().splitlines()
    assert started.startswith("srun torchrun --nnodes=2 ") and "--rdzv_id=42" in started
    assert "--rdzv_endpoint=first:29400 train_restorer.py" in started and started.endswith("--resume auto")
    assert then == ["saved", "scontrol requeue 42"]
