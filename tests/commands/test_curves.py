"""`test.py figure gain|cost`: from results and from networks, and mistakes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.speed.arithmetic import count_gmac
from restoration import load
from tests.networks import save_tiny, tiny_restorer
from tests.places import ROOT
from tests.program import run
from tests.synthetic import write_pictures

KEPT = ROOT / "docs" / "results" / "fast_tiny_gray.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "data" / "live1", ["a", "b"])
    return tmp_path / "data"


@pytest.fixture
def figure(tmp_path: Path, root: Path) -> Callable[..., list]:
    def words(name: str, *arguments: object) -> list:
        out = ["--output", tmp_path / "out", "--dots-per-inch", 30, "--data-root", root, "--device", "cpu"]
        out += ["--cache", tmp_path / "scores"]
        return ["figure", name, *out, *arguments]

    return words


def content(tmp_path: Path, name: str) -> dict:
    return json.loads((tmp_path / "out" / f"figure_{name}.json").read_text())


def test_gain_of_a_network_equals_that_of_its_results(figure: Callable, root: Path, tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors", tiny_restorer(tail_std=0.3))
    measuring = ["--weights", weights, "--sets", "live1", "--quality", "10", "90"]
    run("evaluate", *measuring, "--data-root", root, "--device", "cpu", "--json", tmp_path / "tiny.json")
    run(*figure("gain", "--results", tmp_path / "tiny.json"))
    from_file = content(tmp_path, "gain")["curves"]
    run(*figure("gain", *measuring))
    assert content(tmp_path, "gain")["curves"] == from_file
    curve, scores = from_file[0], json.loads((tmp_path / "tiny.json").read_text())["results"]["live1"]
    assert curve["qualities"] == [10, 90] and curve["gains"] == [scores["10"]["gain"], scores["90"]["gain"]]
    assert "tiny on LIVE1, luma" in content(tmp_path, "gain")["caption"]


def test_cost_of_measured_and_kept_networks(figure: Callable, tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors")
    run(*figure("cost", "--results", KEPT, "--weights", weights, "jpeg", "--set", "live1", "--quality", 40))
    kept, tiny, *printed = content(tmp_path, "cost")["systems"]
    assert kept["name"] == "fast_tiny_gray" and kept["gmac"] == pytest.approx(4.85, abs=0.01)
    assert kept["psnr_db"] == json.loads(KEPT.read_text())["results"]["live1"]["40"]["psnr"]
    assert tiny["gmac"] == count_gmac(load(weights)) and tiny["kind"] == "measured here"
    assert {"FBCNN", "the paper", "DnCNN-3"} <= {point["name"] for point in printed}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gain"], "name results of evaluate with --results, or networks to measure with --weights"),
        (["gain", "--weights", "fast_tiny_gray"], "--weights are measured on --sets: give both"),
        (["gain", "--results", ROOT / "README.md"], "README.md is not a result of `evaluate`"),
        (["gain", "--results", ROOT / "none.json"], "none.json; name one that `evaluate --json` wrote"),
        (["gain", "--results", "no_such.json"], "no_such.json"),
        (["gain", "--weights", "no_such", "--sets", "live1"], "no weights 'no_such'"),
        (["gain", "--results", KEPT, "--quality", 20], "--quality and --channels are for --weights"),
        (["gain", "--results", KEPT, "--channels", "color"], "--quality and --channels are for --weights"),
        (["gain", "--results", KEPT, KEPT], "two results are of fast_tiny_gray on Classic5, LIVE1, BSDS500 test, luma"),
        (["cost", "--results", KEPT, "--set", "icb"], "has no scores on icb at quality 10, gray"),
        (["cost", "--results", KEPT, "--set", "live1", "--quality", 11], "has no scores on live1 at quality 11"),
        (["cost", "--results", KEPT, "--set", "live1", "--channels", "color"], "live1 at quality 10, color"),
    ],
)  # fmt: skip
def test_mistakes_are_named(figure: Callable, refusal: Callable, arguments: list, message: str) -> None:
    assert message in refusal(*figure(*arguments))


def test_cost_on_a_folder(figure: Callable, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors")
    (root / "live1").rename(tmp_path / "mine")
    run(*figure("cost", "--weights", weights, "--set", tmp_path / "mine"))
    assert [point["name"] for point in content(tmp_path, "cost")["systems"]] == ["tiny"]
    assert "PSNR on mine, luma, quality 10" in content(tmp_path, "cost")["caption"]
    monkeypatch.chdir(tmp_path / "mine")
    run(*figure("cost", "--weights", weights, "--set", "."))
    assert "PSNR on mine, luma, quality 10" in content(tmp_path, "cost")["caption"]


def test_two_runs_whose_weights_have_one_name(figure: Callable, refusal: Callable, tmp_path: Path) -> None:
    runs = [save_tiny(tmp_path / name / "restorer.safetensors") for name in "ab" if not (tmp_path / name).mkdir()]
    assert "two systems are called 'restorer'" in refusal(*figure("gain", "--weights", *runs, "--sets", "live1"))


def test_cost_of_a_system_with_a_file_for_each_quality(figure: Callable, tmp_path: Path) -> None:
    save_tiny(tmp_path / "each_q10.safetensors")
    run(*figure("cost", "--weights", tmp_path / "each_q{quality}.safetensors", "--set", "live1"))
    assert content(tmp_path, "cost")["systems"][0]["name"] == "each"


def test_images_coded_twice_are_not_on_the_axis(figure: Callable, refusal: Callable, tmp_path: Path) -> None:
    twice = json.loads(KEPT.read_text())
    twice["results"] = {"live1": {"30+50": twice["results"]["live1"]["40"]}}
    (tmp_path / "twice.json").write_text(json.dumps(twice))
    line = refusal(*figure("gain", "--results", tmp_path / "twice.json"))
    assert "a result has no finite gain at a JPEG quality" in line


@pytest.mark.parametrize("of", ["network", "jpeg"])
def test_a_psnr_without_a_place_on_the_axis(of: str, figure: Callable, refusal: Callable, tmp_path: Path) -> None:
    equal = json.loads(KEPT.read_text())
    scores = equal["results"]["live1"]["10"]
    (scores if of == "network" else scores["jpeg"])["psnr"] = None
    (tmp_path / "equal.json").write_text(json.dumps(equal))
    line = refusal(*figure("cost", "--results", tmp_path / "equal.json", "--set", "live1"))
    assert "equal.json has an infinite PSNR on live1 at quality 10, gray" in line


@pytest.mark.parametrize(
    "change",
    [
        lambda result: result.update(channels=["gray"]),
        lambda result: result["results"]["live1"]["10"].update(gain="1.5"),
        lambda result: result["results"]["live1"]["10"].pop("num_worse"),
        lambda result: result["results"]["live1"]["10"].update(images=[1, 2]),
        lambda result: result["results"]["live1"]["10"]["jpeg"].update(psnr="high"),
        lambda result: result["results"]["live1"]["10"]["jpeg"].clear(),
    ],
)
def test_a_result_that_was_changed_by_hand(
    change: Callable, figure: Callable, refusal: Callable, tmp_path: Path
) -> None:
    result = json.loads(KEPT.read_text())
    change(result)
    (tmp_path / "changed.json").write_text(json.dumps(result))
    for kind, options in (("gain", []), ("cost", ["--set", "live1"])):
        line = refusal(*figure(kind, "--results", tmp_path / "changed.json", *options))
        assert "changed.json is not a result of `evaluate`" in line


def test_results_of_several_systems_are_told_apart(figure: Callable, refusal: Callable, tmp_path: Path) -> None:
    (tmp_path / "both.json").write_text(json.dumps({"measured": [json.loads(KEPT.read_text())] * 2}))
    line = refusal(*figure("gain", "--results", tmp_path / "both.json"))
    assert "both.json holds the results of several systems; evaluate them one by one" in line


def test_results_of_weights_that_are_not_here(figure: Callable, refusal: Callable, tmp_path: Path) -> None:
    other = json.loads(KEPT.read_text())
    other["provenance"]["weights_sha256"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(other))
    line = refusal(*figure("cost", "--results", tmp_path / "other.json", "--set", "live1"))
    assert "other.json is of weights that are not in" in line and "measure them again with --weights" in line
