"""The processes that score images beside the one that makes them, so that scoring uses every core."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from threading import Thread

from threadpoolctl import threadpool_limits


@contextmanager
def scoring_processes(num: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of this many processes for a `with` block. What has not begun at the end of the block is dropped.

    Raises:
        ChildProcessError: if a process was killed.
    """
    try:
        with ProcessPoolExecutor(num, initializer=_begin) as pool:
            try:
                yield pool
            finally:
                pool.shutdown(cancel_futures=True)
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a scoring process was killed, most often because memory ran out; lower --workers"
        ) from error


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all processes; these end at once, without a traceback
    threadpool_limits(1)  # of the linear algebra; there is a process for each core
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process that waits for work would outlive a parent that was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)
