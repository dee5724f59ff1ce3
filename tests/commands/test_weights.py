"""`test.py describe`, `publish`, `probe`, `calibrate`: what a weight file holds, and its copies."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from commands import calibrate
from common.files import sha256
from cqe.encoder import QualityEncoder
from cqe.weights import save_encoder
from data.jpeg import jpeg_roundtrip
from evaluation.scores.calibration import Outcome
from restoration.networks import FastOptions, NetworkConfig, build_restorer
from restoration.networks.rdn import RDN
from restoration.networks.restorer import Restorer
from restoration.weights import load_restorer, open_weights, save_restorer
from tests import program
from tests.networks import released_weights
from tests.synthetic import make_data_root, picture

NETWORK = NetworkConfig("fast", fast=FastOptions(widths=(4, 6, 8), blocks_down=(1, 0, 1), blocks_up=(0, 1, 1)))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    restorer = build_restorer(NETWORK, QualityEncoder(1, width=2), 1)
    with torch.no_grad():
        for parameter in restorer.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    save_restorer(restorer, NETWORK, tmp_path / "restorer.safetensors")
    return tmp_path / "restorer.safetensors"


def counted_gmac(restorer: Restorer) -> float:
    """Multiply-accumulates of all convolutions at 256x256, layer by layer."""
    total = 0

    def count(layer: nn.Conv2d, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        total += layer.weight.numel() * output.shape[-2] * output.shape[-1]

    for module in restorer.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        restorer(torch.zeros(1, 1, 256, 256))
    return total / 1e9


def test_describe_counts_parameters_and_arithmetic(weights: Path, capsys: pytest.CaptureFixture) -> None:
    program.run("describe", "--weights", weights)
    lines = capsys.readouterr().out.splitlines()
    restorer = load_restorer(weights)
    assert lines[0] == "FastRestorer, 1 channel(s)"
    assert lines[1].startswith(f"{sum(p.numel() for p in restorer.parameters()) / 1e6:.2f} M parameters")
    assert lines[2] == f"{counted_gmac(restorer):.2f} GMAC at 256x256"
    assert lines[3] == "an image is returned as it was if it would change by less than 1.7 grey levels"


def test_describe_names_another_system(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(RDN(1, width=4, growth=4, blocks=1, layers=1).state_dict(), tmp_path / "published.pt")
    speed = ["--speed", "--size", 16, "--precision", "bfloat16", "--device", "cpu"]
    program.run("describe", "--weights", tmp_path / "published.pt", *speed)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "RDN, 1 channel(s)" and lines[3] == "every image is restored"
    assert "float32" in lines[4]  # as its authors ran it


def test_describe_measures_speed_only_when_asked(weights: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["describe", "--weights", weights, "--device", "cpu"]
    program.run(*options)
    assert "megapixels" not in capsys.readouterr().out
    program.run(*options, "--speed", "--size", "40")
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"[\d.e-]+ megapixels/s \(cpu, 1 threads, float32, 40x40\)", line)


def test_describe_refuses_a_size_that_fits_no_memory(refusal: Callable) -> None:
    line = refusal("describe", "--weights", "fast_tiny_gray", "--speed", "--size", "4097")
    assert "--size: must be at most 4096 pixels, got 4097" in line


def test_publish_halves_the_file(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    half = tmp_path / "half.safetensors"
    program.run("publish", "--weights", weights, "--output", half)
    assert sha256(half) in capsys.readouterr().out
    assert half.stat().st_size < 0.7 * weights.stat().st_size
    assert load_file(half)["tail.weight"].dtype == torch.float16 and load_restorer(half).channels == 1


def test_publish_refuses_a_network_that_could_not_be_used(weights: Path, tmp_path: Path, refusal: Callable) -> None:
    restorer = load_restorer(weights)
    with torch.no_grad():
        restorer.tail.bias.fill_(torch.nan)
    save_restorer(restorer, NETWORK, tmp_path / "nan.safetensors")
    line = refusal("publish", "--weights", tmp_path / "nan.safetensors", "--output", tmp_path / "out.safetensors")
    assert "nan.safetensors: tensor 'tail.bias' has numbers that are not finite" in line


def test_publish_does_not_replace_what_it_reads(weights: Path, refusal: Callable) -> None:
    assert "is the file of --weights" in refusal("publish", "--weights", weights, "--output", weights)


def test_publish_refuses_what_is_no_restorer(tmp_path: Path, refusal: Callable) -> None:
    given = ["publish", "--weights", tmp_path / "none.safetensors", "--output"]
    assert "no weights" in refusal(*given, tmp_path / "x.safetensors")
    assert "must end in .safetensors" in refusal(*given, tmp_path / "x")


def test_probe_adds_what_reads_qualities_off_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = make_data_root(tmp_path, num_train=4)
    encoder = QualityEncoder(1, width=8, remove_local_mean=True).eval()
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    output = tmp_path / "new" / "encoder.safetensors"
    options = ["--weights", tmp_path / "encoder.safetensors", "--data-root", root, "--device", "cpu"]
    program.run("probe", *options, "--output", output)
    assert capsys.readouterr().out.startswith(f"{output}: probe fitted to 400 crops of 4 photos; error of one crop of")
    opened = open_weights(output)
    torch.testing.assert_close(opened.encoder.state_dict(), encoder.state_dict(), rtol=0, atol=0)
    reader = opened.reader()
    seen = picture(48, 48, seed=0)  # one of those that it was fitted to; an untrained encoder is no help with others
    qualities = [reader.read(jpeg_roundtrip(seen, quality)).quality for quality in (5, 50, 95)]
    assert qualities == sorted(qualities) and qualities[0] < 20 and qualities[2] > 80


def test_probe_leaves_a_half_precision_network_as_it_is(weights: Path, tmp_path: Path) -> None:
    half, output = tmp_path / "half.safetensors", tmp_path / "probe.safetensors"
    program.run("publish", "--weights", weights, "--output", half)
    photos = str(make_data_root(tmp_path, num_train=2) / "bsds500" / "train")
    program.run("probe", "--weights", half, "--images", photos, "--output", output)
    before, after = load_file(half), load_file(output)
    assert {name for name in after if not name.startswith("probe.")} == set(before)
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=0)
    assert open_weights(output).probe is not None


def test_probe_refuses_images_for_choosing_and_reporting_and_other_files(
    weights: Path, tmp_path: Path, refusal: Callable
) -> None:
    root, output = make_data_root(tmp_path), ["--output", tmp_path / "out.safetensors"]
    own, theirs = ["probe", "--weights", weights], ["probe", "--weights", tmp_path / "deblock.pth"]
    for split in ("val", "test"):
        assert f"BSDS500 {split} split" in refusal(*own, "--images", root / "bsds500" / split, *output)
    assert "kept in .safetensors files" in refusal(*own, "--output", tmp_path / "out.pth")
    torch.save(released_weights("gray"), tmp_path / "deblock.pth")
    line = refusal(*theirs, *output)
    assert "deblock.pth is the authors' network (.pth); a probe is kept in files that this project" in line
    assert "is the file of --weights; name a new one" in refusal(*own, "--output", weights)


CALIBRATING = ["--quality", "10", "100", "--device", "cpu"]


@pytest.mark.parametrize("num_images", [[], ["--num-images", "2"]])
def test_calibrate_writes_limits_beside_the_same_weights(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture, num_images: list[str]
) -> None:
    """This network does harm at every quality, so no image may be restored: all are left by their change."""
    root, output = make_data_root(tmp_path), tmp_path / "new" / "calibrated.safetensors"
    restorer = load_restorer(weights)
    with torch.no_grad():
        restorer.tail.weight.mul_(1e-4)
        restorer.tail.bias.fill_(1 / 255)
    save_restorer(restorer, NETWORK, weights)
    before = load_file(weights)
    options = ["--weights", weights, "--data-root", root, *CALIBRATING, *num_images]
    program.run("calibrate", *options, "--output", output, "--json", tmp_path / "out.json")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{output}: sha256 {sha256(output)}" and len(lines) == 5
    count = "2" if num_images else "3"
    assert [line.split() for line in lines[2:4]] == [
        ["bsds500/val", quality, "+0.000", "+0.00", count, count] for quality in ("10", "100")
    ]
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["limits"]["quality"] is None and content["limits"]["change"] > 1
    if num_images:  # of three, evenly spread
        stems = sorted(path.stem for path in (root / "bsds500" / "val").iterdir())
        assert {one["image"] for one in content["outcomes"]} == {stems[0], stems[1]}
    program.run("describe", "--weights", output)
    assert f"would change by less than {content['limits']['change']:g} grey levels" in capsys.readouterr().out
    torch.testing.assert_close(load_file(output), before, rtol=0, atol=0)
    program.run("calibrate", *options)  # in place
    assert sha256(weights) == sha256(output)


def test_calibrate_leaves_weights_that_changed_meanwhile(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = load_restorer(weights)
    with torch.no_grad():
        changed.tail.bias.fill_(0.5)

    def measuring(*arguments: object) -> list[Outcome]:
        save_restorer(changed, NETWORK, weights)
        return [Outcome("bsds500/val", "a", 10, 10.0, 5.0, 1.0)]

    monkeypatch.setattr(calibrate, "measure", measuring)
    with pytest.raises(SystemExit):
        program.run("calibrate", "--weights", weights, "--data-root", make_data_root(tmp_path), *CALIBRATING)
    assert "has changed while it was measured" in capsys.readouterr().err
    assert (load_restorer(weights).tail.bias == 0.5).all()


def test_calibrate_refuses_sets_for_reporting_and_files_without_a_place(
    weights: Path, tmp_path: Path, refusal: Callable
) -> None:
    root = make_data_root(tmp_path)
    own = ["calibrate", "--weights", weights, "--data-root", root]
    assert "live1 is for reporting; choose on bsds500/val" in refusal(*own, "--sets", "live1")
    assert "BSDS500 test split, not to val" in refusal(*own, "--sets", root / "bsds500" / "test")
    assert "limits are kept in .safetensors files, but --output is" in refusal(*own, "--output", tmp_path / "out.pth")
    for amount in ("-1", "inf", "much"):
        assert f"must be a number of at least 0, got {amount}" in refusal(*own, f"--max-loss={amount}")
    torch.save(released_weights("gray"), tmp_path / "deblock.pth")
    assert "was not written by this project" in refusal("calibrate", "--weights", tmp_path / "deblock.pth")
    save_encoder(QualityEncoder(1, width=8), tmp_path / "encoder.safetensors")
    assert "holds a quality encoder" in refusal("calibrate", "--weights", tmp_path / "encoder.safetensors")


def test_calibrate_refuses_a_network_that_only_harms(weights: Path, tmp_path: Path, refusal: Callable) -> None:
    before = sha256(weights)
    line = refusal("calibrate", "--weights", weights, "--data-root", make_data_root(tmp_path), *CALIBRATING)
    assert "train the network longer" in line and sha256(weights) == before
