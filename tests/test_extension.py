"""What the design promises: a new metric, network or data set is one entry, and works everywhere."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

import train_restorer
from cqe.encoder import QualityEncoder
from cqe.weights import save_encoder
from data import known_sets
from data.images import read_image
from data.jpeg import jpeg_roundtrip
from data.known_sets import KNOWN_SETS, Folder, KnownSet, pixel_digest, split_digest
from data.store import open_store
from engine.config import parse_config
from evaluation.scores import tables
from evaluation.scores.metrics import METRICS, Metric
from restoration.config import RestorerConfig
from tests.places import ROOT
from tests.program import run, run_data
from tests.synthetic import make_data_root, restorer_settings, write_config, write_pictures
from tests.test_imports import ORDER

SCRIPTS = ("test.py", "train_restorer.py")
NETWORK_FILE = '''
from dataclasses import dataclass

from torch import nn

from restoration.networks.restorer import Restorer


@dataclass(frozen=True)
class ShallowOptions:
    """Options of "shallow", a single layer.

    Args:
        kernel_px: side of its kernel.
    """

    kernel_px: int = 3


class ShallowRestorer(Restorer):
    def __init__(self, encoder, channels, *, kernel_px=3):
        super().__init__(encoder, channels)
        self.layer = nn.Conv2d(channels, channels, kernel_px, padding=kernel_px // 2)

    def residual(self, padded, features):
        return self.layer(padded)
'''
# Runs scripts one after the other in one process, as `python SCRIPT ARGUMENTS` would.
RUN_SCRIPTS = """
import json, runpy, sys
for script, *arguments in json.loads(sys.argv[1]):
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


def worst_pixel(restored: np.ndarray, clean: np.ndarray) -> float:
    return float(np.abs(restored.astype(int) - clean).max())


@pytest.fixture
def worst(monkeypatch: pytest.MonkeyPatch) -> str:
    """A fourth metric, added as its author would: by one entry."""
    metric = Metric(worst_pixel, 1, "worst", "worst pixel", "worst of RGB", unit="levels", is_smaller_better=True)
    monkeypatch.setitem(METRICS, "worst", metric)
    return "worst"


@pytest.fixture
def live1(tmp_path: Path) -> Path:
    """A data root with two images of LIVE1's names."""
    write_pictures(tmp_path / "data" / "live1", ["bikes", "caps"])
    return tmp_path / "data"


