"""`test.py guidance`: its scores and files, and one clear line for mistakes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests import program
from tests.networks import save_tiny, tiny_restorer
from tests.synthetic import picture


def run(command: str, *arguments: object) -> None:
    program.run(command, *map(str, arguments), "--device", "cpu")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny.safetensors", tiny_restorer(tail_std=0.3))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A set of two colour images of one size."""
    (tmp_path / "photos").mkdir()
    for seed, stem in enumerate("ab"):
        Image.fromarray(picture(26, 40, seed=seed)).save(tmp_path / "photos" / f"{stem}.png")
    return tmp_path / "photos"


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


def test_terminal_and_markdown_show_the_scores_of_the_json(
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


def test_gray_images_stored_as_rgb_are_warned_of(weights: Path, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(picture(26, 40)).convert("L").convert("RGB").save(photos / "b.png")
    run("guidance", "--weights", weights, "--sets", photos, "--quality", 20)
    assert caplog.text.count("photos: gray images stored as RGB (b.png)") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--wrong-quality", 0], "--wrong-quality: '0' is no quality within 1..100"),
        (["--seed", -1], "must be a whole number from 0 to 4294967295, got -1"),
        (["--weights", "jpeg"], "no weights 'jpeg'"),
        (["--json", "photos.png"], "named like a picture"),
    ],
)
def test_mistakes_are_named(refusal: Callable, weights: Path, photos: Path, options: list, message: str) -> None:
    assert message in refusal("guidance", "--weights", weights, "--sets", photos, "--device", "cpu", *options)
