"""`summary.md`: where a run comes from, its scores and pictures. The loop's own part is in `test_loop.py`."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.summary import commit, origin, write_summary


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_commit_is_named_with_what_differs_from_it(tmp_path: Path) -> None:
    assert commit(tmp_path).startswith("unknown")
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    name = git(tmp_path, "rev-parse", "HEAD").strip()
    assert commit(tmp_path) == f"{name}, nothing changed"
    (tmp_path / "code.py").write_text("2")
    (tmp_path / "new.py").write_text("3")
    assert commit(tmp_path) == f"{name}, with 2 file(s) changed or new"


def test_the_commit_is_unknown_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path).startswith("unknown")


def test_the_origin_tells_command_machine_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train_cqe.py", "--config", "my config.yaml"])
    found = origin(torch.device("cpu"))
    assert found["command"] == "`python train_cqe.py --config 'my config.yaml'`"
    assert f"torch {torch.__version__}" in found["versions"] and "gpu none" in found["machine"]


def test_a_summary_has_facts_scores_pictures_and_config(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("L", (3, 2)).save(tmp_path / "pictures" / "quality_10.png")
    rows = [{"step": 5, "loss/total": 1.0}, {"step": 5, "validation/psnr": 30.0, "validation/ssim": 0.5}]
    rows += [{"step": 1000, "validation/psnr": 29.0, "validation/ssim": 0.9}]  # killed here, then measured again
    rows += [{"step": 1000, "validation/psnr": None, "validation/ssim": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    weights = tmp_path / "weights.safetensors"
    write_summary(
        tmp_path,
        title="runs/x",
        facts={"command": "`a | b`"},
        weights=weights,
        best="psnr",
        best_score=math.inf,
        config={"optim": {"lr": 1}},
    )
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("# runs/x\n\n|  |  |\n|---|---|\n| command | `a \\| b` |\n")
    assert "| step | psnr | ssim |\n|---|---|---|\n| 5 | 30.0000 | 0.5000 |\n| **1,000** | - | 1.0000 |\n" in text
    assert "![quality_10](pictures/quality_10.png)" in text and text.endswith("```yaml\noptim:\n  lr: 1\n```\n")
    assert "sha256" not in text  # nothing was published


def test_a_summary_without_validations_has_no_scores(tmp_path: Path) -> None:
    options = {"weights": tmp_path / "none", "best": "psnr", "best_score": -math.inf, "config": {}}
    write_summary(tmp_path, title="x", facts={}, **options)
    assert "step" not in (tmp_path / "summary.md").read_text()


def test_a_higher_score_of_another_validation_is_not_marked(tmp_path: Path) -> None:
    rows = [{"step": step, "validation/psnr": score} for step, score in ((5, 35.0), (10, 30.5), (15, 30.0))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"weights": tmp_path / "none", "best": "psnr", "best_score": 30.5, "config": {}}
    write_summary(tmp_path, title="x", facts={}, **options)
    assert "| 5 | 35.0000 |\n| **10** | 30.5000 |\n| 15 | 30.0000 |\n" in (tmp_path / "summary.md").read_text()
