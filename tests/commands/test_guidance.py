"""`test.py guidance`: its figures and files, and one clear line for every mistake."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from cqe.encoder import QualityEncoder
from restoration.networks import FastOptions, NetworkConfig, build_restorer
from restoration.weights import save_restorer
from tests import program
from tests.synthetic import picture

NETWORK = NetworkConfig("fast", fast=FastOptions(widths=(4, 4, 4), blocks_down=(0, 0, 0), blocks_up=(1, 0, 0)))


def run(command: str, *arguments: object) -> None:
    program.run(command, *map(str, arguments), "--device", "cpu")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    restorer = build_restorer(NETWORK, QualityEncoder(1, width=8), 1)
    torch.nn.init.normal_(restorer.tail.weight, std=0.3)
    save_restorer(restorer, NETWORK, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A set of two colour images of one size."""
    (tmp_path / "photos").mkdir()
    for seed, stem in enumerate("ab"):
        Image.fromarray(picture(26, 40, seed=seed)).save(tmp_path / "photos" / f"{stem}.png")
    return tmp_path / "photos"


@pytest.fixture
def refusal(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run what must fail with status 2, one line on stderr and nothing written; returns the line."""

    def check(*arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as exit_info:
            run("guidance", "--weights", weights, *arguments)
        captured = capsys.readouterr()
        assert exit_info.value.code == 2
        assert captured.out == "" and captured.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return captured.err

    return check


def test_own_features_score_what_evaluate_says(weights: Path, photos: Path, tmp_path: Path) -> None:
    for command in ("evaluate", "guidance"):
        run(command, "--weights", weights, "--sets", photos, "--quality", 10, 30, "--json", tmp_path / command)
    ordinary, found = (json.loads((tmp_path / command).read_text()) for command in ("evaluate", "guidance"))
    for key in ("method", "channels", "protocol", "provenance"):
        assert found[key] == ordinary[key]
    assert list(found["results"]["photos"]) == ["10", "30"]
    for quality, by_kind in found["results"]["photos"].items():
        assert list(by_kind) == ["own", "other_quality", "other_image", "shuffled", "zero"]
        assert by_kind["own"] == ordinary["results"]["photos"][quality]
        assert len({scores["psnr"] for scores in by_kind.values()}) == 5


def test_terminal_and_markdown_show_the_figures_of_the_json(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run("guidance", "--weights", weights, "--sets", photos, "--quality", 10, "--json", tmp_path / "o.json",
        "--markdown", tmp_path / "o.md", "--wrong-quality", 50, "--seed", 7)  # fmt: skip
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["features"] == {"wrong_quality": {"10": 50}, "seed": 7}
    by_kind = content["results"]["photos"]["10"]
    own, zero = by_kind["own"]["psnr"], by_kind["zero"]["psnr"]
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("tiny, photos, gray: PSNR (dB)") and lines[1].split() == ["features", "Q10"]
    assert lines[2].split() == ["own", f"{own:.2f}"]
    assert lines[6].split() == ["zero", f"{zero:.2f}", f"({zero - own:+.2f})"]
    assert lines[7].startswith("another quality: Q50 for Q10;") and len(lines) == 8
    assert f"| zero | {zero:.2f} ({zero - own:+.2f}) |" in (tmp_path / "o.md").read_text()
    assert "image/s" not in captured.err  # no progress bar off a terminal


def test_one_image_has_no_other(refusal: Callable, photos: Path) -> None:
    (photos / "b.png").unlink()
    assert "photos holds one image (a.png)" in refusal("--sets", photos)


def test_a_network_for_other_channels_is_refused(refusal: Callable, photos: Path) -> None:
    line = refusal("--sets", photos, "--channels", "color")
    assert "tiny.safetensors restores luma (1-channel) images" in line and "--channels" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--wrong-quality", 0], "--wrong-quality: '0' is no quality within 1..100"),
        (["--seed", -1], "must be a whole number from 0 to 4294967295, got -1"),
        (["--seed", "x"], "--seed"),
        (["--weights", "jpeg"], "no weights 'jpeg'"),
        (["--json", "photos.png"], "named like a picture"),
    ],
)
def test_mistakes_are_named(refusal: Callable, photos: Path, options: list, message: str) -> None:
    assert message in refusal("--sets", photos, *options)
