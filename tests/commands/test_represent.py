"""`test.py represent`: outputs, where the encoder comes from, and one clear line for every mistake."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands.encoders import open_encoder_for
from commands.represent import untrained_like
from cqe.encoder import QualityEncoder
from cqe.weights import save_encoder
from restoration.networks import FastOptions, NetworkConfig, build_restorer
from restoration.weights import save_restorer
from tests import program
from tests.restoration.test_released import released_weights
from tests.synthetic import write_pictures

CONDITIONS = ["aligned", "offgrid", "double", "resized", "unseen"]
METRICS = {
    "knn_accuracy", "knn_mae", "probe_accuracy", "quality_mae", "silhouette", "calinski_harabasz",
    "same_image_distance", "same_quality_distance", "content_ratio", "num_crops",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with three images to test on, two to fit probes on, and an encoder beside them."""
    write_pictures(tmp_path / "live1", list("abc"), size=32, seed=10)
    write_pictures(tmp_path / "bsds500" / "val", list("xy"), size=32, seed=20)
    save_tiny(tmp_path / "tiny.safetensors", 1)
    return tmp_path


def save_tiny(path: Path, channels: int, *, seed: int = 1) -> None:
    torch.manual_seed(seed)
    save_encoder(QualityEncoder(channels, width=8, remove_local_mean=True), path)


@pytest.fixture
def run(root: Path) -> Callable[..., dict]:
    """Run `represent` on small crops and three qualities, unless told otherwise; returns the JSON written."""

    def represent(*arguments: object) -> dict:
        given = [str(argument) for argument in arguments]
        defaults = {"--weights": [root / "tiny.safetensors"], "--sets": ["live1"], "--quality": [20, 50, 80],
                    "--crop-size": [16], "--data-root": [root], "--device": ["cpu"], "--workers": [1]}  # fmt: skip
        for option, values in defaults.items():
            if option not in given:
                given += [option, *map(str, values)]
        program.run("represent", *given, "--json", str(root / "out" / "o.json"))
        return json.loads((root / "out" / "o.json").read_text())

    return represent


