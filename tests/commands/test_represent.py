"""`test.py represent`: outputs, where the encoder comes from, and one clear line for mistakes."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from commands.represent import untrained_like
from cqe.encoder import QualityEncoder
from cqe.weights import save_encoder
from tests import program
from tests.networks import save_tiny, tiny_restorer
from tests.synthetic import noise, save, write_pictures

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
    save_small(tmp_path / "tiny.safetensors", 1)
    return tmp_path


def save_small(path: Path, channels: int, *, seed: int = 1) -> None:
    torch.manual_seed(seed)
    save_encoder(QualityEncoder(channels, width=8, remove_local_mean=True), path)


@pytest.fixture
def words(root: Path) -> Callable[..., list[str]]:
    """`represent` on small crops and three qualities, unless told otherwise, as its words."""

    def complete(*arguments: object) -> list[str]:
        given = [str(argument) for argument in arguments]
        defaults = {"--weights": [root / "tiny.safetensors"], "--sets": ["live1"], "--quality": [20, 50, 80],
                    "--crop-size": [16], "--data-root": [root], "--device": ["cpu"], "--workers": [1]}  # fmt: skip
        for option, values in defaults.items():
            if option not in given:
                given += [option, *map(str, values)]
        return ["represent", *given, "--json", str(root / "out" / "o.json")]

    return complete


@pytest.fixture
def run(words: Callable, root: Path) -> Callable[..., dict]:
    """Run it; returns the JSON written."""

    def represent(*arguments: object) -> dict:
        program.run(*words(*arguments))
        return json.loads((root / "out" / "o.json").read_text())

    return represent


@pytest.fixture
def refused(words: Callable, refusal: Callable) -> Callable[..., str]:
    """Run what must fail, and write nothing; returns the line."""
    return lambda *arguments: refusal(*words(*arguments))


def test_json_and_tables_hold_every_score(run: Callable, root: Path, capsys: pytest.CaptureFixture) -> None:
    save_small(root / "tiny_supervised.safetensors", 1, seed=2)
    content = run("--quality", 30, 10, 30, "--unseen-quality", 20, 60, "--crops", 2, "--markdown", root / "o.md")
    assert list(content) == ["encoder", "channels", "protocol", "results", "crop_sizes", "provenance"]
    assert (content["encoder"], content["channels"]) == ("tiny", "gray")
    assert content["crop_sizes"] == {"16": content["results"]}
    assert list(content["results"]) == ["live1"] and list(content["results"]["live1"]) == CONDITIONS
    for kinds in content["results"]["live1"].values():
        assert list(kinds) == ["encoder", "untrained", "supervised", "reencode"]
        for scores in kinds.values():
            assert set(scores) == METRICS and scores["num_crops"] == 3 * 2 * 2
        assert kinds["encoder"] != kinds["untrained"] != kinds["supervised"] != kinds["encoder"]
    assert content["results"]["live1"]["aligned"]["reencode"]["probe_accuracy"] == 1.0

    protocol = content["protocol"]
    assert protocol["qualities"] == [10, 30] and protocol["unseen_qualities"] == [20, 60]
    assert protocol["crop_sizes_px"] == [16] and protocol["probe_images"] == {"folder": "bsds500/val", "images": 2}
    assert (protocol["seed"], protocol["second_quality"], protocol["scale"]) == (0, 90, 0.8)
    assert {"weights", "weights_sha256", "supervised", "supervised_sha256", "device", "precision", "pillow", "torch",
            "scikit_learn"} <= set(content["provenance"])  # fmt: skip

    printed, markdown = capsys.readouterr().out, (root / "o.md").read_text()
    error = f"{content['results']['live1']['resized']['encoder']['quality_mae']:.2f}"
    for text in (printed, markdown):
        assert "tiny, gray, live1, 16-pixel crops" in text and error in text
        assert "chance: accuracy 0.500" in text and "on 2 images of bsds500/val" in text
    assert "train_cqe.py" not in printed


def test_every_crop_size_has_its_scores_and_the_first_is_the_result(
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


def test_a_supervised_encoder_of_another_architecture_is_refused(refused: Callable, root: Path) -> None:
    save_encoder(QualityEncoder(1, width=16), root / "wide.safetensors")
    line = refused("--condition", "offgrid", "--supervised", root / "wide.safetensors")
    assert "wide.safetensors is {'in_channels': 1, 'width': 16" in line and "give one of this architecture" in line


def test_a_supervised_encoder_may_lie_anywhere(run: Callable, root: Path) -> None:
    save_small(root / "other.safetensors", 1)
    chosen = ["--condition", "offgrid", "--kinds", "supervised", "encoder"]
    content = run(*chosen, "--supervised", root / "other.safetensors")
    kinds = content["results"]["live1"]["offgrid"]
    assert list(kinds) == ["encoder", "supervised"] and kinds["encoder"] == kinds["supervised"]  # the same weights
    assert content["provenance"]["supervised"] == "other.safetensors"


def test_scores_follow_from_the_seed(run: Callable) -> None:
    chosen = ["--condition", "offgrid", "--kinds", "untrained"]
    first, again, other = (run(*chosen, "--seed", seed)["results"]["live1"]["offgrid"] for seed in (3, 3, 4))
    assert first == again != other


def test_reencoding_alone_needs_no_probe_images(run: Callable) -> None:
    content = run("--condition", "aligned", "--kinds", "reencode", "--probe-images", "nonesuch")
    assert list(content["results"]["live1"]["aligned"]) == ["reencode"] and content["protocol"]["probe_images"] is None


def test_colour_and_folders_are_measured(run: Callable, root: Path) -> None:
    save_small(root / "color.safetensors", 3)
    write_pictures(root / "mine", ["1", "2"], size=32, seed=30)
    content = run("--weights", root / "color.safetensors", "--channels", "color", "--sets", "live1", root / "mine",
                  "--condition", "aligned", "resized")  # fmt: skip
    assert list(content["results"]) == ["live1", "mine"] and content["channels"] == "color"
    assert content["results"]["mine"]["resized"]["encoder"]["num_crops"] == 2 * 3


def test_a_restorers_own_encoder_is_measured(run: Callable, root: Path) -> None:
    torch.manual_seed(1)
    save_tiny(root / "restorer.safetensors", tiny_restorer())
    chosen = ["--condition", "offgrid", "--kinds", "encoder"]
    own = run(*chosen, "--weights", root / "restorer.safetensors")
    assert own["encoder"] == "restorer" and own["results"] == run(*chosen)["results"]  # `tiny` has the same weights


def test_the_twin_lies_where_it_is_advised_and_table_still_takes_restorers_only(
    run: Callable, root: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = root / "weights"
    published.mkdir()
    monkeypatch.setattr("restoration.weights.WEIGHTS_DIR", published)
    save_tiny(published / "small.safetensors", tiny_restorer())
    run("--weights", "small", "--condition", "aligned")
    advised = re.search(r"there is no (\S+small_supervised\.safetensors);", capsys.readouterr().out)[1]
    save_encoder(QualityEncoder(1, width=8, remove_local_mean=True), advised)
    assert "supervised" in run("--weights", "small", "--condition", "aligned")["results"]["live1"]["aligned"]
    program.run("table", 1, "--data-root", root, "--device", "cpu", "--workers", 1, "--json", root / "table.json",
        "--cache", root / "cache")  # fmt: skip
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


def test_unfit_weights_are_refused(refused: Callable, root: Path) -> None:
    assert "no weights 'none.safetensors'" in refused("--supervised", "none.safetensors")
    assert f"there is no {root / 'tiny_supervised.safetensors'}; to train one" in refused("--kinds", "supervised")
    line = refused("--channels", "color")
    assert "tiny.safetensors is no encoder for color images; change --channels (to gray)" in line


def test_gray_images_are_refused_for_colour(refused: Callable, root: Path) -> None:
    save(root / "live1" / "d.png", noise(40, 40))
    save_small(root / "color.safetensors", 3)
    assert "d.png is a gray image" in refused("--weights", root / "color.safetensors", "--channels", "color")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unseen-quality", 20, 30], "the unseen qualities 20 are among the other qualities"),
        (["--probe-images", "none"], "probes need images to be fitted on"),
        (["--sets", "bsds500/val"], "x.png is tested and is also a probe image"),
        (["--crop-size", 16, 26], "x.png is 32x32, which leaves"),
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
def test_mistakes_are_named(refused: Callable, arguments: list, message: str) -> None:
    assert message in refused(*arguments)


def test_help_says_what_probes_are_fitted_on(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        program.run("represent", "--help")
    assert "probes are fitted on crops of --probe-images" in " ".join(capsys.readouterr().out.split())
