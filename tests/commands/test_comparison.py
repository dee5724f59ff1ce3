"""`test.py figure 6`: what it writes, and one clear line for every mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cqe.encoder import QualityEncoder
from data.jpeg import jpeg_roundtrip
from evaluation.scores.comparison import Crop, Shown, comparison_figure
from evaluation.scores.metrics import score
from restoration.networks import FastOptions, NetworkConfig, build_restorer
from restoration.weights import save_restorer
from tests.program import run
from tests.synthetic import picture, write_pictures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with one image of LIVE1, 80 pixels wide and 72 high, called b."""
    write_pictures(tmp_path / "data" / "live1", ["a", "b"], size=72)
    return tmp_path / "data"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A colour network of a size to test with."""
    config = NetworkConfig("fast", fast=FastOptions(widths=(4, 4, 4), blocks_down=(0, 0, 0), blocks_up=(1, 0, 0)))
    save_restorer(build_restorer(config, QualityEncoder(3, width=8), 3), config, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


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
    assert sorted(path.name for path in out.iterdir()) == ["figure_6.json", "figure_6.png", "figure_6.svg"]
    content = json.loads((out / "figure_6.json").read_text())
    assert content["settings"] == {"image": "b.png", "quality": 20, "channels": "color", "crops": [[8, 16, 24, 16]]}
    jpeg, ours = content["systems"]
    clean = np.asarray(Image.open(root / "live1" / "b.png"))
    assert {name: jpeg[name] for name in ("psnr", "ssim", "psnrb")} == score(jpeg_roundtrip(clean, 20), clean)
    assert (jpeg["name"], ours["name"]) == ("jpeg", "tiny") and "weights_sha256" in ours["provenance"]
    assert "b coded at quality 20, color" in content["caption"] and content["caption"] in capsys.readouterr().out


def test_crops_are_shown_magnified_and_marked_in_the_whole() -> None:
    whole = picture(60, 90)
    jpeg, crops = jpeg_roundtrip(whole, 10), [Crop(10, 5, 20, 20), Crop(40, 30, 20, 10)]
    scores = {"psnr": 25.125, "ssim": 0.75049, "psnrb": 24.0}
    figure = comparison_figure([Shown("JPEG", jpeg, scores), Shown("original", whole, None)], crops)
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    expected = [whole, jpeg[5:25, 10:30], jpeg[30:40, 40:60], whole[5:25, 10:30], whole[30:40, 40:60]]
    for found, pixels in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(found, pixels)
    first = figure.axes[0]
    assert {patch.get_bbox().bounds for patch in first.patches} == {(9.5, 4.5, 20, 20), (39.5, 29.5, 20, 10)}
    assert [text.get_text() for text in first.texts] == ["a", "b"]
    assert [axes.get_title() for axes in figure.axes[1:]] == ["JPEG\n25.12 dB / 0.750", "", "original\n", ""]


@pytest.mark.parametrize("size", [(60, 90), (90, 60)])
def test_everything_fits_and_keeps_its_shape(size: tuple[int, int]) -> None:
    whole, crops = picture(*size), [Crop(0, 0, 30, 20), Crop(5, 5, 20, 30)]
    figure = comparison_figure([Shown(name, whole, None) for name in "abc"], crops)
    inches = figure.get_size_inches()
    boxes = [axes.get_position().bounds * np.tile(inches, 2) for axes in figure.axes]
    for (left, bottom, width, height), axes in zip(boxes, figure.axes, strict=True):
        rows, columns = axes.images[0].get_array().shape[:2]
        assert height / width == pytest.approx(rows / columns)
        assert left >= 0 and bottom >= 0 and left + width <= inches[0] and bottom + height <= inches[1]
    tops = [bottom + height for _, bottom, _, height in boxes]
    assert tops[1] == pytest.approx(tops[0]) and boxes[2][1] == pytest.approx(boxes[0][1])  # as high as the crops


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
        (["--image", "live1/c"], "no image 'live1/c'"),
        (["--image", __file__], "is not an image that can be read"),
        (["--quality", 0], "--quality: must be a whole number from 1 to 100, got 0"),
        (["--systems", "nothing"], "no weights 'nothing'"),
        (["--systems", "fast_tiny_color"], "restores colour (3-channel) images, but luma (1-channel) ones"),
        (["--systems", "fast_tiny_gray", "--channels", "color"], "restores luma (1-channel) images"),
        (["--output", __file__], "cannot be written"),
    ],
)  # fmt: skip
def test_mistakes_are_named(root: Path, capsys: pytest.CaptureFixture, arguments: list, message: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run(*options(root, *arguments))
    captured = capsys.readouterr()
    assert exit_info.value.code == 2 and captured.err.count("\n") == 1 and message in captured.err
    assert captured.out == "" and not (root.parent / "out").exists()


def test_colour_weights_on_a_gray_image(root: Path, capsys: pytest.CaptureFixture) -> None:
    Image.fromarray(picture(72, 80)[..., 0]).save(root / "live1" / "b.png")
    with pytest.raises(SystemExit):
        run(*options(root, "--systems", "fast_tiny_color", "--channels", "color"))
    assert "b.png is a gray image; a colour evaluation needs colour images" in capsys.readouterr().err
