"""Speed: what is divided by what; the clock is ours, nothing is timed."""

from itertools import chain

import pytest
import torch
from torch import nn

from evaluation.speed import throughput


def test_speed_is_pixels_over_the_median_time_and_the_first_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [1000, 1, 9, 2, 5, 2, 9, 1]  # of the runs; the median of all but the first is 2
    times = chain.from_iterable((100 * run, 100 * run + took) for run, took in enumerate(seconds))
    monkeypatch.setattr(throughput, "perf_counter", lambda: next(times))
    network = nn.Conv2d(3, 3, 1)
    assert throughput.megapixels_per_second(network, torch.zeros(2, 3, 10, 20)) == pytest.approx(2 * 10 * 20 / 1e6 / 2)
    assert next(times, None) is None
