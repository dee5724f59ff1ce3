"""`test.py`, as every test runs it."""

import importlib.util

from tests.places import ROOT

SCRIPT = ROOT / "test.py"


def run(*arguments: object) -> None:
    """Run `test.py ARGUMENTS` in this process. Loaded by path: `import test` may find Python's own package."""
    spec = importlib.util.spec_from_file_location("test_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main([str(argument) for argument in arguments])
