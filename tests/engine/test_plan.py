"""The text of a dry run. What it costs is tested in `test_estimate.py`, the scripts' dry runs with the scripts."""

import pytest
import torch

from engine.config import OptimConfig, TrainerConfig
from engine.distributed import Process
from engine.plan import plan
from tests.engine.line import Config, LineStage


def lines(*, world_size: int = 1, optim: dict | None = None, **trainer: object) -> list[str]:
    config = Config(TrainerConfig(run_dir="runs/x", device="cpu", **trainer), OptimConfig(lr=0.5, **optim or {}))
    process = Process(0, world_size, torch.device("cpu"))
    sizes = {"num_images": 100, "pixels_per_image": 250_000, "batch_size": 8}
    return plan(LineStage(), config=config, process=process, **sizes).splitlines()


def test_the_length_is_counted_in_steps_epochs_and_pixels() -> None:
    text = "\n".join(lines(epochs=3))
    assert "100; an epoch has 12 steps of 8" in text and "36, which is 3.0 epochs\n" in text
    assert "2 million in a step, 0.072 billion in all these steps" in text
    assert "18, which is 1.5 epochs, or as many as 2.5 minutes allow" in "\n".join(lines(max_steps=18, max_minutes=2.5))


def test_the_curve_is_the_schedule() -> None:
    curve = lines(max_steps=1000, optim={"final_lr_ratio": 0.1})[-11:]
    assert [line.split()[:2] for line in curve[::5]] == [["0%", "5.00e-01"], ["50%", "2.75e-01"], ["100%", "5.00e-02"]]
    assert [line.count("#") for line in curve[::5]] == [40, 22, 4]


def test_what_the_training_would_refuse_is_refused() -> None:
    with pytest.raises(ValueError, match="optim.adam_layers names 'head', but no trainable layer has this name"):
        lines(max_steps=1, optim={"name": "muon"})
    with pytest.raises(ValueError, match=r"data\.batch_size \(8\) must be a multiple of 2 .*micro_batches \(3\)"):
        lines(max_steps=1, world_size=2, micro_batches=3)
