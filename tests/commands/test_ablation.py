"""`python -m commands.ablation`: which trainings it runs, in which order, and what it leaves alone."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from commands import ablation
from engine.checkpoint import save_checkpoint
from engine.config import to_dict
from engine.run_folder import checkpoint_name
from evaluation.scores.ablation import MODELS, WEIGHTS_NAME
from tests.places import ROOT


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """`planned(*arguments)`: the runs of a call."""
    monkeypatch.chdir(ROOT)

    def plan(*arguments: str) -> list[ablation.Run]:
        options, others = ablation.build_parser().parse_known_args([*arguments, "--output", str(tmp_path)])
        return ablation.planned(options, others)

    return plan


@pytest.fixture
def trained(planned: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable:
    """`trained(*arguments, stop_at=N)`: run the command; the folders that were trained. Run N is stopped."""

    def run(*arguments: str, stop_at: int | None = None) -> list[str]:
        calls: list[str] = []

        class Training:
            def __init__(self, command: list[str]) -> None:
                config = ablation.parse_config(ablation.RestorerConfig, command[2:])
                assert config.trainer.resume == "auto"
                folder = Path(config.trainer.run_dir)
                calls.append(str(folder.relative_to(tmp_path)))
                finish(folder, config, config.trainer.max_steps if len(calls) != stop_at else 1)

            def __enter__(self) -> "Training":
                return self

            def __exit__(self, *error: object) -> None: ...

            def wait(self) -> int:
                return 130 if len(calls) == stop_at else 0

        monkeypatch.setattr(subprocess, "Popen", Training)
        ablation.main([*arguments, "--output", str(tmp_path)])
        return calls

    monkeypatch.chdir(ROOT)
    return run


def finish(folder: Path, config: ablation.RestorerConfig, step: int) -> None:
    """Leave what a training leaves after that step."""
    folder.mkdir(parents=True, exist_ok=True)
    progress = {"step": step, "elapsed_seconds": 1.0, "validation_seconds": 0.0, "best": 1.0}
    state = {"stage": "restorer", "config": to_dict(config), "progress": progress, "weights": torch.zeros(1)}
    save_checkpoint(folder / checkpoint_name(step), state)
    if step == config.trainer.max_steps:
        (folder / WEIGHTS_NAME).touch()


def test_models_differ_from_the_whole_method_in_one_section_each(planned: Callable) -> None:
    configs = {run.folder.parent.name: to_dict(run.config) for run in planned("--size", "fast_tiny")}
    for config in configs.values():
        del config["trainer"]["run_dir"]
        del config["optim"]["adam_layers"]  # of Muon; the budget's optimiser is Adam
    changed = {
        model: [key for key in config if config[key] != configs["ours"][key]] for model, config in configs.items()
    }
    network, encoder = ["network"], ["train_encoder"]
    assert changed == dict(zip(MODELS, [network, encoder, network, network, ["loss"], []], strict=True))


@pytest.mark.parametrize("size", ablation.SIZES)
def test_all_models_of_a_seed_come_before_the_next_seed(planned: Callable, size: str) -> None:
    runs = planned("--size", size, "--seeds", "3", "1", "3", "--trainer.max_steps", "77")
    assert [(run.folder.parent.name, run.config.trainer.seed) for run in runs] == [
        (model, seed) for seed in (3, 1) for model in MODELS
    ]
    assert all(run.folder.name == f"seed_{run.config.trainer.seed}" for run in runs)
    assert {run.config.trainer.max_steps for run in runs} == {77}
    assert {run.config.network.name for run in runs} == {"paper" if size == "paper" else "fast"}


def test_runs_that_are_over_are_left_alone_and_a_stopped_one_goes_on(
    trained: Callable, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--models", "ours", "model_4", "--seeds", "0", "1"]
    with pytest.raises(SystemExit, match="stopped and saved; the same command goes on from there"):
        trained(*arguments, stop_at=2)
    capsys.readouterr()
    assert trained(*arguments) == ["fast_tiny/model_4/seed_0", "fast_tiny/ours/seed_1", "fast_tiny/model_4/seed_1"]
    assert "ours/seed_0: is over" in capsys.readouterr().out
    assert trained(*arguments) == []
    assert trained(*arguments, "--trainer.device", "cpu") == []  # where it runs may change


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_steps", "9"], "trainer.max_steps 1500, now it is 9: give another --output"),
        (["--optim.lr", "2.0e-3"], "optim.lr 0.001, now it is 0.002"),
        (["--trainer.seed", "1"], "--trainer.seed is set for each run"),
        (["--trainer.run_dir=x"], "--trainer.run_dir is set for each run"),
        (["--resume"], "--resume is set for each run"),
        (["--optim.lrr", "1"], "did you mean"),
        (["--trainer.max_steps", "null"], "give --trainer.max_steps or --trainer.max_minutes"),
    ],
)
def test_mistakes_end_with_one_line_before_any_training(
    trained: Callable, options: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    trained("--models", "ours")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        trained("--models", "model_1", "ours", *options)
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(lines) == 1 and message in lines[0]


def test_a_training_that_fails_ends_the_command(
    planned: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (run,) = planned("--models", "ours", "--encoder", str(tmp_path / "none.safetensors"))
    with pytest.raises(ChildProcessError, match=r"seed_0 failed \(exit status 2\)"):
        ablation.train(run)
