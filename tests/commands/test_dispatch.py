"""`test.py` itself: which subcommands there are, and that one is imported without the others."""

from collections.abc import Callable

import pytest

from tests.places import ROOT
from tests.program import run, run_python

FILES = {path.stem for path in (ROOT / "commands").glob("*.py") if "\nHELP = " in path.read_text(encoding="utf-8")}


def test_every_command_file_is_listed_with_its_help(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--help")
    assert ended.value.code == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert set(listed) >= FILES


@pytest.mark.parametrize("command", sorted(FILES))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        run(command, "--help")
    assert ended.value.code == 0
    assert f"usage: test.py {command}" in capsys.readouterr().out


def test_an_unknown_command_is_one_line_that_names_the_known_ones(refusal: Callable) -> None:
    error = refusal("restroe", "photo.jpg")
    assert "'restroe'" in error and all(name in error for name in FILES)


def test_only_the_command_asked_for_is_imported() -> None:
    code = "import sys; sys.argv = ['test.py', 'describe', '--help']; import runpy\n"
    code += "try: runpy.run_path('test.py', run_name='__main__')\n"
    code += "except SystemExit: pass\n"
    code += "print(*sorted(name for name in sys.modules if name.startswith('commands.') or name == 'sklearn'))"
    imported = set(run_python("-c", code).stdout.splitlines()[-1].split())
    assert "commands.describe" in imported
    assert not imported & ({f"commands.{name}" for name in FILES - {"describe"}} | {"sklearn"})
