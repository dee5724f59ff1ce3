"""The programs, as every test runs them: `test.py`, `python -m data`, and Python in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from types import ModuleType

from data.__main__ import main as data_main
from tests.places import ROOT

SCRIPT = ROOT / "test.py"


def load() -> ModuleType:
    """The script as a module. Loaded by path: `import test` may find Python's own package."""
    spec = importlib.util.spec_from_file_location("test_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def run(*arguments: object) -> None:
    """Run `test.py ARGUMENTS` in this process."""
    load().main([str(argument) for argument in arguments])


def run_data(*arguments: object) -> int:
    """Run `python -m data ARGUMENTS` in this process; returns its exit status."""
    try:
        data_main([str(argument) for argument in arguments])
    except SystemExit as ended:
        return ended.code
    return 0


def run_python(*arguments: object, num_processes: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` in a process of its own, or that many by torchrun, with the project on the path."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    command = [sys.executable, *(launcher if num_processes else []), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("TRACEBACK", None)
    # The limit is generous: it only ends what would never end.
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
