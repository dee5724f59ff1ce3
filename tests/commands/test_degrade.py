"""`test.py degrade`: the images of an evaluation as files, in the layout that `evaluate --restored` reads."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.color import luma
from data.images import read_image
from data.jpeg import encode, jpeg_roundtrip
from tests.program import run
from tests.synthetic import save_mosaic


@pytest.fixture
def clean(tmp_path: Path) -> dict[str, np.ndarray]:
    """Two small colour images where LIVE1 belongs, by stem; a stem may have dots."""
    stems = ("a", "b.x")
    return {
        stem: save_mosaic(tmp_path / "data" / "live1" / f"{stem}.png", 24, 41, 3, seed=i)
        for i, stem in enumerate(stems)
    }


@pytest.mark.parametrize("channels", ["gray", "color"])
def test_the_files_are_what_an_evaluation_restores(tmp_path: Path, clean: dict, channels: str) -> None:
    shared = ["--sets", "live1", "--quality", 10, 40, "--channels", channels, "--data-root", tmp_path / "data"]
    run("degrade", *shared, "--output", tmp_path / "out")
    for stem, rgb in clean.items():
        truth = luma(rgb) if channels == "gray" else rgb
        for quality in (10, 40):
            folder = tmp_path / "out" / "live1" / str(quality)
            assert (folder / f"{stem}.jpg").read_bytes() == encode(truth, quality)
            for suffix in (".jpg", ".png"):
                np.testing.assert_array_equal(read_image(folder / f"{stem}{suffix}"), jpeg_roundtrip(truth, quality))
    assert len(list((tmp_path / "out").rglob("*.*"))) == 8
    run("evaluate", *shared, "--restored", tmp_path / "out", "--json", tmp_path / "o.json")
    for scores in json.loads((tmp_path / "o.json").read_text())["results"]["live1"].values():
        assert scores["gain"] == scores["worst_gain"] == 0


def test_images_coded_twice_or_at_a_drawn_quality_are_written_too(tmp_path: Path, clean: dict) -> None:
    given = ["--sets", "live1", "--data-root", tmp_path / "data", "--double", 30, 50, "--shift", "3,4"]
    for extra in ([], ["--quality", "random", "--seed", 1]):
        output = tmp_path / f"out{len(extra)}"
        run("degrade", *given, *extra, "--output", output)
        run("evaluate", *given, *extra, "--restored", output, "--json", tmp_path / "o.json")
        results = json.loads((tmp_path / "o.json").read_text())["results"]["live1"]
        assert set(results) == {"30+50", "random"} if extra else {"30+50"}
        assert all(scores["gain"] == 0 for scores in results.values())
    assert read_image(tmp_path / "out0" / "live1" / "30+50" / "a.png").shape == (20, 38)


def test_nothing_is_overwritten(tmp_path: Path, clean: dict, refusal: Callable) -> None:
    given = ["degrade", "--sets", "live1", "--quality", 10, "--data-root", tmp_path / "data"]
    restored = tmp_path / "mine" / "live1" / "10" / "b.x.png"
    restored.parent.mkdir(parents=True)
    Image.new("L", (41, 24)).save(restored)
    assert "b.x.png exists, and nothing is overwritten; name another folder" in refusal(
        *given, "--output", tmp_path / "mine"
    )
    (tmp_path / "file").write_text("")
    assert "cannot write to the folder" in refusal(*given, "--output", tmp_path / "file")
    assert "--output: is empty" in refusal(*given, "--output", "")


def test_several_systems_are_scored_by_their_images(tmp_path: Path, clean: dict, capsys: pytest.CaptureFixture) -> None:
    given = ["--sets", "live1", "--quality", 10, "--data-root", tmp_path / "data"]
    run("degrade", *given, "--output", tmp_path / "jpegs")
    truth = tmp_path / "truth" / "live1" / "10"
    truth.mkdir(parents=True)
    for stem, rgb in clean.items():
        Image.fromarray(luma(rgb)).save(truth / f"{stem}.png")
    systems = ["--restored", f"Perfect={tmp_path / 'truth'}", "--restored", tmp_path / "jpegs"]
    run("evaluate", *given, *systems, "--json", tmp_path / "o.json")
    first, second = json.loads((tmp_path / "o.json").read_text())["measured"]
    assert (first["method"], second["method"]) == ("Perfect", "jpegs")
    assert first["results"]["live1"]["10"]["ssim"] == 1 > second["results"]["live1"]["10"]["ssim"]
    shown = capsys.readouterr().out
    assert "Perfect, gray: " in shown and "jpegs, gray: " in shown


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("Name=", "--restored takes DIR or NAME=DIR, got 'Name='"),
        ("=none", "--restored takes DIR or NAME=DIR, got '=none'"),
        ("Name=none", "none is not a folder"),
    ],
)
def test_a_system_without_images_is_named(
    tmp_path: Path, clean: dict, refusal: Callable, monkeypatch: pytest.MonkeyPatch, given: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refusal("evaluate", "--sets", "live1", "--data-root", "data", "--restored", given)


def test_images_coded_twice_and_at_drawn_qualities_are_what_an_evaluation_restores(tmp_path: Path, clean: dict) -> None:
    shared = [
        "--sets",
        "live1",
        "--quality",
        "random:30..90",
        "--seed",
        4,
        "--double",
        30,
        60,
        "--data-root",
        tmp_path / "data",
    ]
    run("degrade", *shared, "--output", tmp_path / "out")
    once = jpeg_roundtrip(luma(clean["a"]), 30)
    written = read_image(tmp_path / "out" / "live1" / "30+60" / "a.png")
    np.testing.assert_array_equal(written, jpeg_roundtrip(np.ascontiguousarray(once[4:, 4:]), 60))
    run("evaluate", *shared, "--restored", tmp_path / "out", "--json", tmp_path / "o.json")
    found = json.loads((tmp_path / "o.json").read_text())["results"]["live1"]
    assert list(found) == ["random", "30+60"]
    for scores in found.values():
        assert scores["gain"] == scores["worst_gain"] == 0