def test_a_metric_is_in_every_score_mean_and_table(
    worst: str, live1: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    outputs = ("--data-root", live1, "--json", tmp_path / "out.json", "--markdown", tmp_path / "out.md")
    run("evaluate", "--weights", "jpeg", "--sets", "live1", "--quality", 10, "--channels", "color", *outputs)
    content = json.loads((tmp_path / "out.json").read_text())
    clean = [read_image(live1 / "live1" / f"{stem}.png") for stem in ("bikes", "caps")]
    expected = [worst_pixel(jpeg_roundtrip(image, 10), image) for image in clean]
    scores = content["results"]["live1"]["10"]
    assert [scores["images"][stem][worst] for stem in ("bikes", "caps")] == expected
    assert scores[worst] == scores["jpeg"][worst] == np.mean(expected)
    assert "; worst of RGB; " in content["protocol"]
    shown = f" / {np.mean(expected):.1f}"
    for text in (capsys.readouterr().out, (tmp_path / "out.md").read_text()):
        assert "PSNR (dB) / SSIM / PSNR-B (dB) / worst (levels, smaller is better)" in text
        assert text.count(shown) == 2  # of the JPEG, and of the "output", which is the JPEG


def test_the_papers_tables_keep_their_own_metrics_when_one_is_added(
    worst: str, live1: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    outputs = ("--data-root", live1, "--json", tmp_path / "out.json", "--markdown", tmp_path / "out.md")
    run("table", 1, "--weights", "jpeg", *outputs)
    (measured,) = json.loads((tmp_path / "out.json").read_text())["measured"]
    assert worst in measured["results"]["live1"]["10"]
    text = capsys.readouterr().out
    assert "JPEG: 0 of 12 figures equal" in text  # three metrics at four qualities; these are not LIVE1's pixels
    for table in (text, (tmp_path / "out.md").read_text()):
        assert "gray: PSNR (dB) / SSIM / PSNR-B (dB)" in table and "worst" not in table.split("JPEG: ")[0]
        assert "27.77 / 0.773 / 25.33" in table


def test_a_printed_table_may_have_the_new_metric(worst: str, live1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"JPEG": {"live1": {10: [60.5, 27.77]}}, "Ours": {"live1": {10: [40.25, 29.8]}}}
    printed = {"metrics": [worst, "psnr"], "channels": "gray", "rows": rows}
    monkeypatch.setattr(tables, "paper_tables", lambda: {"table1": printed})
    result = {"method": "jpeg", "results": {"live1": {"10": {"psnr": 27.7702, worst: 60.46}}}}
    (section,) = tables.compare(1, [result])
    assert section.title == "Table 1, live1, gray: worst (levels, smaller is better) / PSNR (dB)"
    cells = [row[2] for row in section.rows]
    assert cells == ["Q10", "60.5 / 27.77", "40.25 / 29.80", "60.5 / 27.77", "+0.0 / +0.00"]  # the last: minus JPEG's
    assert tables.check_jpeg(result, 1) == (2, [])


def test_a_result_without_one_of_a_tables_metrics_leaves_it_open() -> None:
    cell = {"psnr": 27.77, "psnrb": 25.33}
    result = {"method": "older", "results": {"live1": {"10": cell | {"jpeg": cell, "images": {}}}}}
    assert tables.metrics_of(result) == ["psnr", "psnrb"]
    (section,) = tables.compare(1, [result])
    measured, difference = section.rows[-2:]
    assert measured[2] == "27.77 / - / 25.33" and difference[2] == "-2.03 / - / -4.11"  # minus the paper's own row
    assert tables.check_jpeg(result, 1) == (2, [])


def test_training_validates_with_the_new_metric(worst: str, tmp_path: Path) -> None:
    settings = restorer_settings(tmp_path, tmp_path / "run", tmp_path / "encoder.safetensors")
    config = parse_config(RestorerConfig, [f"--config={write_config(tmp_path / 'config.yaml', settings)}"])
    clean = np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8)
    stage = train_restorer.RestorerStage(config, QualityEncoder(1, width=4), None, [clean])
    log = type("Log", (), {"picture": lambda *arguments: None})()
    # An untrained network is the identity.
    assert stage.validate(stage.kept, log, 0)[worst] == worst_pixel(jpeg_roundtrip(clean, 10), clean)


def test_a_network_is_its_file_and_a_line(tmp_path: Path) -> None:
    """In a copy of the project: the scripts' options, a run, its weight file and an evaluation follow."""
    tree = tmp_path / "tree"
    for package in ORDER:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for script in SCRIPTS:
        shutil.copy(ROOT / script, tree)
    (tree / "restoration" / "networks" / "shallow.py").write_text(NETWORK_FILE)
    registry = tree / "restoration" / "networks" / "__init__.py"
    source = registry.read_text()
    assert source.count("NETWORKS = {\n") == 1
    source = source.replace("NETWORKS = {\n", 'NETWORKS = {\n    "shallow": (ShallowRestorer, ShallowOptions),\n')
    registry.write_text(
        source.replace("\n\nfrom torch", "\n\nfrom restoration.networks.shallow import *\nfrom torch", 1)
    )

    root, encoder = make_data_root(tmp_path / "data"), tmp_path / "encoder.safetensors"
    torch.manual_seed(0)
    save_encoder(QualityEncoder(1, width=4), encoder)
    settings = restorer_settings(root, tmp_path / "run", encoder, max_steps=2) | {"network": {"name": "shallow"}}
    config = write_config(tmp_path / "config.yaml", settings)
    weights, scores = tmp_path / "run" / "restorer.safetensors", tmp_path / "scores.json"
    train = ["train_restorer.py", "--config", config]
    evaluate = ["test.py", "evaluate", "--weights", weights, "--sets", root / "bsds500" / "val", "--quality", "10"]
    told = run_scripts(
        tree, [*train, "--help"], [*train, "--network.shallow.kernel_px", "5"], [*evaluate, "--json", scores]
    )

    assert "--network.name {shallow,paper,fast,arcnn,dncnn,rnan,rdn,unet}" in told
    assert 'Options of "shallow", a single layer:' in told and "side of its kernel. (type: int, default: 3)" in told
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["network"]["shallow"] == {"kernel_px": 5}
    with safe_open(weights, "pt") as file:
        (description,) = file.metadata().values()
        assert file.get_tensor("layer.weight").shape == (1, 1, 5, 5)
    assert json.loads(description)["architecture"]["network"] == {"name": "shallow", "options": {"kernel_px": 5}}
    result = json.loads(scores.read_text())["results"]["val"]["10"]
    assert result["psnr"] != result["jpeg"]["psnr"] and len(result["images"]) == 3


def run_scripts(tree: Path, *commands: list) -> str:
    """Run scripts of a copy of the project; what they printed."""
    given = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run([sys.executable, "-c", RUN_SCRIPTS, given], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_data_set_is_one_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    places = {"one": "test/1", "two": "test/2", "three": "val/3", "four": "train/4", "five": "train/5"}
    folders = (Folder("training", "train", 2), Folder("choosing", "val", 1), Folder("scores", "test", 2))
    entry = KnownSet(folders, places=lambda: places, is_png=True, source="it is drawn by a test")
    monkeypatch.setitem(KNOWN_SETS, "streets", entry)
    write_pictures(tmp_path / "source", [*places, "six"])
    digests = {places[stem]: pixel_digest(read_image(tmp_path / "source" / f"{stem}.png")) for stem in places}
    known = {
        folder.place: split_digest({Path(place).name: digests[place] for place in digests if folder.place in place})
        for folder in folders
    }
    monkeypatch.setattr(known_sets, "known_digests", lambda: {"streets": known | {"val": "of other pixels"}})
    root, shared = tmp_path / "data", ("--root", tmp_path / "data", "--pack-dir", tmp_path / "packed")

    assert run_data("download", "streets", *shared) == 2
    assert "streets has no address: it is drawn by a test; then: " in capsys.readouterr().err
    (tmp_path / "source" / "two.png").rename(tmp_path / "two.png")
    assert run_data("prepare", "streets", tmp_path / "source", *shared) == 2
    assert "1 missing (test/2)" in capsys.readouterr().err
    (tmp_path / "two.png").rename(tmp_path / "source" / "two.png")
    assert run_data("prepare", "streets", tmp_path / "source", *shared) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("streets: train 2, val 1, test 2 images") and told[1:-1] == [
        "note: 1 other images of the source were left out",
        "warning: other pixels than the known copy of streets val (JPEG decoders may differ by a level)",
    ]
    assert sorted(path.relative_to(root / "streets").as_posix() for path in root.rglob("*.png")) == [
        "test/1.png", "test/2.png", "train/4.png", "train/5.png", "val/3.png",
    ]  # fmt: skip
    assert len(list((tmp_path / "packed").glob("train-*"))) == 1
    assert len(open_store(root / "streets" / "train", tmp_path / "packed")) == 2

    arguments = ("--weights", "jpeg", "--quality", 10, "--data-root", root, "--json", tmp_path / "out.json")
    run("evaluate", "--sets", "streets", "streets/val", *arguments)
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert {name: list(by["10"]["images"]) for name, by in results.items()} == {
        "streets": ["1", "2"],
        "streets/val": ["3"],
    }


def test_a_new_sets_count_is_checked_when_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(KNOWN_SETS, "streets", KnownSet((Folder("scores", num_images=3),)))
    write_pictures(tmp_path / "streets", ["a", "b"])
    run("evaluate", "--weights", "jpeg", "--sets", "streets", "--quality", 10, "--data-root", tmp_path)
    assert "streets has 2 images here, not 3: not comparable" in caplog.text
