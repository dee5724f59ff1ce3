"""The meter: speed on a clock that a test moves."""

import pytest
import torch

from engine.meter import Meter


def test_a_validation_does_not_slow_the_speed_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0.0
    monkeypatch.setattr("engine.meter.time.perf_counter", lambda: seconds)
    meter = Meter(8, torch.device("cpu"))
    for number, _ in enumerate(meter.timed(iter(range(4)))):
        seconds += 2
        if number == 1:
            seconds += 100
            meter.leave_out(100)
    assert meter.read()["images_per_second"] == 8 / 2
    seconds += 1
    assert meter.read()["images_per_second"] == 0
