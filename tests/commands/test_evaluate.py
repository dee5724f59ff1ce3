"""`test.py evaluate` and `test.py table`: outputs, and one clear line for every mistake."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import outputs
from data.color import luma
from data.jpeg import jpeg_roundtrip
from evaluation.scores.metrics import score
from restoration.networks.rdn import RDN
from restoration.tiling import restore_image
from tests.networks import save_tiny, tiny_restorer
from tests.program import SCRIPT, run, run_python
from tests.synthetic import save_mosaic


@pytest.fixture
def live1(tmp_path: Path) -> dict[str, np.ndarray]:
    """Two small colour images where LIVE1 belongs, by stem."""
    return {
        stem: save_mosaic(tmp_path / "live1" / f"{stem}.png", 24, 40, 3, seed=seed) for seed, stem in enumerate("ab")
    }


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
        assert scores["images"] == {stem: values | {"gain": 0} for stem, values in expected.items()}
    assert [path.name for path in output.parent.iterdir()] == ["out.json"]


def test_terminal_and_markdown_show_the_same_scores(tmp_path: Path, live1: dict, capsys: pytest.CaptureFixture) -> None:
    run("evaluate", "--weights", "jpeg", "--sets", "live1", "--quality", 20, "--channels", "color",
        "--data-root", tmp_path, "--markdown", tmp_path / "out.md")  # fmt: skip
    expected = [score(jpeg_roundtrip(rgb, 20), rgb)["psnr"] for rgb in live1.values()]
    shown = f"{sum(expected) / 2:.2f}"
    captured = capsys.readouterr()
    assert f"live1       20  {shown} / " in captured.out
    assert f"| live1 | 20 | {shown} / " in (tmp_path / "out.md").read_text()
    assert "image/s" not in captured.err  # no progress bar off a terminal


def test_scores_are_kept_when_nobody_reads_the_table(
    tmp_path: Path, live1: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    files = [tmp_path / "out.json", tmp_path / "out.md"]
    with pytest.raises(SystemExit):
        run(
            "evaluate", "--weights", "jpeg", "--sets", "live1", "--quality", 10, "--data-root", tmp_path,
            "--json", files[0], "--markdown", files[1],
        )  # fmt: skip
    assert "results" in json.loads(files[0].read_text()) and "PSNR" in files[1].read_text()


def test_a_file_that_cannot_be_written_costs_no_other(
    tmp_path: Path, live1: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_text = outputs.write_text

    def full(path: Path, text: str) -> None:
        if Path(path).suffix == ".csv":
            raise OSError(28, "No space left on device", str(path))
        write_text(path, text)

    monkeypatch.setattr(outputs, "write_text", full)
    files = [tmp_path / name for name in ("out.csv", "out.json", "out.tex")]
    with pytest.raises(SystemExit):
        run(
            "evaluate", "--weights", "jpeg", "--sets", "live1", "--quality", 10, "--data-root", tmp_path,
            "--csv", files[0], "--json", files[1], "--latex", files[2],
        )  # fmt: skip
    assert [file.exists() for file in files] == [False, True, True]
    printed = capsys.readouterr()
    assert "live1" in printed.out and "out.csv" in printed.err and printed.err.count("\n") == 1


def test_an_output_within_another_is_refused(tmp_path: Path, live1: dict, refusal: Callable) -> None:
    given = ["evaluate", "--weights", "jpeg", "--sets", "live1", "--data-root", tmp_path]
    line = refusal(*given, "--json", tmp_path / "a" / "b.json", "--csv", tmp_path / "a")
    assert "--json is inside --csv, which is a file" in line


def test_folder_of_images_is_a_set_of_its_own_name(tmp_path: Path) -> None:
    save_mosaic(tmp_path / "holiday" / "1.png", 16, 16)
    run("evaluate", "--weights", "jpeg", "--sets", tmp_path / "holiday", "--quality", 50, "--json", tmp_path / "o.json")
    assert list(json.loads((tmp_path / "o.json").read_text())["results"]) == ["holiday"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_network_is_scored_and_its_file_recorded(tmp_path: Path, live1: dict, precision: str) -> None:
    network = tiny_restorer(tail_std=0.3)
    save_tiny(tmp_path / "tiny.safetensors", network)
    run("evaluate", "--weights", tmp_path / "tiny.safetensors", "--sets", "live1", "--quality", 10, "--device", "cpu",
        "--precision", precision, "--data-root", tmp_path, "--json", tmp_path / "o.json")  # fmt: skip
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["method"] == "tiny"
    clean = {stem: luma(rgb) for stem, rgb in live1.items()}
    expected = {stem: score(restore_image(network, jpeg_roundtrip(clean[stem], 10)), clean[stem]) for stem in clean}
    for stem, found in content["results"]["live1"]["10"]["images"].items():
        # bfloat16 keeps 8 bits of the residual.
        assert found["psnr"] == pytest.approx(expected[stem]["psnr"], abs=1e-3 if precision == "float32" else 0.1)
    assert len(content["provenance"]["weights_sha256"]) == 64 and content["provenance"]["precision"] == precision


def test_a_system_may_have_a_file_for_each_quality(tmp_path: Path, live1: dict, refusal: Callable) -> None:
    networks = {quality: tiny_restorer(tail_std=0.3) for quality in (10, 40)}
    for quality, network in networks.items():
        save_tiny(tmp_path / f"tiny_q{quality}.safetensors", network)
    given = ["evaluate", "--weights", tmp_path / "tiny_q{quality}.safetensors", "--sets", "live1", "--device", "cpu",
        "--data-root", tmp_path]  # fmt: skip
    run(*given, "--quality", 10, 40, "--json", tmp_path / "o.json")
    content = json.loads((tmp_path / "o.json").read_text())
    assert (content["method"], content["provenance"]["weights"]) == ("tiny", "tiny_q{quality}.safetensors")
    for quality, network in networks.items():
        for stem, rgb in live1.items():
            expected = score(restore_image(network, jpeg_roundtrip(luma(rgb), quality)), luma(rgb))
            found = content["results"]["live1"][str(quality)]["images"][stem]
            assert found["psnr"] == pytest.approx(expected["psnr"], abs=1e-3)
    assert "tiny has weights for quality 10, 40, but not for 20; choose by" in refusal(*given, "--quality", 10, 20)
    given[2] = tmp_path / "none_{quality}.mat"
    assert "none_{quality}.mat for any quality; {quality} stands for a number" in refusal(*given)


def test_another_systems_file_is_named_and_scored(tmp_path: Path, live1: dict, refusal: Callable) -> None:
    network = RDN(1, width=4, growth=4, blocks=1, layers=1)
    torch.save(network.state_dict(), tmp_path / "published.pt")
    given = ["evaluate", "--weights", tmp_path / "published.pt", "--sets", "live1", "--quality", 10, "--device", "cpu",
        "--data-root", tmp_path]  # fmt: skip
    run(*given, "--precision", "bfloat16", "--json", tmp_path / "o.json")
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["method"] == "published" and content["provenance"]["system"] == "RDN"
    assert content["provenance"]["precision"] == "float32"  # as its authors ran it, whatever was asked for
    network.as_published = True
    expected = [
        score(restore_image(network, jpeg_roundtrip(luma(rgb), 10)), luma(rgb))["psnr"] for rgb in live1.values()
    ]
    assert content["results"]["live1"]["10"]["psnr"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert "published.pt restores luma (1-channel) images, but colour" in refusal(*given, "--channels", "color")
    torch.save(RDN(3, width=4, growth=4, blocks=1, layers=1).state_dict(), tmp_path / "published.pt")
    assert "published.pt restores colour (3-channel) images, but luma" in refusal(*given, "--channels", "gray")


def test_a_network_that_gives_no_numbers_gets_no_score(refusal: Callable, tmp_path: Path, live1: dict) -> None:
    network = tiny_restorer()
    torch.nn.init.constant_(network.tail.weight, torch.nan)
    file = save_tiny(tmp_path / "tiny.safetensors", network)
    assert "not finite" in refusal("evaluate", "--weights", file, "--sets", "live1", "--data-root", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "photo.png"], "photo.png is named like a picture or weights"),
        (["--json", "net.safetensors"], "named like a picture or weights"),
        (["--markdown", "deblock_gray.pth"], "named like a picture or weights"),
        (["--json", "o", "--markdown", "o"], "name two files"),
        (["--json", SCRIPT / "o.json"], "o.json cannot be written"),
        (["--weights", "tiny.safetensors", "--channels", "color"], "tiny.safetensors restores luma (1-channel) images"),
        (["--restored", "."], "not allowed with"),
        (["--quality", "random:5"], "'random:5' must be like random:5..99, with two qualities within 1..100"),
        (["--quality", "random", "random"], "random is given twice"),
        (["--seed", 3], "--seed draws the qualities of --quality random, which was not given"),
        (["--shift", "4,4"], "--shift belongs to --double, which was not given"),
        (["--double", "30", "30", "--shift", "4"], "must be DX,DY, two whole numbers from 0 to 15, got 4"),
        (["--double", "30", "30", "--shift", "0,16"], "from 0 to 15, got 0,16"),
        (["--double", "30", "0"], "must be a whole number from 1 to 100, got 0"),
        (
            ["--double", "30", "30", "--shift", "14,14"],
            "a.png is 40x24; the metrics need sides of at least 11 pixels, and",
        ),
        *(
            (["--quality", quality], f"--quality: '{quality}' is no quality within 1..100 and no range such as '10..9")
            for quality in ("0", "20..10")
        ),
        (["--quality", ""], "argument --quality: is empty"),
        (["--json="], "argument --json: is empty"),
        (["--json", ""], "argument --json: is empty"),  # hours of measuring, and nothing written
    ],
)
def test_mistakes_are_named(
    refusal: Callable, tmp_path: Path, live1: dict, monkeypatch: pytest.MonkeyPatch, options: list, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "tiny.safetensors")
    given = [] if "--weights" in options else ["--weights", "jpeg"]
    assert message in refusal("evaluate", "--sets", "live1", "--data-root", tmp_path, *given, *options)


def test_a_system_must_be_named(refusal: Callable) -> None:
    assert "--weights --restored is required" in refusal("evaluate", "--sets", "live1")


@pytest.mark.ddp
@pytest.mark.slow
def test_processes_share_the_images_and_fail_together(tmp_path: Path) -> None:
    """Of two processes the second has the images at odd places; only it meets the restored image of a wrong size."""
    folder = tmp_path / "mine"
    for seed in range(5):
        save_mosaic(folder / f"{seed}.png", 24, 40 + seed, seed=seed)
    save_tiny(tmp_path / "tiny.safetensors", tiny_restorer(tail_std=0.3))
    shared = [SCRIPT, "evaluate", "--sets", folder, "--quality", 10, 20, "--device", "cpu"]
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    shown = []
    for num_processes, file in zip((0, 2), files, strict=True):
        given = [*shared, "--weights", tmp_path / "tiny.safetensors", "--json", file]
        done = run_python(*given, num_processes=num_processes)
        assert done.returncode == 0, done.stderr
        shown.append(done.stdout)
    assert files[0].read_bytes() == files[1].read_bytes() and shown[0] == shown[1]

    run("degrade", "--sets", folder, "--quality", 10, 20, "--output", tmp_path / "out")
    save_mosaic(tmp_path / "out" / "mine" / "20" / "3.png", 20, 20)
    given = [*shared, "--restored", tmp_path / "out", "--json", tmp_path / "three.json"]
    done = run_python(*given, num_processes=2)
    complaints = [line for line in done.stderr.splitlines() if line.startswith("test.py")]
    assert done.returncode != 0 and done.stdout == "" and not (tmp_path / "three.json").exists()
    assert len(complaints) == 1 and "20/3.png is 20x20, but 3 of mine is 43x24" in complaints[0]


def test_of_several_processes_the_first_alone_complains_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended:
        run("evaluate", "--weights", "jpeg", "--sets", "live1", "--quality", "x")
    assert not ended.value.code and capsys.readouterr() == ("", "")


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


def test_table_shows_measured_rows_below_the_papers(tmp_path: Path, live1: dict, capsys: pytest.CaptureFixture) -> None:
    run("table", 3, "--weights", "jpeg", "--data-root", tmp_path, "--json", tmp_path / "o.json",
        "--markdown", tmp_path / "o.md", "--cache", tmp_path / "cache")  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:8]] == ["JPEG", "QGAC", "FBCNN", "the", "jpeg", "minus"]
    assert f"bsds500: not measured, it is not under {tmp_path}" in lines
    assert lines[-13].startswith("JPEG: 0 of 12 figures") and lines[-12].startswith("live1 Q10 psnr: measured")
    content = json.loads((tmp_path / "o.json").read_text())
    assert content["table"] == 3 and list(content["measured"][0]["results"]["live1"]) == ["10", "20", "30", "40"]
    assert "| jpeg | measured |" in (tmp_path / "o.md").read_text()


def test_qualities_may_be_ranges(tmp_path: Path, live1: dict) -> None:
    run("evaluate", "--weights", "jpeg", "--sets", "live1", "--quality", "10..25:5", 20, "90..91",
        "--data-root", tmp_path, "--json", tmp_path / "o.json")  # fmt: skip
    scores = json.loads((tmp_path / "o.json").read_text())["results"]["live1"]
    assert list(scores) == ["10", "15", "20", "25", "90", "91"]


def test_images_are_coded_twice_and_at_drawn_qualities(
    tmp_path: Path, live1: dict, capsys: pytest.CaptureFixture
) -> None:
    asked = ["--double", 30, 30, "--double", 30, 50]
    run(
        "evaluate",
        "--weights",
        "jpeg",
        "--sets",
        "live1",
        *asked,
        "--data-root",
        tmp_path,
        "--json",
        tmp_path / "o.json",
    )
    content = json.loads((tmp_path / "o.json").read_text())
    assert list(content["results"]["live1"]) == ["30+30", "30+50"]
    assert "30+30, 30+50: JPEG twice, 4 columns and 4 rows cut off" in content["protocol"]
    for stem, rgb in live1.items():
        twice = jpeg_roundtrip(np.ascontiguousarray(jpeg_roundtrip(luma(rgb), 30)[4:, 4:]), 50)
        expected = score(twice, np.ascontiguousarray(luma(rgb)[4:, 4:]))
        assert content["results"]["live1"]["30+50"]["images"][stem] == expected | {"gain": 0}
    lines = capsys.readouterr().out.splitlines()
    assert "OAPT    printed   32.10  32.86" in lines and "OAPT is trained on images that were coded twice." in lines

    run("evaluate", "--weights", "jpeg", "--sets", "live1", "--quality", "random:20..40", 10, "--seed", 7, *asked[:3],
        "--shift", "0,3", "--data-root", tmp_path, "--json", tmp_path / "o.json")  # fmt: skip
    content = json.loads((tmp_path / "o.json").read_text())
    assert list(content["results"]["live1"]) == ["10", "random", "30+30"]
    assert "drawn from 20..40, seed 7; 30+30: JPEG twice, 0 columns and 3 rows" in content["protocol"]
    assert all(20 <= image["quality"] <= 40 for image in content["results"]["live1"]["random"]["images"].values())


def test_script_exits_with_status_2_and_one_line() -> None:
    done = run_python(SCRIPT, "evaluate", "--weights", "jpeg", "--sets", "live1", "--quality", "0")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--quality: '0' is no quality within 1..100" in done.stderr


def test_a_damaged_image_among_good_ones_ends_it_with_nothing_written(
    refusal: Callable, tmp_path: Path, live1: dict
) -> None:
    broken = tmp_path / "live1" / "broken.png"
    save_mosaic(broken, 64, 64, 3)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    outputs = ["--data-root", tmp_path, "--json", tmp_path / "o.json"]
    assert "broken.png is damaged" in refusal("evaluate", "--weights", "jpeg", "--sets", "live1", *outputs)
