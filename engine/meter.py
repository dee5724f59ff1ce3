"""The speed of a training: images a second, the share of the time spent waiting for data, memory, time to the end."""

import math
import time
from collections.abc import Iterator
from datetime import timedelta

import torch

from common.machine import peak_memory


class Meter:
    """Measures one part of a run, from its start or its resumption.

    Args:
        batch_size: samples of one step over all ranks.
        device: whose memory is told; on a CPU, that of this process without the loader's workers.
    """

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self.batch_size, self.device = batch_size, device
        self._latest: dict[str, float] = {}
        self._num_steps = 0
        self._begun = time.perf_counter()
        self._start_interval()

    def _start_interval(self) -> None:
        self._steps, self._waited, self._since = 0, 0.0, time.perf_counter()

    def timed(self, batches: Iterator) -> Iterator:
        """The batches, with the wait for each one measured."""
        while True:
            started = time.perf_counter()
            if self._num_steps == 1:  # the first step compiles and chooses algorithms: it says nothing of the others
                self._begun = started
            batch = next(batches, None)
            if batch is None:
                return
            self._waited += time.perf_counter() - started
            self._steps += 1
            self._num_steps += 1
            yield batch

    def leave_out(self, seconds: float) -> None:
        """Do not count this time, which a validation took, in the next reading."""
        self._since += seconds

    def read(self) -> dict[str, float]:
        """What was measured since the last reading, and the peak of memory so far."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        values = {
            "images_per_second": self._steps * self.batch_size / seconds,
            "data_time_share": self._waited / seconds,
            "memory_gib": peak_memory(self.device) / 2**30,
        }
        self._start_interval()
        self._latest = values
        return values

    def note(self, seconds_left: float) -> str:
        """What stands behind the progress bar: the latest reading, and the time to the end."""
        parts = [f"ETA {clock_time(seconds_left)}"]
        if self._latest:
            speed, share, memory = self._latest.values()
            parts += [f"{speed:.0f} images/s", f"{share:.0%} waiting for data", f"{memory:.1f} GiB"]
        return ", ".join(parts)

    def seconds_left(self, num_steps: int, limit: float = math.inf) -> float:
        """Seconds until the end of the run.

        Args:
            num_steps: steps still to be done. They are expected to take as long as those since the first, validations
                included.
            limit: seconds that a time limit leaves.
        """
        return max(min(num_steps * self._seconds_per_step(), limit), 0.0)

    def steps_in(self, seconds: float) -> int:
        """How many steps are expected in this time."""
        return round(seconds / self._seconds_per_step())

    def _seconds_per_step(self) -> float:
        return max(time.perf_counter() - self._begun, 1e-9) / max(self._num_steps - 1, 1)


def clock_time(seconds: float) -> str:
    """Seconds as `1:02:03`, with days before it where there are any."""
    return str(timedelta(seconds=round(seconds)))
