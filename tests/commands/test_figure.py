"""`test.py figure 2|5`: the files it writes, and one clear line for mistakes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cqe.encoder import QualityEncoder
from cqe.weights import load_encoder, save_encoder
from data.color import luma, to_tensor
from data.jpeg import jpeg_roundtrip
from data.splits import bsds500_stems
from evaluation import plot_files
from tests.networks import save_tiny, tiny_restorer
from tests.program import run
from tests.synthetic import picture, write_pictures


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_encoder(QualityEncoder(1, width=8).eval(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with two images 72 pixels high, 72 and 80 wide, as LIVE1."""
    write_pictures(tmp_path / "data" / "live1", ["a", "b"], size=72)
    return tmp_path / "data"


@pytest.fixture
def figure(tmp_path: Path, weights: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Run `figure NUMBER` into `out`; returns the JSON."""
    monkeypatch.setattr(plot_files, "DOTS_PER_INCH", 30)

    def make(number: int, *arguments: object, color_mode: str = "gray") -> dict:
        settings = {2: ["--crop-size", 16, "--perplexity", 5], 5: ["--crop-size", 16, "--size", 64]}[number]
        common = ["--weights", weights, "--output", tmp_path / "out", "--data-root", root, "--device", "cpu"]
        run("figure", number, *common, "--channels", color_mode, *settings, *arguments)
        return json.loads((tmp_path / "out" / f"figure_{number}.json").read_text())

    return make


@pytest.fixture
def refused(tmp_path: Path, weights: Path, root: Path, refusal: Callable) -> Callable:
    """Run what must fail, and write nothing; returns the line."""
    return lambda number, *arguments: refusal(
        "figure", number, "--weights", weights, "--output", tmp_path / "out", "--data-root", root, *arguments
    )


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_clusters_are_drawn_and_recorded(figure: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    content = figure(2, "--projector", tmp_path / "board")
    assert written(tmp_path / "out") == ["figure_2.json", "figure_2.pdf", "figure_2.png", "figure_2.svg"]
    assert [panel["panel"] for panel in content["panels"]] == ["a", "b", "c"]
    points = content["panels"][2]["points"]
    assert [(point["image"], point["quality"]) for point in points] == [(n, q) for n in "ab" for q in range(5, 96, 10)]
    assert "t-SNE (perplexity 5, seed 0)" in content["caption"] and "by tiny, gray, live1:" in content["caption"]
    assert content["settings"] == {
        "channels": "gray", "sets": ["live1"], "crop_size": 16, "perplexity": 5, "seed": 0,
    }  # fmt: skip
    assert {"weights_sha256", "device", "precision", "scikit_learn", "matplotlib"} <= set(content["provenance"])
    assert (tmp_path / "board" / "projector_config.pbtxt").is_file()
    printed = capsys.readouterr().out
    assert "panel (d) left out" in printed and "--real" in printed and str(tmp_path / "out" / "figure_2.svg") in printed


def test_photos_are_panel_d(figure: Callable, root: Path, capsys: pytest.CaptureFixture) -> None:
    save_photo(root / "street" / "p.jpg")
    content = figure(2, "--real", root / "street")
    points = content["panels"][3]["points"]
    assert [(point["image"], point["quality"]) for point in points[20:]] == [("p.jpg", None)] * 4
    assert "the 1 of street" in content["caption"] and "left out" not in capsys.readouterr().out


def test_colour_of_a_restorers_own_encoder_with_the_photos_at_hand(figure: Callable, weights: Path, root: Path) -> None:
    save_tiny(weights, tiny_restorer(3))
    save_photo(root / "twitter" / "p.jpg")
    content = figure(2, color_mode="color")
    assert "16x16 grid" in content["panels"][1]["title"]
    assert "the 1 of twitter" in content["caption"] and len(content["panels"][3]["points"]) == 24
    assert [column["quality"] for column in figure(5, color_mode="color")["columns"]] == [10, 30, 50, 70, 90]


def save_photo(path: Path) -> None:
    path.parent.mkdir()
    Image.fromarray(picture(40, 50)).save(path, quality=37)


def test_maps_explain_the_resemblance_to_the_qualities_in_other_images(figure: Callable, root: Path) -> None:
    names = sorted(bsds500_stems("val"))[:3]
    write_pictures(root / "bsds500" / "val", names, size=64)
    content = figure(5, "--quality", 40, 20, 40, "--image", root / "bsds500" / "val" / f"{names[1]}.png")
    assert [column["quality"] for column in content["columns"]] == [20, 40]
    assert all(0.5 < column["score"] <= 1 for column in content["columns"])
    assert f"{names[1]} coded at" in content["caption"] and "2 images of bsds500/val" in content["caption"]


def test_maps_explain_the_length_without_prototypes(
    figure: Callable, weights: Path, root: Path, tmp_path: Path
) -> None:
    content = figure(5, "--quality", 20, "--image", "live1/b")
    assert written(tmp_path / "out") == ["figure_5.json", "figure_5.pdf", "figure_5.png", "figure_5.svg"]
    encoder = load_encoder(weights, channels=1)
    clean = luma(np.asarray(Image.open(root / "live1" / "b.png")))
    with torch.no_grad():
        representation, _ = encoder(to_tensor(jpeg_roundtrip(clean, 20)[4:68, 8:72])[None])
    assert content["columns"][0]["score"] == pytest.approx(representation.norm().item(), rel=1e-5)
    assert "length of the representation" in content["caption"]


def test_an_image_is_not_its_own_prototype(refused: Callable, tmp_path: Path) -> None:
    write_pictures(tmp_path / "one", ["a"], size=72)
    options = ["--image", tmp_path / "one" / "a.png", "--prototypes", tmp_path / "one"]
    assert "holds only the image shown" in refused(5, *options)


@pytest.mark.parametrize(
    ("number", "options", "message"),
    [
        (3, [], "invalid choice: '3' (choose from"),
        (2, ["--perplexity", 0], "--perplexity: must be a whole number of at least 1, got 0"),
        (2, ["--projector", "."], "not an empty folder"),
        (2, ["--image", "x.png"], "unrecognized arguments: --image x.png"),
        (2, ["--channels", "color"], "--channels"),
        (5, ["--image", "live1/c"], "no image 'live1/c'"),
        (5, ["--image", "nothing.png"], "no image 'nothing.png': neither a file nor SET/STEM"),
        (5, ["--data-root", "nowhere"], "name an image, or the folder"),
        (5, ["--output", __file__], "cannot be written"),
    ],
)  # fmt: skip
def test_mistakes_are_named(refused: Callable, number: int, options: list, message: str) -> None:
    assert message in refused(number, *options)
