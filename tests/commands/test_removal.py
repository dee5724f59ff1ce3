"""`test.py figure 7`: photos of unknown quality, what is drawn and written, and mistakes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from restoration import load, restore_array
from tests.networks import save_tiny, tiny_restorer
from tests.program import run
from tests.synthetic import picture, save


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two photos, 80x60 and 60x80."""
    for name, size in (("a.jpg", (60, 80)), ("b.png", (80, 60))):
        save(tmp_path / "photos" / name, picture(*size))
    return tmp_path / "photos"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A colour network that changes something."""
    return save_tiny(tmp_path / "tiny.safetensors", tiny_restorer(3, tail_std=0.3))


def words(photos: Path, *arguments: object) -> list:
    out = ["--output", photos.parent / "out", "--dots-per-inch", 30, "--device", "cpu"]
    return ["figure", 7, "--images", photos, *out, *arguments]


def test_photos_are_drawn_and_recorded(photos: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    run(*words(photos, "--systems", weights, "--crop", "0,0,20,10", "5,6,20,30"))
    out = photos.parent / "out"
    assert sorted(path.suffix for path in out.iterdir()) == [".json", ".pdf", ".png", ".svg"]
    content = json.loads((out / "figure_7.json").read_text())
    assert content["settings"] == {"amplify": 8, "crops": [[0, 0, 20, 10], [5, 6, 20, 30]]}
    photo = picture(80, 60)
    change = photo.astype(float) - restore_array(load(weights), photo)
    found = content["photos"][1]
    assert found["image"] == "b.png" and found["removed"]["tiny"]["largest"] == abs(change).max() > 0
    assert found["removed"]["tiny"]["root_mean_square"] == pytest.approx(np.sqrt(np.mean(change**2)))
    assert content["provenance"]["tiny"]["weights"] == "tiny.safetensors"
    assert "(a.jpg, b.png)" in content["caption"] and content["caption"] in capsys.readouterr().out


def test_a_part_is_chosen_where_none_is_given(photos: Path, weights: Path) -> None:
    run(*words(photos, "--systems", weights, "fast_tiny_gray", "--amplify", 3))
    content = json.loads((photos.parent / "out" / "figure_7.json").read_text())
    assert content["settings"] == {"amplify": 3, "crops": [[0, 0, 80, 60], [0, 0, 60, 80]]}
    assert "the part from which tiny removes most" in content["caption"] and "times 3" in content["caption"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crop", "0,0,9,9"], "--crop takes a part of each photo, got 1 for 2 photos"),
        (["--crop", "0,0,9,9", "50,0,20,9"], "the crop 50,0,20,9 reaches outside b.png, which is 60x80 pixels"),
        (["--systems", "jpeg"], "no weights 'jpeg'"),
        (["--systems", "cqe_gray"], "a restoration network (stage 2) is needed"),
        (["--amplify", 65], "--amplify: must be at most 64, got 65"),
        (["--images", "no_such.jpg"], "no_such.jpg"),
    ],
)  # fmt: skip
def test_mistakes_are_named(photos: Path, refusal: Callable, arguments: list, message: str) -> None:
    assert message in refusal(*words(photos, "--systems", "fast_tiny_color", *arguments))


def test_too_many_photos_and_systems(photos: Path, weights: Path, refusal: Callable) -> None:
    nine = [photos / "a.jpg"] * 9
    assert "at most 8 photos are shown, got 9" in refusal(*words(photos, "--images", *nine, "--systems", weights))
    four = [save_tiny(photos.parent / f"{index}.safetensors") for index in range(4)]
    line = refusal(*words(photos, "--systems", *four))
    assert "--systems takes at most 3 weights of different names, got 0, 1, 2, 3" in line
