"""Errors on one line: a user's mistake ends a command with one line and status 2. A bug keeps its traceback."""

import contextlib
import os
import sys
from collections.abc import Iterator

_MEMORY_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory")  # torch's, in a plain RuntimeError


@contextlib.contextmanager
def user_errors(program: str) -> Iterator[None]:
    """Turn ValueError, OSError and a training that diverged (FloatingPointError) into one line and exit status 2.

    The line is `program: error: message`, on stderr. If the variable TRACEBACK is 1, the traceback is shown instead.
    """
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("TRACEBACK") == "1":
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"{program}: error: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        sys.exit(130)


def is_about_memory(error: Exception) -> bool:
    """Whether an error says that the memory of the machine or of its GPU is full."""
    return isinstance(error, MemoryError) or any(message in str(error).lower() for message in _MEMORY_MESSAGES)
