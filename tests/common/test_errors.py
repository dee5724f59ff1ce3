"""How a command ends: one line for a user's mistake, none where nobody reads its output any more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import user_errors

PRINTING = """
import sys
from common.errors import user_errors
with user_errors("program"):
    sys.stdin.readline()  # until the reader has gone
    {statement}
"""
BUFFERED, UNBUFFERED = "", "1"  # with a buffer, the closed pipe shows only when it is flushed


def run_without_reader(statement: str, unbuffered: str) -> tuple[int, str]:
    """The exit status and stderr of a program that prints into a pipe that nobody reads any more."""
    command = [sys.executable, "-c", PRINTING.format(statement=statement)]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        process.stdout.close()
        process.stdout = None
        errors = process.communicate("go on\n", timeout=60)[1]
    return process.returncode, errors


@pytest.mark.parametrize("unbuffered", [BUFFERED, UNBUFFERED])
@pytest.mark.parametrize("statement", ["print('short')", "print('long' * 100_000)", "print('short'); exit(0)"])
def test_a_command_whose_reader_has_gone_ends_quietly(statement: str, unbuffered: str) -> None:
    assert run_without_reader(statement, unbuffered) == (141, "")


@pytest.mark.parametrize(
    "statement, status, line",
    [
        ("print('short'); raise ValueError('a mistake')", 2, "program: error: a mistake\n"),
        ("print('short'); raise KeyboardInterrupt", 130, "program: stopped\n"),
        ("print('short'); sys.exit(3)", 3, ""),
    ],
)
def test_an_error_keeps_its_line_and_status_where_the_reader_has_gone(statement: str, status: int, line: str) -> None:
    assert run_without_reader(statement, BUFFERED) == (status, line)


@pytest.mark.parametrize(
    "statement, status, line",
    [
        ("pass", 0, ""),
        ("print('short'); exit(0)", 0, ""),
        ("raise ValueError('a mistake')", 2, "program: error: a mistake\n"),
    ],
)
def test_a_command_may_start_with_stdout_closed(statement: str, status: int, line: str) -> None:
    command = ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, PRINTING.format(statement=statement)]
    ended = subprocess.run(command, input="go on\n", stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (status, line)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_an_error_on_one_line() -> None:
    command = [sys.executable, "-c", PRINTING.format(statement="print('short')")]
    env = {**os.environ, "PYTHONUNBUFFERED": BUFFERED}
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            command, input="go on\n", stdout=full, stderr=subprocess.PIPE, text=True, env=env, timeout=60, check=False
        )
    assert ended.returncode == 2
    assert ended.stderr == "program: error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] can't allocate memory: you tried to allocate 9 bytes" + 1000 * "."),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    ],
)
def test_a_full_memory_is_a_short_line(error: Exception, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_, user_errors("program"):
        raise error
    assert exit_.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("program: error: not enough memory: ") and line.count("\n") == 1 and len(line) < 400
    with pytest.raises(RuntimeError, match="a bug"), user_errors("program"):
        raise RuntimeError("a bug")


def test_another_closed_pipe_is_an_error(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_, user_errors("program"):
        raise BrokenPipeError(32, "Broken pipe")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "program: error: [Errno 32] Broken pipe\n"
