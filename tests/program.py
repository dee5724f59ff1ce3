"""`test.py`, as every test runs it."""

import importlib.util
from types import ModuleType

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
