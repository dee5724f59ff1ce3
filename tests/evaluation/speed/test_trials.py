"""The training step of stage 2 under different settings."""

from pathlib import Path

import pytest
import torch

from engine.config import TrainerConfig
from evaluation.speed.fitting import distance
from evaluation.speed.trials import Settings, Trial, made_up_patches
from restoration.config import RestorerConfig
from tests.networks import tiny_restorer

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path: Path) -> RestorerConfig:
    return RestorerConfig(encoder="none", trainer=TrainerConfig(run_dir=str(tmp_path)))


def test_what_is_wanted_is_what_the_loop_would_do(config: RestorerConfig) -> None:
    assert Settings.wanted(config, CPU).compile is False
    assert Settings.wanted(config, torch.device("cpu")).channels_last is True


def test_a_reading_has_time_and_memory(config: RestorerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def gradients(self: Trial, *inputs: object) -> None:
        clock[0] += 0.25

    monkeypatch.setattr("evaluation.speed.trials.perf_counter", lambda: clock[0])
    monkeypatch.setattr(Trial, "_backward", gradients)
    trial = Trial(tiny_restorer(), config, Settings(), CPU)
    reading = trial.read(*made_up_patches(1, 1, 16))
    assert reading.seconds == 0.25 and clock[0] == 0.25 * (2 + 4)  # four in a second, after two that warm up
    assert reading.peak_bytes > 2**20


def test_made_up_patches_differ_by_noise_of_known_size() -> None:
    degraded, clean = made_up_patches(3, 3, 20)
    assert degraded.shape == clean.shape == (3, 3, 20, 20) and degraded.min() >= 0 and degraded.max() <= 1
    assert 0.03 < (degraded - clean).std() < 0.05
    assert distance(degraded, clean) > 0
