"""The programs, as every test runs them: `test.py` and `python -m data`."""

import importlib.util
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
