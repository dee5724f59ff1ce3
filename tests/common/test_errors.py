"""How a command ends: one line for a user's mistake, none where nobody reads its output any more."""

import subprocess
import sys

import pytest

from common.errors import user_errors

PRINTING = """
from common.errors import user_errors
with user_errors("program"):
    input()  # until the reader has gone
    {statement}
"""


@pytest.mark.parametrize("statement", ["print('short')", "print('long' * 100_000)", "print('short'); exit(0)"])
def test_a_command_whose_reader_has_gone_ends_quietly(statement: str) -> None:
    command = [sys.executable, "-c", PRINTING.format(statement=statement)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.close()
        process.stdout = None
        assert process.communicate("go on\n", timeout=60)[1] == ""
    assert process.returncode == 141


def test_another_closed_pipe_is_an_error(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_, user_errors("program"):
        raise BrokenPipeError(32, "Broken pipe")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "program: error: [Errno 32] Broken pipe\n"
