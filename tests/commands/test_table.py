"""`test.py table`: several systems, formats, scores that are kept, Table 5."""

import csv
import json
import re
import urllib.error
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from torchvision.models import alexnet

import commands.table
from commands.systems import QUALITY
from engine.checkpoint import save_checkpoint
from engine.run_folder import checkpoint_name
from evaluation.scores.ablation import WEIGHTS_NAME, run_folder
from tests.networks import save_tiny, tiny_restorer
from tests.program import run
from tests.synthetic import save_mosaic


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with two small images of LIVE1 and one of Classic5."""
    for seed, stem in enumerate("ab"):
        save_mosaic(tmp_path / "live1" / f"{stem}.png", 24, 40, 3, seed=seed)
    save_mosaic(tmp_path / "classic5" / "c.png", 32, 24)
    return tmp_path


@pytest.fixture
def table(root: Path) -> Callable:
    """`table(number, *options)`: run the command on small images; returns its JSON."""

    def made(number: int, *options: object) -> dict:
        run("table", number, "--data-root", root, "--device", "cpu", "--workers", 1, "--cache", root / "cache",
            "--json", root / "out.json", *options)  # fmt: skip
        return json.loads((root / "out.json").read_text())

    return made


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], list[int]]]:
    """What is measured, call by call: system, sets, qualities."""
    calls = []
    measure = commands.table.measure

    def counted(system, sets, qualities, *others) -> dict:
        calls.append((system.name, [one.name for one in sets], list(qualities)))
        return measure(system, sets, qualities, *others)

    monkeypatch.setattr(commands.table, "measure", counted)
    return calls


def test_any_number_of_systems_are_rows_of_every_format(table: Callable, root: Path) -> None:
    weights = [save_tiny(root / f"net_{name}.safetensors", tiny_restorer(tail_std=0.1)) for name in "abc"]
    outputs = [("--markdown", root / "o.md"), ("--latex", root / "o.tex"), ("--csv", root / "o.csv")]
    content = table(1, "--weights", "jpeg", *weights, *(word for pair in outputs for word in pair))
    assert [result["method"] for result in content["measured"]] == ["jpeg", "net_a", "net_b", "net_c"]
    assert content["missing"] == {"bsds500": f"it is not under {root}"} and not content["lacking"]
    assert "| net_b | measured |" in (root / "o.md").read_text()
    assert r"net\_c & measured" in (root / "o.tex").read_text()
    rows = [row for row in csv.reader((root / "o.csv").open()) if row and row[1:3] == ["net_a", "measured"]]
    live1 = content["measured"][1]["results"]["live1"]["10"]
    assert f"{live1['psnr']:.2f}" in rows[1] and "live1" in rows[1][0] and len(rows) == 3


def test_a_second_call_measures_nothing_and_a_changed_file_is_measured_anew(
    table: Callable, root: Path, measured: list
) -> None:
    torch.manual_seed(0)
    weights = save_tiny(root / "net.safetensors", tiny_restorer(tail_std=0.1))
    first = table(1, "--weights", "jpeg", weights)
    assert len(measured) == 4  # two systems on two sets
    assert table(1, "--weights", "jpeg", weights) == first and len(measured) == 4
    save_tiny(weights, tiny_restorer(tail_std=0.2))
    second = table(1, "--weights", "jpeg", weights)
    assert [call[0] for call in measured[4:]] == ["net", "net"]
    assert second["measured"][0] == first["measured"][0] and second["measured"][1] != first["measured"][1]
    save_mosaic(root / "live1" / "b.png", 24, 40, 3, seed=9)
    table(1, "--weights", "jpeg", weights)
    assert [call[:2] for call in measured[6:]] == [("jpeg", ["live1"]), ("net", ["live1"])]


def test_a_system_with_weights_for_some_qualities_leaves_the_others_empty(
    table: Callable, root: Path, refusal: Callable, capsys: pytest.CaptureFixture
) -> None:
    for quality in (10, 30):
        save_tiny(root / f"dncnn_q{quality}.safetensors", tiny_restorer(tail_std=0.1))
    content = table(1, "--weights", root / f"dncnn_q{QUALITY}.safetensors")
    assert list(content["measured"][0]["results"]["live1"]) == ["10", "30"]
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("dncnn ")]
    assert [row.count("-") for row in rows] == [2, 2, 4]  # classic5, live1, bsds500, which is not there
    assert rows[1][2] != "-" and rows[1][-1] == "-"
    assert content["lacking"] == ["dncnn: no weights for quality 20, 40"]
    for quality in (10, 30):
        (root / f"dncnn_q{quality}.safetensors").rename(root / f"dncnn_q{quality + 1}.safetensors")
    line = refusal("table", 1, "--data-root", root, "--weights", root / f"dncnn_q{QUALITY}.safetensors")
    assert "dncnn has weights for quality 11, 31, but not for 10" in line


def test_another_systems_images_are_a_row_and_measured_anew_if_one_changes(
    table: Callable, root: Path, measured: list
) -> None:
    for name, stems in (("live1", "ab"), ("classic5", "c")):
        for quality, stem in product((10, 20, 30, 40), stems):
            height, width = (24, 40) if name == "live1" else (32, 24)
            save_mosaic(root / "theirs" / name / str(quality) / f"{stem}.png", height, width)
    first = table(1, "--weights", "jpeg", "--restored", f"MWCNN={root / 'theirs'}")
    assert [result["method"] for result in first["measured"]] == ["jpeg", "MWCNN"]
    num_calls = len(measured)
    assert table(1, "--weights", "jpeg", "--restored", f"MWCNN={root / 'theirs'}") == first
    assert len(measured) == num_calls
    save_mosaic(root / "theirs" / "live1" / "10" / "a.png", 24, 40, seed=5)
    table(1, "--weights", "jpeg", "--restored", f"MWCNN={root / 'theirs'}")
    assert {call[0] for call in measured[num_calls:]} == {"MWCNN"}


def test_images_of_one_set_are_enough_for_a_row(
    table: Callable, root: Path, refusal: Callable, capsys: pytest.CaptureFixture
) -> None:
    for quality in (10, 20, 30, 40):
        save_mosaic(root / "theirs" / "classic5" / str(quality) / "c.png", 32, 24)
    content = table(1, "--weights", "jpeg", "--restored", f"MWCNN={root / 'theirs'}")
    assert list(content["measured"][1]["results"]) == ["classic5"]
    assert "MWCNN: no images of live1" in capsys.readouterr().out
    same = ["--restored", f"jpeg={root / 'theirs'}"]
    assert "two systems are called 'jpeg'; rename" in refusal(
        "table", 1, "--data-root", root, "--weights", "jpeg", *same
    )
    (root / "theirs" / "classic5" / "30" / "c.png").unlink()
    assert "30/c.png is missing" in refusal("table", 1, "--data-root", root, "--restored", root / "theirs")
    assert "is missing" in refusal("table", 1, "--data-root", root, "--restored", root / "live1")


def test_table_2_has_what_can_be_measured_and_says_what_cannot(
    table: Callable, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for seed, stem in enumerate("ab"):
        save_mosaic(root / "live1" / f"{stem}.png", 48, 40, 3, seed=seed)
    (root / "classic5" / "c.png").unlink()
    (root / "classic5").rmdir()
    monkeypatch.setenv("TORCH_HOME", str(root))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    backbone = root / "alexnet.pth"
    torch.save(alexnet().state_dict(), backbone)
    content = table(2, "--weights", "jpeg", "--lpips-backbone", backbone)
    scores = content["measured"][0]["results"]["live1"]["10"]
    shown, reasons = capsys.readouterr()
    assert re.search(rf"jpeg +measured +{scores['lpips']:.4f}[*~]? / -", shown) and " / 65.92*" in shown
    assert "FID over the 5 images of classic5" in shown
    assert "FID needs Inception-v3" in reasons and "no network" in reasons
    assert content["lacking"] == ["FID: not measured, Inception-v3 was not at hand"]
    assert "LPIPS 0.1" in content["measured"][0]["protocol"]
    with pytest.raises(SystemExit) as ended:
        table(2)
    line = capsys.readouterr().err.splitlines()[-1]  # the libraries say what they try to download
    assert ended.value.code == 2 and "LPIPS needs AlexNet" in line and "FID needs Inception-v3" in line


def no_network(*arguments: object, **options: object) -> None:
    raise urllib.error.URLError("no network")


def test_table_5_has_means_over_the_seeds_of_each_model(
    table: Callable, root: Path, capsys: pytest.CaptureFixture
) -> None:
    for model in ("model_1", "ours"):
        for seed in (0, 1):
            folder = run_folder(root / "runs", model, seed)
            save_tiny(folder / WEIGHTS_NAME, tiny_restorer(tail_std=0.1))
            config = {"trainer": {"max_steps": 3, "max_minutes": None}, "data": {"batch_size": 2, "patch_size_px": 16}}
            state = {"stage": "restorer", "config": config, "progress": {"step": 3}}
            save_checkpoint(folder / checkpoint_name(3), state)
    content = table(5, "--runs", root / "runs")
    assert [(one["model"], one["seed"]) for one in content["measured"]] == [
        ("model_1", 0), ("model_1", 1), ("ours", 0), ("ours", 1)
    ]  # fmt: skip
    assert {result["budget"] for result in content["measured"]} == {"3 steps of 2 patches of 16 pixels"}
    assert list(content["measured"][0]["results"]) == ["classic5"]
    psnrs = [content["measured"][index]["results"]["classic5"]["40"]["psnr"] for index in (2, 3)]
    shown = capsys.readouterr().out
    assert f"{sum(psnrs) / 2:.2f} / " in shown and "3 steps of 2 patches" in shown and "model-2: no trained" in shown


def test_mistakes_are_one_line(root: Path, refusal: Callable) -> None:
    assert "Table 5 measures the networks of --runs" in refusal("table", 5, "--weights", "jpeg")
    line = refusal("table", 5, "--data-root", root, "--runs", root / "none", "--cache", root / "cache")
    assert "none holds no trained model of Table 5" in line
    assert "--runs is for Table 5, not for Table 1" in refusal("table", 1, "--runs", root)
    assert "--inception are for Table 2, not for Table 3" in refusal("table", 3, "--inception", root)
    assert "argument --runs: is empty" in refusal("table", 5, "--runs", "")
    assert "argument --cache: is empty" in refusal("table", 1, "--cache", "")  # it must not mean the current folder
    line = refusal("table", 1, "--data-root", root, "--csv", root / "o", "--latex", root / "o")
    assert "--latex and --csv are both" in line
