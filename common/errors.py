"""Errors on one line: a user's mistake ends a command with one line and status 2. A bug keeps its traceback."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import NoReturn

MAX_REASON = 300  # characters of torch's message about memory, which may go on for pages
_STATUS_OF_CLOSED_PIPE = 128 + 13  # 13 is SIGPIPE
_MEMORY_MESSAGES = (  # torch's, in a plain RuntimeError; then cuBLAS's, cuDNN's (8, 9, and its search's) and cuFFT's
    "out of memory", "not enough memory", "can't allocate memory", "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed", "_allocation_failed", "unable to find an engine", "cufft_alloc_failed",
)  # fmt: skip


@contextlib.contextmanager
def user_errors(program: str) -> Iterator[None]:
    """Turn ValueError, OSError, a training that diverged (FloatingPointError) and a full memory into one line and exit
    status 2.

    The line is `program: error: message`, on stderr. If the variable TRACEBACK is 1, the traceback is shown instead.
    Where the reader of stdout has gone (`| head`), the command ends without a line, with the status 141 that a shell
    gives to programs that a closed pipe ended.
    """
    try:
        try:
            yield
        except SystemExit as end:
            if end.code:
                _flush_or_silence_stdout()
            else:  # argparse's, after --help
                _flush_stdout()
            raise
        _flush_stdout()  # a closed pipe would otherwise show only at Python's end
    except BrokenPipeError as error:
        if not _stdout_is_closed():  # it was another pipe: a worker's
            _end_with_line(program, error)
        silence_stdout()
        sys.exit(_STATUS_OF_CLOSED_PIPE)
    except (ValueError, OSError, FloatingPointError) as error:
        _end_with_line(program, error)
    except (RuntimeError, MemoryError) as error:
        if not is_about_memory(error):
            raise
        _end_with_line(program, error, f"not enough memory: {_on_one_line(error)[:MAX_REASON]}")
    except KeyboardInterrupt:
        _end(f"{program}: stopped", 130)


def silence_stdout() -> None:
    """Print nowhere from now on: nobody reads stdout any more."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it stays open; Python flushes sys.stdout at its end


def _end_with_line(program: str, error: Exception, message: str = "") -> NoReturn:
    if os.environ.get("TRACEBACK") == "1":
        raise error
    _end(f"{program}: error: {message or _on_one_line(error)}", 2)


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _end(line: str, status: int) -> NoReturn:
    if sys.stderr is not None:
        print(line, file=sys.stderr)
    _flush_or_silence_stdout()
    sys.exit(status)


def _flush_or_silence_stdout() -> None:
    """For an end that has a status of its own: if stdout cannot be written, Python would say so and exit with 120."""
    try:
        _flush_stdout()
    except OSError:
        silence_stdout()


def _flush_stdout() -> None:
    if sys.stdout is not None:  # Python sets it to None if it was closed before the start
        sys.stdout.flush()


def _stdout_is_closed() -> bool:
    """Whether stdout is a pipe that nobody reads any more. To flush it again would not tell: its buffer is empty."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except (AttributeError, OSError, ValueError):  # no poll on Windows; a stdout without a file
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def is_about_memory(error: Exception) -> bool:
    """Whether an error says that the memory of the machine or of its GPU is full."""
    return isinstance(error, MemoryError) or any(message in str(error).lower() for message in _MEMORY_MESSAGES)
