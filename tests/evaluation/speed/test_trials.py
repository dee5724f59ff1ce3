"""The training step of stage 2 under different settings."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.compiling import compiled
from engine.config import TrainerConfig
from evaluation.speed.fitting import distance
from evaluation.speed.trials import Settings, Trial, made_up_patches
from restoration.config import RestorerConfig
from restoration.networks.fusion import InvertibleFusion
from restoration.networks.restorer import Restorer
from tests.networks import tiny_restorer

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path: Path) -> RestorerConfig:
    return RestorerConfig(encoder="none", trainer=TrainerConfig(run_dir=str(tmp_path)))


class _Encoder(nn.Module):
    """Stands for the quality encoder, whose layers would take most of the time to compile."""

    feature_channels = (4, 4, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return x, [self.layer(x)]


class _Restorer(Restorer):
    """One invertible fusion between a head and a tail."""

    def __init__(self) -> None:
        super().__init__(_Encoder(), 1)
        self.head = nn.Conv2d(1, 4, 3, padding=1)
        self.fusion = InvertibleFusion(4, exponent_bound=0.8)
        self.tail = nn.Conv2d(8, 1, 3, padding=1)

    def residual(self, padded: Tensor, features: Sequence[Tensor]) -> Tensor:
        return self.tail(torch.cat(self.fusion(features[0], self.head(padded)), dim=1))


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_the_compiled_step_equals_the_eager_one(config: RestorerConfig, caplog: pytest.LogCaptureFixture) -> None:
    """Frozen encoder, fusion and loss, the transform of Eq. 9 included, by inductor's code for CPUs."""
    network, patches = _Restorer(), made_up_patches(2, 1, 16)
    eager = Trial(network, config, Settings(), CPU).gradients(*patches)
    with caplog.at_level(logging.INFO, logger="engine.compiling"):
        fused = Trial(network, config, Settings(compile=True), CPU).gradients(*patches)
    assert "compiled in" in caplog.text and max(one.abs().max() for one in eager) > 0.01
    torch.testing.assert_close(fused, eager, rtol=1e-4, atol=1e-6)  # sums are taken in another order


@pytest.mark.parametrize("choice", [True, False, "auto"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_wanted_is_what_the_loop_would_do(config: RestorerConfig, choice: bool | str, device: str) -> None:
    config = replace(config, trainer=replace(config.trainer, compile=choice, channels_last=choice is True))
    wanted, module = Settings.wanted(config, torch.device(device)), nn.Identity()
    assert wanted.compile == (compiled(module, choice, torch.device(device)) is not module)
    assert wanted.channels_last == config.trainer.channels_last


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