@pytest.fixture
def refusal(run: Callable, root: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run a command that must fail with status 2, one line on stderr and nothing written; returns the line."""

    def check(*arguments: object) -> str:
        before = sorted(root.rglob("*"))
        with pytest.raises(SystemExit) as exit_info:
            run(*arguments)
        captured = capsys.readouterr()
        assert exit_info.value.code == 2 and captured.out == "" and captured.err.count("\n") == 1
        assert sorted(root.rglob("*")) == before
        return captured.err

    return check


def test_json_and_tables_hold_every_figure(run: Callable, root: Path, capsys: pytest.CaptureFixture) -> None:
    save_tiny(root / "tiny_supervised.safetensors", 1, seed=2)
    content = run("--quality", 30, 10, 30, "--unseen-quality", 20, 60, "--crops", 2, "--markdown", root / "o.md")
    assert list(content) == ["encoder", "channels", "protocol", "results", "crop_sizes", "provenance"]
    assert (content["encoder"], content["channels"]) == ("tiny", "gray")
    assert content["crop_sizes"] == {"16": content["results"]}
    assert list(content["results"]) == ["live1"] and list(content["results"]["live1"]) == CONDITIONS
    for kinds in content["results"]["live1"].values():
        assert list(kinds) == ["encoder", "untrained", "supervised", "reencode"]
        for figures in kinds.values():
            assert set(figures) == METRICS and figures["num_crops"] == 3 * 2 * 2
        assert kinds["encoder"] != kinds["untrained"] != kinds["supervised"] != kinds["encoder"]
    assert content["results"]["live1"]["aligned"]["reencode"]["probe_accuracy"] == 1.0

    protocol = content["protocol"]
    assert protocol["qualities"] == [10, 30] and protocol["unseen_qualities"] == [20, 60]
    assert protocol["crop_sizes_px"] == [16] and protocol["probe_images"] == {"folder": "bsds500/val", "images": 2}
    assert (protocol["seed"], protocol["second_quality"], protocol["scale"]) == (0, 90, 0.8)
    assert {"weights", "weights_sha256", "supervised", "supervised_sha256", "device", "precision", "pillow", "torch",
            "scikit_learn"} <= set(content["provenance"])  # fmt: skip

    printed, markdown = capsys.readouterr().out, (root / "o.md").read_text()
    figure = f"{content['results']['live1']['resized']['encoder']['quality_mae']:.2f}"
    for text in (printed, markdown):
        assert "tiny, gray, live1, 16-pixel crops" in text and figure in text
        assert "chance: accuracy 0.500" in text and "on 2 images of bsds500/val" in text
    assert "train_cqe.py" not in printed


def test_every_crop_size_has_its_figures_and_the_first_is_the_result(
    run: Callable, capsys: pytest.CaptureFixture
) -> None:
    content = run("--crop-size", 24, 16, 24, "--condition", "offgrid", "--kinds", "encoder")
    assert list(content["crop_sizes"]) == ["24", "16"] and content["results"] == content["crop_sizes"]["24"]
    assert content["results"] != content["crop_sizes"]["16"]
    titles = [line for line in capsys.readouterr().out.splitlines() if line.endswith("-pixel crops")]
    assert titles == ["tiny, gray, live1, 24-pixel crops", "tiny, gray, live1, 16-pixel crops"]


def test_without_a_supervised_encoder_its_row_is_left_out_and_a_line_says_how_to_make_one(
    run: Callable, root: Path, capsys: pytest.CaptureFixture
) -> None:
    content = run("--condition", "aligned")
    assert list(content["results"]["live1"]["aligned"]) == ["encoder", "untrained", "reencode"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"supervised: left out, there is no {root / 'tiny_supervised.safetensors'}")
    assert "python train_cqe.py --config <config> --config configs/cqe/supervised.yaml" in last
    assert "supervised" not in content["provenance"] and "supervised" not in content["protocol"]["kinds"]


def test_a_supervised_encoder_of_another_architecture_is_refused(refusal: Callable, root: Path) -> None:
    save_encoder(QualityEncoder(1, width=16), root / "wide.safetensors")
    line = refusal("--condition", "offgrid", "--supervised", root / "wide.safetensors")
    assert "wide.safetensors is {'in_channels': 1, 'width': 16" in line and "give one of this architecture" in line


def test_a_supervised_encoder_may_lie_anywhere(run: Callable, root: Path) -> None:
    save_tiny(root / "other.safetensors", 1)
    chosen = ["--condition", "offgrid", "--kinds", "supervised", "encoder"]
    content = run(*chosen, "--supervised", root / "other.safetensors")
    kinds = content["results"]["live1"]["offgrid"]
    assert list(kinds) == ["encoder", "supervised"] and kinds["encoder"] == kinds["supervised"]  # the same weights
    assert content["provenance"]["supervised"] == "other.safetensors"


def test_figures_follow_from_the_seed(run: Callable) -> None:
    chosen = ["--condition", "offgrid", "--kinds", "untrained"]
    first, again, other = (run(*chosen, "--seed", seed)["results"]["live1"]["offgrid"] for seed in (3, 3, 4))
    assert first == again != other


def test_reencoding_alone_needs_no_probe_images(run: Callable) -> None:
    content = run("--condition", "aligned", "--kinds", "reencode", "--probe-images", "nonesuch")
    assert list(content["results"]["live1"]["aligned"]) == ["reencode"] and content["protocol"]["probe_images"] is None


def test_colour_and_folders_are_measured(run: Callable, root: Path) -> None:
    save_tiny(root / "color.safetensors", 3)
    write_pictures(root / "mine", ["1", "2"], size=32, seed=30)
    content = run("--weights", root / "color.safetensors", "--channels", "color", "--sets", "live1", root / "mine",
                  "--condition", "aligned", "resized")  # fmt: skip
    assert list(content["results"]) == ["live1", "mine"] and content["channels"] == "color"
    assert content["results"]["mine"]["resized"]["encoder"]["num_crops"] == 2 * 3


def test_a_restorers_own_encoder_is_measured(run: Callable, root: Path) -> None:
    torch.manual_seed(1)
    encoder = QualityEncoder(1, width=8, remove_local_mean=True)
    config = NetworkConfig("fast", fast=FastOptions(widths=(4, 4, 4), blocks_down=(0, 0, 0), blocks_up=(1, 0, 0)))
    save_restorer(build_restorer(config, encoder, 1), config, root / "restorer.safetensors")
    chosen = ["--condition", "offgrid", "--kinds", "encoder"]
    own = run(*chosen, "--weights", root / "restorer.safetensors")
    assert own["encoder"] == "restorer" and own["results"] == run(*chosen)["results"]  # `tiny` has the same weights


def test_the_authors_encoder_is_found_in_their_file(root: Path) -> None:
    weights = released_weights("gray")
    torch.save(weights, root / "deblock_gray.pth")
    found = open_encoder_for(root / "deblock_gray.pth", "gray").encoder.state_dict()
    torch.testing.assert_close(found, type(found)((name, weights[f"E.{name}"]) for name in found))


def test_the_twin_lies_where_it_is_advised_and_table_still_takes_restorers_only(
    run: Callable, root: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = root / "weights"
    published.mkdir()
    monkeypatch.setattr("restoration.weights.WEIGHTS_DIR", published)
    config = NetworkConfig("fast", fast=FastOptions(widths=(4, 4, 4), blocks_down=(0, 0, 0), blocks_up=(1, 0, 0)))
    save_restorer(build_restorer(config, QualityEncoder(1, width=8), 1), config, published / "small.safetensors")
    run("--weights", "small", "--condition", "aligned")
    advised = re.search(r"there is no (\S+small_supervised\.safetensors);", capsys.readouterr().out)[1]
    save_encoder(QualityEncoder(1, width=8), advised)
    assert "supervised" in run("--weights", "small", "--condition", "aligned")["results"]["live1"]["aligned"]
    program.run("table", 1, "--data-root", root, "--device", "cpu", "--workers", 1, "--json", root / "table.json")
    measured = json.loads((root / "table.json").read_text())["measured"]
    assert [result["method"] for result in measured] == ["jpeg", "small"]


def test_untrained_is_the_architecture_with_weights_of_the_seed() -> None:
    torch.manual_seed(7)
    encoder = QualityEncoder(1, width=8, remove_local_mean=True)
    state = torch.get_rng_state()
    first, again, other = (untrained_like(encoder, seed) for seed in (0, 0, 1))
    torch.testing.assert_close(torch.get_rng_state(), state)
    assert first.remove_local_mean and not first.training
    torch.testing.assert_close(first.conv1.weight, again.conv1.weight, rtol=0, atol=0)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    assert not torch.equal(first.conv1.weight, encoder.conv1.weight)


def test_unfit_weights_are_refused(refusal: Callable, root: Path) -> None:
    assert "no weights 'nonesuch'" in refusal("--weights", "nonesuch")
    assert "no weights 'none.safetensors'" in refusal("--supervised", "none.safetensors")
    assert f"there is no {root / 'tiny_supervised.safetensors'}; to train one" in refusal("--kinds", "supervised")
    line = refusal("--channels", "color")
    assert "tiny.safetensors is no encoder for color images; change --channels (to gray)" in line
    (root / "cut.safetensors").write_bytes((root / "tiny.safetensors").read_bytes()[:5000])
    assert "cut.safetensors cannot be read, it is truncated" in refusal("--weights", root / "cut.safetensors")


def test_probe_images_must_be_there_and_must_not_be_tested(refusal: Callable, root: Path) -> None:
    assert "probes need images to be fitted on" in refusal("--probe-images", root / "none")
    assert "is also a probe image" in refusal("--probe-images", root / "live1")
    assert "x.png is tested and is also a probe image" in refusal("--sets", root / "bsds500" / "val")
    Image.open(root / "live1" / "b.png").save(root / "bsds500" / "val" / "renamed.bmp")
    line = refusal()
    assert "b.png is tested" in line and "renamed.bmp" in line


def test_unfit_images_are_refused(refusal: Callable, root: Path) -> None:
    line = refusal("--crop-size", 16, 26)
    assert "x.png is 32x32" in line and "'double'" in line and "26x26" in line
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(root / "live1" / "d.png")
    save_tiny(root / "color.safetensors", 3)
    assert "d.png is a gray image" in refusal("--weights", root / "color.safetensors", "--channels", "color")
    write_pictures(root / "one", ["only"], size=32)
    assert "one has one image" in refusal("--sets", root / "one")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unseen-quality", 20, 30], "the unseen qualities 20 are among the other qualities"),
        (["--unseen-quality", 0], "--unseen-quality: '0' is no quality within 1..100"),
        (["--second-quality", 101], "--second-quality: must be a whole number from 1 to 100"),
        (["--scale", 0], "--scale: must be a number above 0 and at most 4, got 0"),
        (["--scale", "nan"], "--scale: must be a number above 0"),
        (["--scale", "half"], "--scale: must be a number above 0"),
        (["--seed=-1"], "--seed: must be a whole number from 0 to 4294967295, got -1"),
        (["--crop-size", 0], "--crop-size: must be a whole number of at least 1"),
        (["--crops", 0], "--crops: must be a whole number of at least 1"),
        (["--condition", "cropped"], "--condition: invalid choice: 'cropped'"),
        (["--kinds", "jpeg"], "--kinds: invalid choice: 'jpeg'"),
        (["--markdown", "x.png"], "named like a picture or weights"),
    ],
)
def test_options_out_of_range_are_named(refusal: Callable, arguments: list, message: str) -> None:
    assert message in refusal(*arguments)


def test_help_says_what_probes_are_fitted_on(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        program.run("represent", "--help")
    assert "probes are fitted on crops of --probe-images" in " ".join(capsys.readouterr().out.split())
