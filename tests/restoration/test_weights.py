"""Networks by name or file, and every kind of file that is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.files import sha256
from cqe.encoder import QualityEncoder
from cqe.quality import QualityProbe
from cqe.weights import save_encoder
from engine.weight_files import WeightFile, architecture_of, read_weight_file, save_weights
from restoration import weights
from restoration.fineness import EVERY_IMAGE, fineness_of
from restoration.networks import FastOptions, NetworkConfig, build_restorer
from restoration.networks.paper import PaperRestorer
from restoration.released import load_released
from restoration.weights import (
    Weights,
    load_restorer,
    open_weights,
    published_names,
    published_restorers,
    save_restorer,
)
from tests.networks import released_weights

FAST = NetworkConfig(name="fast", fast=FastOptions(widths=(4, 6, 8), blocks_down=(1, 1, 1), blocks_up=(1, 1, 1)))


@pytest.fixture
def weights_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for `weights/` with one gray network, `small_gray`."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(weights, "WEIGHTS_DIR", folder)
    save_restorer(build_restorer(FAST, QualityEncoder(1, width=4), 1), FAST, folder / "small_gray.safetensors")
    return folder


def test_a_name_and_its_file_are_the_same_network(weights_dir: Path) -> None:
    assert published_names() == ["small_gray"]
    by_name, by_file = load_restorer("small_gray"), load_restorer(weights_dir / "small_gray.safetensors")
    torch.testing.assert_close(by_name.state_dict(), by_file.state_dict(), rtol=0, atol=0)
    assert not by_name.training


def test_an_unknown_name_lists_the_names(weights_dir: Path) -> None:
    for name in ("small_grey", "no/such/file.safetensors"):
        with pytest.raises(FileNotFoundError, match=f"no weights '{name}': .*small_gray") as caught:
            load_restorer(name)
        assert "\n" not in str(caught.value)


def test_an_encoder_is_never_taken_for_a_restorer_whatever_its_name(weights_dir: Path) -> None:
    """The advice of `represent` puts an encoder at such a name; `table` takes all restorers by default."""
    save_encoder(QualityEncoder(1, width=4), weights_dir / "small_gray_supervised.safetensors")
    save_restorer(build_restorer(FAST, QualityEncoder(3, width=4), 3), FAST, weights_dir / "cqe_color.safetensors")
    save_file({"w": torch.zeros(2)}, weights_dir / "foreign.safetensors")
    assert published_names() == ["cqe_color", "foreign", "small_gray", "small_gray_supervised"]
    assert published_restorers(1) == ["small_gray"] and published_restorers(3) == ["cqe_color"]
    (weights_dir / "cut.safetensors").write_bytes((weights_dir / "small_gray.safetensors").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"cut\.safetensors cannot be read, it is truncated"):
        published_restorers(1)


def test_what_is_needed_and_not_in_the_file_is_refused(weights_dir: Path) -> None:
    save_encoder(QualityEncoder(1, width=4), weights_dir / "alone.safetensors")
    opened = open_weights("alone", needs="encoder")
    assert opened.network is None and opened.kind == "a quality encoder (stage 1)"
    with pytest.raises(ValueError, match=r"alone\.safetensors holds a quality encoder \(stage 1\), but a restoration"):
        weights.store_half("alone", weights_dir / "half.safetensors")


def test_files_are_known_by_their_content_not_their_names(weights_dir: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "network.pth", tmp_path / "deblock.safetensors"
    ours.write_bytes((weights_dir / "small_gray.safetensors").read_bytes())
    torch.save(released_weights("gray"), theirs)
    assert open_weights(ours).kind == "a restoration network (stage 2)"
    assert open_weights(theirs).kind == "the authors' network (.pth)"
    assert open_weights(ours).sha256 == sha256(ours) and open_weights(ours).name == "network"


def test_one_reading_gives_the_network_its_encoder_and_its_probe(weights_dir: Path) -> None:
    file = weights_dir / "small_gray.safetensors"
    save_restorer(load_restorer(file), FAST, file, probe=some_probe(16))
    stored = read_weight_file(file)
    file.unlink()
    opened = weights.recognise(stored)
    assert None not in (opened.network, opened.encoder, opened.probe) and opened.path == file


def test_a_further_kind_of_file_needs_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubling(torch.nn.Module):
        channels = 1

    def recognise(file: WeightFile) -> Weights | None:
        if not isinstance(file.content, bytes) or not file.content.startswith(b"MATLAB"):
            return None
        return Weights(file.path, file.sha256, "a doubling network (.mat)", Doubling(), None, None)

    (tmp_path / "double.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(ValueError, match=r"double\.mat cannot be read, .*; known are .*, the authors' network"):
        load_restorer(tmp_path / "double.mat")
    monkeypatch.setitem(weights.RECOGNISERS, "a doubling network (.mat)", recognise)
    assert isinstance(load_restorer(tmp_path / "double.mat"), Doubling)
    assert open_weights(tmp_path / "double.mat").reader() is None
    with pytest.raises(ValueError, match=r"double\.mat holds a doubling network \(\.mat\), but a quality encoder"):
        open_weights(tmp_path / "double.mat", needs="encoder")
    (tmp_path / "other.mat").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"other\.mat cannot be read, .*, a doubling network \(\.mat\)"):
        load_restorer(tmp_path / "other.mat")


def test_half_precision_files_restore_within_rounding(weights_dir: Path) -> None:
    weights.store_half(weights_dir / "small_gray.safetensors", weights_dir / "half.safetensors")
    half, full = load_restorer("half"), load_restorer("small_gray")
    for name, value in full.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        torch.testing.assert_close(half.state_dict()[name], expected, rtol=0, atol=0)


def test_a_probe_lies_beside_the_network_and_reads_through_its_encoder(weights_dir: Path) -> None:
    restorer, probe = load_restorer("small_gray"), some_probe(16)
    assert open_weights("small_gray").reader() is None
    save_restorer(restorer, FAST, weights_dir / "reads.safetensors", probe=probe)
    again = open_weights("reads")
    torch.testing.assert_close(again.network.state_dict(), restorer.state_dict(), rtol=0, atol=0)
    reader = again.reader()
    assert reader.encoder is again.encoder is again.network.encoder.network  # moves to a GPU with the network
    torch.testing.assert_close(reader.probe.state_dict(), probe.state_dict(), rtol=0, atol=0)


def test_a_probe_in_half_precision_reads_the_same_to_a_fraction_of_a_point(weights_dir: Path) -> None:
    probe, restorer = some_probe(16), load_restorer("small_gray")
    save_restorer(restorer, FAST, weights_dir / "full.safetensors", probe=probe)
    save_restorer(restorer, FAST, weights_dir / "half.safetensors", probe=probe, is_half=True)
    weights.store_half(weights_dir / "full.safetensors", weights_dir / "published.safetensors")
    representations = torch.randn(200, 16) + 3
    expected = probe(representations)
    assert expected.std() > 5
    for name in ("half", "published"):
        half = open_weights(name).probe(representations)
        # float16 rounds to 1 in 2,000; the terms of an estimate, some tens in size, mostly cancel.
        torch.testing.assert_close(half, expected, rtol=0, atol=0.2)


def test_the_encoder_of_either_kind_of_file_is_found(weights_dir: Path) -> None:
    restorer, encoder = load_restorer("small_gray"), QualityEncoder(3, width=4).eval()
    save_encoder(encoder, weights_dir / "cqe_small.safetensors", some_probe(16))
    for name, expected in [("cqe_small", encoder), ("small_gray", restorer.encoder.network)]:
        found = open_weights(name, needs="encoder").encoder
        assert not found.training
        torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_a_damaged_probe_is_named(weights_dir: Path) -> None:
    file = weights_dir / "small_gray.safetensors"
    stored = read_weight_file(file)
    tensors, architecture = stored.content, architecture_of(stored, "restorer")
    for extra, message in [
        ({"probe.mean": torch.zeros(16)}, r"small_gray\.safetensors lacks tensor 'bias'"),
        ({"probe.bias": torch.zeros(())}, r"small_gray\.safetensors describes a network that this version cannot"),
    ]:
        save_weights(file, tensors | extra, kind="restorer", architecture=architecture)
        with pytest.raises(ValueError, match=message):
            open_weights(file)


def some_probe(size: int) -> QualityProbe:
    """A probe whose estimates of representations about 3 +- 1 differ widely."""
    probe = QualityProbe(size)
    probe.mean.fill_(3)
    probe.linear.copy_(3 * torch.randn(size))
    probe.quadratic.copy_(torch.randn(size, size) / 4)
    return probe


def test_the_authors_files_are_known_by_their_content(tmp_path: Path) -> None:
    weights = released_weights("gray")
    torch.save(weights, tmp_path / "some_name.pth")
    restorer = load_restorer(tmp_path / "some_name.pth")
    assert isinstance(restorer, PaperRestorer) and restorer.channels == 1 and not restorer.training
    assert restorer.as_published and fineness_of(restorer) == EVERY_IMAGE  # it runs as its authors ran it
    encoder = open_weights(tmp_path / "some_name.pth", needs="encoder").encoder.state_dict()
    torch.testing.assert_close(dict(encoder), {name: weights[f"E.{name}"] for name in encoder}, rtol=0, atol=0)
    torch.testing.assert_close(restorer.state_dict(), load_released(weights).state_dict(), rtol=0, atol=0)
    del weights["tail.bias"]
    torch.save(weights, tmp_path / "incomplete.pth")
    with pytest.raises(ValueError, match=r"incomplete\.pth: released weights lack the tensor 'tail\.bias'"):
        load_restorer(tmp_path / "incomplete.pth")


@pytest.mark.parametrize("content", [{"weight": torch.zeros(2)}, [1, 2], torch.zeros(3)])
def test_other_torch_files_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"other\.pth holds weights of an unknown network; known are .*, the authors' network"
    ):
        load_restorer(tmp_path / "other.pth")


@pytest.mark.parametrize(
    "change",
    [
        lambda architecture: architecture["network"].update(name="zzz"),
        lambda architecture: architecture["network"]["options"].update(zzz=1),
        lambda architecture: architecture["network"]["options"].update(widths="abc"),
        lambda architecture: architecture.pop("encoder"),
        lambda architecture: architecture["encoder"].update(depth=3),
    ],
)
def test_a_network_of_another_version_is_named(weights_dir: Path, change: Callable[[dict], object]) -> None:
    file = next(weights_dir.glob("*.safetensors"))
    stored = read_weight_file(file)
    architecture = architecture_of(stored, "restorer")
    change(architecture)
    save_weights(file, stored.content, kind="restorer", architecture=architecture)
    with pytest.raises(ValueError, match=rf"{file.name} describes a network that this version cannot build"):
        load_restorer(file)
