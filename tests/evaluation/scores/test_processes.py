"""Scoring processes: none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.places import ROOT

PARENT = """
import os, time
from evaluation.scores.processes import scoring_processes

def main():
    with scoring_processes(2) as pool:
        pids = set()
        while len(pids) < 2:
            pids.add(pool.submit(os.getpid).result())
        print(*pids, flush=True)
        time.sleep(60)

if __name__ == "__main__":
    main()
"""


def test_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(map(is_alive, pids))
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30  # generous: it only ends what would never end
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not (stat := Path(f"/proc/{pid}/stat")).exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
