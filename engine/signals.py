"""What signals ask a training for: to stop, or to save. Both are done after the step in hand, so no work is lost."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAVE_SIGNALS = tuple(getattr(signal, name) for name in ("SIGUSR1",) if hasattr(signal, name))  # Windows has none


class Stopped(SystemExit):
    """A signal stopped the run before its end, and all is saved. The exit status is the usual one of that signal.

    Args:
        number: of the signal. The status is 128 more: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@dataclass
class Requests:
    """What has been asked for.

    Args:
        stop: number of the signal that asked to stop; 0: none did.
        save: whether a signal asked to save and go on.
    """

    stop: int = 0
    save: bool = False


@contextmanager
def saving_needs_a_run() -> Iterator[None]:
    """Ignore signals that ask to save while there is nothing to save yet. Untreated, they would end the process."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in SAVE_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def requests_by_signal() -> Iterator[Requests]:
    """Ctrl-C and SIGTERM ask to stop, SIGUSR1 asks to save. A second Ctrl-C stops at once."""
    requests = Requests()

    def ask_to_stop(number: int, frame: object) -> None:
        requests.stop = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def ask_to_save(number: int, frame: object) -> None:
        requests.save = True

    handlers = dict.fromkeys(STOP_SIGNALS, ask_to_stop) | dict.fromkeys(SAVE_SIGNALS, ask_to_save)
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
