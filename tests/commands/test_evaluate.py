"""`test.py evaluate` and `test.py table`: outputs, and one clear line for every mistake."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cqe.encoder import QualityEncoder
from data.color import luma
from data.jpeg import jpeg_roundtrip
from data.splits import bsds500_stems
from evaluation.scores.metrics import score
from restoration.networks import FastOptions, NetworkConfig, build_restorer
from restoration.released import load_released
from restoration.weights import save_restorer
from tests.program import SCRIPT, run
from tests.restoration.test_released import released_weights

Refusal = Callable[..., str]


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture) -> Refusal:
    """Run a command that must fail with status 2, one line on stderr and nothing written; returns the line."""

    def check(*arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as exit_info:
            run(*arguments, "--data-root", tmp_path)
        captured = capsys.readouterr()
        assert exit_info.value.code == 2
        assert captured.out == "" and captured.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return captured.err

    return check


@pytest.fixture
def live1(tmp_path: Path) -> dict[str, np.ndarray]:
    """Two small colour images where LIVE1 belongs, by stem."""
    return {
        stem: save_image(tmp_path / "live1" / f"{stem}.png", 24, 40, 3, seed=seed) for seed, stem in enumerate("ab")
    }


def save_image(path: Path, *shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (shape[0] // 4, shape[1] // 4, *shape[2:]), dtype=np.uint8)
    image = image.repeat(4, axis=0).repeat(4, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return image


def save_tiny_network(path: Path, channels: int, *, fill: float | None = None) -> None:
    """An untrained network whose last layer starts where the class leaves it, or is filled with one number."""
    config = NetworkConfig("fast", fast=FastOptions(widths=(4, 4, 4), blocks_down=(0, 0, 0), blocks_up=(1, 0, 0)))
    restorer = build_restorer(config, QualityEncoder(channels, width=4), channels)
    if fill is not None:
        torch.nn.init.constant_(restorer.tail.weight, fill)
    save_restorer(restorer, config, path)


def test_json_holds_scores_of_every_image_set_and_quality(tmp_path: Path, live1: dict) -> None:
    output = tmp_path / "results" / "out.json"
    run("evaluate", "--weights", "jpeg", "--sets", "live1", "--quality", 10, 40, "--channels", "gray",
        "--data-root", tmp_path, "--json", output)  # fmt: skip
    content = json.loads(output.read_text())
    assert {"method", "channels", "protocol", "results"} <= set(content)
    assert (content["method"], content["channels"]) == ("jpeg", "gray")
    assert list(content["results"]) == ["live1"] and list(content["results"]["live1"]) == ["10", "40"]
    for quality, scores in content["results"]["live1"].items():
        expected = {stem: score(jpeg_roundtrip(luma(rgb), int(quality)), luma(rgb)) for stem, rgb in live1.items()}
        assert scores["images"] == {stem: figures | {"gain": 0} for stem, figures in expected.items()}
        assert scores["psnr"] == pytest.approx((expected["a"]["psnr"] + expected["b"]["psnr"]) / 2, abs=1e-12)
    assert [path.name for path in output.parent.iterdir()] == ["out.json"]


def test_terminal_and_markdown_show_the_same_figures(
    tmp_path: Path, live1: dict, capsys: pytest.CaptureFixture
) -> None:
    run("evaluate", "--weights", "jpeg", "--sets", "live1", "--quality", 20, "--channels", "color",
        "--data-root", tmp_path, "--markdown", tmp_path / "out.md")  # fmt: skip
    expected = [score(jpeg_roundtrip(rgb, 20), rgb)["psnr"] for rgb in live1.values()]
    figure = f"{sum(expected) / 2:.2f}"
    captured = capsys.readouterr()
    assert f"live1       20  {figure} / " in captured.out
    assert f"| live1 | 20 | {figure} / " in (tmp_path / "out.md").read_text()
    assert "image/s" not in captured.err  # no progress bar off a terminal


def test_folder_of_images_is_a_set_of_its_own_name(tmp_path: Path) -> None:
    save_image(tmp_path / "holiday" / "1.png", 16, 16)
    run("evaluate", "--weights", "jpeg", "--sets", tmp_path / "holiday", "--quality", 50, "--json", tmp_path / "o.json")
    assert list(json.loads((tmp_path / "o.json").read_text())["results"]) == ["holiday"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_network_is_scored_and_its_file_recorded(tmp_path: Path, live1: dict, precision: str) -> None:
    save_tiny_network(tmp_path / "tiny.safetensors", 1)
    run("evaluate", "--weights", tmp_path / "tiny.safetensors", "--sets", "live1", "--quality", 10, "--device", "cpu",
        "--precision", precision, "--data-root", tmp_path, "--json", tmp_path / "o.json")  # fmt: skip
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["method"] == "tiny" and set(content["results"]["live1"]["10"]["images"]) == {"a", "b"}
    assert content["results"]["live1"]["10"]["psnr"] > 0
    assert len(content["provenance"]["weights_sha256"]) == 64 and content["provenance"]["precision"] == precision


def test_the_authors_file_is_scored_as_the_network_it_holds(tmp_path: Path) -> None:
    torch.save(released_weights("gray"), tmp_path / "deblock_gray.pth")
    clean = save_image(tmp_path / "one" / "photo.png", 24, 16)
    run("evaluate", "--weights", tmp_path / "deblock_gray.pth", "--sets", tmp_path / "one", "--quality", 20,
        "--json", tmp_path / "o.json")  # fmt: skip
    coded = torch.tensor(jpeg_roundtrip(clean, 20))[None, None].float() / 255
    with torch.no_grad():
        output = load_released(released_weights("gray"))(coded)[0, 0]
    expected = score((output.clamp(0, 1) * 255).round().byte().numpy(), clean)
    content = json.loads((tmp_path / "o.json").read_text())
    found = content["results"]["one"]["20"]["images"]["photo"]
    assert {metric: found[metric] for metric in expected} == pytest.approx(expected, abs=1e-3)


def test_a_network_that_gives_no_numbers_gets_no_score(refusal: Refusal, tmp_path: Path, live1: dict) -> None:
    save_tiny_network(tmp_path / "tiny.safetensors", 1, fill=torch.nan)
    line = refusal("evaluate", "--weights", tmp_path / "tiny.safetensors", "--sets", "live1")
    assert "not finite" in line


@pytest.mark.parametrize("option", ["--json", "--markdown"])
@pytest.mark.parametrize("name", ["photo.png", "net.safetensors", "deblock_gray.pth"])
def test_pictures_and_weights_are_no_outputs(refusal: Refusal, live1: dict, option: str, name: str) -> None:
    assert "named like a picture or weights" in refusal(
        "evaluate", "--weights", "jpeg", "--sets", "live1", option, name
    )


def test_two_outputs_need_two_names(refusal: Refusal, live1: dict, tmp_path: Path) -> None:
    both = ["--json", tmp_path / "o", "--markdown", tmp_path / "o"]
    assert "name two files" in refusal("evaluate", "--weights", "jpeg", "--sets", "live1", *both)


def test_network_for_other_channels_is_refused(refusal: Refusal, tmp_path: Path, live1: dict) -> None:
    save_tiny_network(tmp_path / "tiny.safetensors", 1)
    line = refusal("evaluate", "--weights", tmp_path / "tiny.safetensors", "--sets", "live1", "--channels", "color")
    assert "tiny.safetensors" in line and "--channels" in line


def test_unknown_weights_are_refused(refusal: Refusal, live1: dict) -> None:
    assert "nonesuch" in refusal("evaluate", "--weights", "nonesuch", "--sets", "live1")


def test_other_systems_images_are_scored(tmp_path: Path, live1: dict) -> None:
    for stem, rgb in live1.items():
        output = tmp_path / "other" / "live1" / "10" / f"{stem}.png"
        output.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(luma(rgb)).save(output)
    run("evaluate", "--restored", tmp_path / "other", "--sets", "live1", "--quality", 10,
        "--data-root", tmp_path, "--json", tmp_path / "o.json")  # fmt: skip
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["method"] == "other"
    assert content["results"]["live1"]["10"]["psnr"] is None  # equal images: infinite
    assert content["results"]["live1"]["10"]["ssim"] == 1
    assert content["results"]["live1"]["10"]["jpeg"]["ssim"] < 1


def test_missing_images_of_another_system_are_named_and_counted(refusal: Refusal, tmp_path: Path, live1: dict) -> None:
    save_image(tmp_path / "other" / "live1" / "10" / "a.png", 24, 40)
    line = refusal("evaluate", "--restored", tmp_path / "other", "--sets", "live1", "--quality", 10, 20)
    assert "live1/20/a.png is missing (3 of 4 " in line


def test_table_shows_measured_rows_below_the_papers(tmp_path: Path, live1: dict, capsys: pytest.CaptureFixture) -> None:
    run("table", 3, "--weights", "jpeg", "--data-root", tmp_path, "--json", tmp_path / "o.json",
        "--markdown", tmp_path / "o.md")  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["JPEG", "QGAC", "FBCNN", "the", "jpeg"]
    assert [line for line in lines if line.endswith("left out")][0].startswith("bsds500: not under")
    assert lines[-13].startswith("JPEG: 0 of 12 figures") and lines[-12].startswith("live1 Q10 psnr: measured")
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["table"] == 3 and list(content["measured"][0]["results"]["live1"]) == ["10", "20", "30", "40"]
    assert "| jpeg | measured |" in (tmp_path / "o.md").read_text()


@pytest.mark.parametrize("number", [2, 5])
def test_tables_not_built_yet_say_so(refusal: Refusal, number: int) -> None:
    assert f"Table {number} is not built yet; tables 1, 3, 4 are" in refusal("table", number)


@pytest.mark.parametrize("quality", ["0", "101", "-5", "ten", "10.5", "90..101", "20..10", "10..20:0", ""])
def test_quality_out_of_range_names_option_and_range(refusal: Refusal, live1: dict, quality: str) -> None:
    line = refusal("evaluate", "--weights", "jpeg", "--sets", "live1", f"--quality={quality}")
    assert f"--quality: '{quality}' is no quality within 1..100 and no range such as '10..90:10'" in line


def test_qualities_may_be_ranges(tmp_path: Path, live1: dict) -> None:
    run("evaluate", "--weights", "jpeg", "--sets", "live1", "--quality", "10..25:5", 20, "90..91",
        "--data-root", tmp_path, "--json", tmp_path / "o.json")  # fmt: skip
    scores = json.loads((tmp_path / "o.json").read_text())["results"]["live1"]
    assert list(scores) == ["10", "15", "20", "25", "90", "91"]


def test_script_exits_with_status_2_and_one_line() -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "evaluate",
        "--weights",
        "jpeg",
        "--sets",
        "live1",
        "--quality",
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--quality: '0' is no quality within 1..100" in done.stderr


def test_missing_and_empty_set_folders_are_refused(refusal: Refusal, tmp_path: Path) -> None:
    assert "classic5 does not exist" in refusal("evaluate", "--weights", "jpeg", "--sets", "classic5")
    (tmp_path / "classic5").mkdir()
    assert "classic5 holds no images" in refusal("evaluate", "--weights", "jpeg", "--sets", "classic5")
    assert "holds none of live1" in refusal("table", 3, "--weights", "jpeg")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_image_among_good_ones_is_named(refusal: Refusal, tmp_path: Path, live1: dict, suffix: str) -> None:
    broken = tmp_path / "live1" / f"broken.{suffix}"
    save_image(broken, 64, 64, 3)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    line = refusal("evaluate", "--weights", "jpeg", "--sets", "live1", "--json", tmp_path / "o.json")
    assert f"broken.{suffix}" in line


def test_bsds500_training_images_are_refused_as_test(refusal: Refusal, tmp_path: Path) -> None:
    stem = min(bsds500_stems("train"))
    save_image(tmp_path / "bsds500" / "test" / f"{stem}.jpg", 16, 16, 3)
    line = refusal("evaluate", "--weights", "jpeg", "--sets", "bsds500")
    assert f"{stem}.jpg" in line and "train" in line


def test_unwritable_output_is_refused_before_anything_is_read(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refusal("evaluate", "--weights", "jpeg", "--sets", "live1", "--json", tmp_path / "file" / "o.json")
    assert "o.json cannot be written" in line


def test_system_must_be_given_once(refusal: Refusal, tmp_path: Path) -> None:
    assert "--weights --restored is required" in refusal("evaluate", "--sets", "live1")
    assert "not allowed with" in refusal("evaluate", "--weights", "jpeg", "--restored", tmp_path, "--sets", "live1")
