"""`test.py figure 6`: what it draws and writes, and crops that cannot be drawn."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.jpeg import jpeg_roundtrip
from evaluation.scores.image_sets import read_clean
from evaluation.scores.metrics import score
from tests.networks import save_tiny, tiny_restorer
from tests.program import run
from tests.synthetic import picture, save, write_pictures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with one image of LIVE1, 80 pixels wide and 72 high, called b."""
    write_pictures(tmp_path / "data" / "live1", ["a", "b"], size=72)
    return tmp_path / "data"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A colour network of a size to test with."""
    return save_tiny(tmp_path / "tiny.safetensors", tiny_restorer(3))


def options(root: Path, *arguments: object) -> list:
    given = {"--image": ["live1/b"], "--systems": ["jpeg"], "--crop": ["8,16,24,16"], "--output": [root.parent / "out"]}
    for index, word in enumerate(arguments):
        if str(word).startswith("--"):
            following = [str(later).startswith("--") for later in arguments[index + 1 :]]
            stop = following.index(True) if True in following else len(following)
            given[str(word)] = list(arguments[index + 1 : index + 1 + stop])
    words = [word for option, values in given.items() for word in (option, *values)]
    return ["figure", 6, "--data-root", root, "--dots-per-inch", 30, "--device", "cpu", *words]


def test_systems_are_drawn_and_recorded(root: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    run(*options(root, "--systems", "jpeg", weights, "jpeg", "--channels", "color", "--quality", 20))
    out = root.parent / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "figure_6.json",
        "figure_6.pdf",
        "figure_6.png",
        "figure_6.svg",
    ]
    content = json.loads((out / "figure_6.json").read_text())
    assert content["settings"] == {"image": "b.png", "quality": 20, "channels": "color", "crops": [[8, 16, 24, 16]]}
    jpeg, ours = content["systems"]
    clean = np.asarray(Image.open(root / "live1" / "b.png"))
    assert {name: jpeg[name] for name in ("psnr", "ssim", "psnrb")} == score(jpeg_roundtrip(clean, 20), clean)
    assert (jpeg["name"], ours["name"]) == ("jpeg", "tiny") and "weights_sha256" in ours["provenance"]
    assert "b coded at quality 20, color" in content["caption"] and content["caption"] in capsys.readouterr().out


def test_images_of_another_system_are_scored(root: Path, refusal: Callable) -> None:
    save(root.parent / "other" / "live1" / "10" / "b.png", read_clean(root / "live1" / "b.png", "gray"))
    run(*options(root, "--restored", f"theirs={root.parent / 'other'}"))
    jpeg, theirs = json.loads((root.parent / "out" / "figure_6.json").read_text())["systems"]
    assert theirs["name"] == "theirs" and theirs["psnr"] is None and jpeg["psnr"] < 100  # equal images: infinite
    save(root.parent / "again" / "live1" / "10" / "b.png", read_clean(root / "live1" / "b.png", "gray"))
    twice = ["--restored", root.parent / "other", "--restored", root.parent / "again"]
    run(*options(root), *twice)
    names = [one["name"] for one in json.loads((root.parent / "out" / "figure_6.json").read_text())["systems"]]
    assert names == ["jpeg", "other", "again"]
    assert "20/b.png is missing" in refusal(*options(root, "--restored", root.parent / "other", "--quality", 20))


def test_a_system_with_a_file_for_each_quality(root: Path, refusal: Callable) -> None:
    save_tiny(root.parent / "each_q10.safetensors")
    pattern = root.parent / "each_q{quality}.safetensors"
    line = refusal(*options(root, "--systems", "jpeg", pattern, "--quality", 20))
    assert "each has weights for quality 10, but not for 20" in line
    run(*options(root, "--systems", pattern))
    content = json.loads((root.parent / "out" / "figure_6.json").read_text())
    assert content["systems"][0]["name"] == "each"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crop", "60,0,24,16"], "the crop 60,0,24,16 reaches outside b.png, which is 80x72 pixels"),
        (["--crop", "0,60,24,16"], "reaches outside b.png"),
        (["--crop", "100,0,24,16"], "reaches outside b.png"),
        (["--crop", "1,2,3"], "must be four whole numbers, left,top,width,height, got 1,2,3"),
        (["--crop", "1,2,-3,4"], "must be four whole numbers"),
        (["--crop", "1,2,0,4"], "has no pixels: 1,2,0,4"),
        (["--crop", *["0,0,8,8"] * 9], "--crop takes at most 8 parts, got 9"),
        (["--dots-per-inch", 100_000], "--dots-per-inch: must be at most 1200, got 100000"),
        (["--systems", "fast_tiny_color"], "restores colour (3-channel) images, but luma (1-channel) ones"),
        (["--quality", 0], "--quality: must be a whole number from 1 to 100, got 0"),
    ],
)  # fmt: skip
def test_mistakes_are_named(root: Path, refusal: Callable, arguments: list, message: str) -> None:
    assert message in refusal(*options(root, *arguments))


def test_colour_weights_on_a_gray_image(root: Path, refusal: Callable) -> None:
    Image.fromarray(picture(72, 80)[..., 0]).save(root / "live1" / "b.png")
    line = refusal(*options(root, "--systems", "fast_tiny_color", "--channels", "color"))
    assert "b.png is a gray image; a colour evaluation needs colour images" in line
