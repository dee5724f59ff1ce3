"""Weight files: exact round trips, formats known by content, and files that do not fit named in one line."""

import errno
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.files import sha256
from cqe.encoder import QualityEncoder
from cqe.weights import load_encoder, save_encoder
from engine.checkpoint import save_checkpoint
from engine.weight_files import (
    METADATA_KEY,
    architecture_of,
    load_exactly,
    read_description,
    read_weight_file,
    save_weights,
)
from restoration.networks import FastOptions, NetworkConfig, build_restorer
from restoration.weights import load_restorer, save_restorer

FAST = NetworkConfig(name="fast", fast=FastOptions(widths=(4, 6, 8), blocks_down=(1, 0, 1), blocks_up=(1, 1, 0)))


@pytest.fixture
def encoder() -> QualityEncoder:
    encoder = QualityEncoder(1, width=4, remove_local_mean=True)
    encoder.bn1.running_mean.uniform_()  # so that statistics are seen to travel too
    encoder.bn1.num_batches_tracked.fill_(7)
    return encoder


@pytest.fixture
def encoder_file(encoder: QualityEncoder, tmp_path: Path) -> Path:
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    return tmp_path / "encoder.safetensors"


def test_an_encoder_comes_back_exactly_and_in_eval_mode(encoder: QualityEncoder, encoder_file: Path) -> None:
    loaded = load_encoder(encoder_file, channels=1)
    assert not loaded.training and loaded.remove_local_mean
    torch.testing.assert_close(loaded.state_dict(), encoder.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_restorer_comes_back_exactly_with_its_encoder_and_options(tmp_path: Path, channels: int) -> None:
    restorer = build_restorer(FAST, QualityEncoder(channels, width=4, remove_local_mean=True), channels)
    save_restorer(restorer, FAST, tmp_path / "r.safetensors")
    loaded = load_restorer(tmp_path / "r.safetensors")
    assert not loaded.training and loaded.channels == channels
    assert not any(parameter.requires_grad for parameter in loaded.encoder.parameters())
    torch.testing.assert_close(loaded.state_dict(), restorer.state_dict(), rtol=0, atol=0)


def test_half_precision_rounds_to_float16_and_comes_back_as_float32(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(50), "count": torch.tensor(100_000)}  # the integer does not fit float16
    save_weights(tmp_path / "w.safetensors", tensors, kind="restorer", architecture={}, is_half=True)
    module = torch.nn.Module()
    module.register_buffer("w", torch.zeros(50))
    module.register_buffer("count", torch.tensor(0))
    load_exactly(module, read_weight_file(tmp_path / "w.safetensors").content, "w.safetensors")
    assert module.w.dtype == torch.float32
    torch.testing.assert_close(module.w, tensors["w"].half().float(), rtol=0, atol=0)
    assert load_file(tmp_path / "w.safetensors")["w"].dtype == torch.float16
    assert module.count == 100_000


def test_a_format_is_known_by_its_content(encoder: QualityEncoder, encoder_file: Path, tmp_path: Path) -> None:
    renamed, torch_file, other = tmp_path / "encoder.pth", tmp_path / "w.safetensors", tmp_path / "w.mat"
    encoder_file.rename(renamed)
    torch.save({"w": torch.ones(2)}, torch_file)
    other.write_bytes(b"MATLAB 5.0 MAT-file")
    ours, theirs, unknown = (read_weight_file(path) for path in (renamed, torch_file, other))
    torch.testing.assert_close(dict(ours.content), dict(encoder.state_dict()), rtol=0, atol=0)
    assert ours.description == read_description(renamed)
    assert architecture_of(ours, "encoder") == {"in_channels": 1, "width": 4, "remove_local_mean": True}
    assert torch.equal(theirs.content["w"], torch.ones(2)) and unknown.content == b"MATLAB 5.0 MAT-file"
    assert theirs.description is None and unknown.description is None
    assert all(file.sha256 == sha256(file.path) for file in (ours, theirs, unknown))


@pytest.mark.parametrize(
    ("stage", "name"),
    [("cqe", "encoder.safetensors"), ("restorer", "restorer.safetensors"), (["x"], ".safetensors")],
)
def test_a_training_checkpoint_says_where_the_weights_are(tmp_path: Path, stage: object, name: str) -> None:
    save_checkpoint(tmp_path / "checkpoint.pt", {"stage": stage, "module": {}})
    with pytest.raises(ValueError, match=r"checkpoint\.pt is a training checkpoint; .* lie beside it, in ") as caught:
        read_weight_file(tmp_path / "checkpoint.pt")
    assert str(caught.value).endswith(name)


def test_numbers_of_a_type_that_torch_lacks_are_refused(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    with pytest.raises(ValueError, match=r"w\.safetensors cannot be read"):
        read_weight_file(tmp_path / "w.safetensors")


def test_the_wrong_kind_is_refused(encoder_file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"encoder\.safetensors holds a quality encoder \(stage 1\), but a restoration"
    ):
        load_restorer(encoder_file)
    restorer = build_restorer(FAST, QualityEncoder(1, width=4), 1)
    save_restorer(restorer, FAST, tmp_path / "r.safetensors")
    with pytest.raises(ValueError, match=r"r\.safetensors holds a restoration network \(stage 2\), but a quality enc"):
        load_encoder(tmp_path / "r.safetensors", channels=1)


def test_the_wrong_channels_are_refused(encoder_file: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder for 1-channel images, but 3 channel\(s\) are needed"):
        load_encoder(encoder_file, channels=3)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(encoder_file: Path, share: float) -> None:
    content = encoder_file.read_bytes()
    encoder_file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"encoder\.safetensors cannot be read, it is truncated") as caught:
        load_encoder(encoder_file, channels=1)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"encoder\.safetensors cannot be read, it is truncated"):
        load_restorer(encoder_file)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no weight file {path}"):
            load_encoder(path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {METADATA_KEY: "a fine network"},
        {METADATA_KEY: json.dumps({"kind": "classifier", "architecture": {}})},
        {METADATA_KEY: json.dumps({"kind": "encoder"})},
        {METADATA_KEY: json.dumps(["encoder"])},
    ],
)
def test_files_of_other_programs_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors", metadata=metadata)
    assert read_description(tmp_path / "other.safetensors") is None
    for load, complaint in (
        (load_encoder, r"was not written by this project; a quality encoder \(stage 1\) is needed"),
        (load_restorer, "holds weights of an unknown network; known are a quality encoder"),
    ):
        with pytest.raises(ValueError, match=rf"other\.safetensors {complaint}"):
            load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda tensors: tensors.pop("layer1.0.conv1.weight"),
            r"e\.safetensors lacks tensor 'layer1\.0\.conv1\.weight'",
        ),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), r"e\.safetensors has an unknown tensor 'extra'"),
        (
            lambda tensors: tensors.update({"bn1.bias": torch.zeros(5)}),
            r"e\.safetensors: tensor 'bn1\.bias' is \(5,\), the network needs \(4,\)",
        ),
        (
            lambda tensors: tensors.update({"bn1.bias": torch.zeros(4, dtype=torch.int8)}),
            r"e\.safetensors: tensor 'bn1\.bias' is int8, not float32",
        ),
        (
            lambda tensors: tensors.update({"bn1.bias": torch.zeros(4, dtype=torch.complex64)}),
            r"e\.safetensors: tensor 'bn1\.bias' is complex64, not float32",
        ),
        (
            lambda tensors: tensors.update({"bn1.bias": torch.tensor([0, 1, torch.nan, 2])}),
            r"e\.safetensors: tensor 'bn1\.bias' has numbers that are not finite",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(encoder: QualityEncoder, change, complaint: str) -> None:
    tensors = dict(encoder.state_dict())
    change(tensors)
    with pytest.raises(ValueError, match=complaint):
        load_exactly(encoder, tensors, "e.safetensors")


def test_every_kind_of_floating_point_number_is_taken() -> None:
    layer = torch.nn.Linear(2, 1)
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        load_exactly(
            layer, {name: torch.ones(value.shape).to(dtype) for name, value in layer.state_dict().items()}, "f"
        )
        assert (layer.weight == 1).all()


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    encoder: QualityEncoder, encoder_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = encoder_file.read_bytes()

    def fail(file: Path, content: bytes) -> None:
        file.write_text("half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match=r"encoder\.safetensors was not written: No space left on device"):
        save_encoder(encoder, encoder_file)
    assert encoder_file.read_bytes() == before and list(encoder_file.parent.iterdir()) == [encoder_file]


@pytest.mark.parametrize("in_channels", [-1, 10**12])
def test_a_network_of_an_impossible_size_is_refused(tmp_path: Path, in_channels: int) -> None:
    path = tmp_path / "odd.safetensors"
    save_weights(path, {"x": torch.zeros(1)}, kind="encoder", architecture={"in_channels": in_channels})
    with pytest.raises(ValueError, match=r"odd\.safetensors describes a network that this version cannot build"):
        load_encoder(path)


def test_a_number_too_large_for_float16_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    tensors = {"small": torch.tensor([65504.0, -math.inf]), "count": torch.tensor(2**40)}
    save_weights(path, tensors, kind="encoder", architecture={}, is_half=True)
    assert read_weight_file(path).content["small"].dtype == torch.float16
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"half\.safetensors was not written: tensor 'b' reaches 7e\+04, .* at 65504"):
        save_weights(path, {"a": torch.ones(1), "b": torch.tensor(-7e4)}, kind="encoder", architecture={}, is_half=True)
    assert path.read_bytes() == before
