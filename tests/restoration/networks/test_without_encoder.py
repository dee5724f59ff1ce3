"""The networks that take no encoder: built by name, trained, stored, and used wherever ours are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from common.files import sha256
from cqe.encoder import QualityEncoder
from restoration.networks import NETWORKS, NetworkConfig, build_restorer
from restoration.networks.unet import UNet
from restoration.weights import open_weights, save_restorer, store_half
from tests import program
from tests.synthetic import noise, save

SMALL = {
    "arcnn": {"widths": [5, 4, 3]},
    "dncnn": {"depth": 3, "width": 4},
    "rnan": {"width": 4, "groups": 3},
    "rdn": {"width": 4, "growth": 3, "blocks": 2, "layers": 2},
    "unet": {"widths": [4, 6, 8], "blocks": 1},
}


def small(name: str) -> NetworkConfig:
    return NetworkConfig.of(name, SMALL[name])


def save_small(folder: Path, name: str) -> Path:
    network = build_restorer(small(name), None, 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    save_restorer(network, small(name), folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def test_these_are_all_of_them() -> None:
    assert set(SMALL) == {name for name in NETWORKS if not NetworkConfig(name).takes_encoder}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_sizes_come_back_and_every_parameter_is_trained(name: str, channels: int) -> None:
    network = build_restorer(small(name), None, channels)
    if name == "unet":
        nn.init.normal_(network.tail.weight, std=0.1)  # zero where training starts
    for module in network.modules():
        if hasattr(module, "theta"):
            nn.init.normal_(module.W.weight, std=0.1)  # likewise
    x = torch.rand(2, channels, 13, 18)
    assert network.eval()(x).shape == x.shape
    network.train()(x).square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key


def test_an_encoder_is_left_out_where_none_is_taken_and_asked_for_where_one_is() -> None:
    assert build_restorer(small("dncnn"), QualityEncoder(1, width=4), 1).encoder is None
    with pytest.raises(ValueError, match="the network 'fast' is built around an encoder, and there is none"):
        build_restorer(NetworkConfig("fast"), None, 1)


def test_the_u_shaped_network_starts_as_the_identity_and_has_any_number_of_scales() -> None:
    x = torch.rand(1, 1, 11, 9)
    for widths in ((4,), (4, 4), (2, 3, 4, 5)):
        torch.testing.assert_close(UNet(1, widths=widths, blocks=1)(x), x, rtol=0, atol=0)


def test_sizes_are_those_of_the_papers() -> None:
    """Parameters of the luma networks in millions; the papers print 0.67 for DnCNN, 0.11 for ARCNN, 22 for RDN, 9 for
    RNAN and 32.64 for DRUNet (with a second input channel and no biases)."""
    counted = {
        name: sum(p.numel() for p in build_restorer(NetworkConfig(name), None, 1).parameters()) / 1e6 for name in SMALL
    }
    expected = {"dncnn": 0.67, "arcnn": 0.11, "rdn": 22.0, "rnan": 9.0, "unet": 32.65}
    assert counted == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", SMALL)
def test_a_file_gives_the_same_network_again_at_half_the_size_too(name: str, tmp_path: Path) -> None:
    file = save_small(tmp_path, name)
    opened = open_weights(file, needs="network")
    assert (opened.kind, opened.encoder, opened.probe) == ("a restoration network (stage 2)", None, None)
    assert not opened.network.as_published  # it was trained here
    store_half(file, tmp_path / "half.safetensors")
    half = open_weights(tmp_path / "half.safetensors").network
    for key, value in opened.network.state_dict().items():
        torch.testing.assert_close(half.state_dict()[key], value.half().float(), rtol=0, atol=0)
    with pytest.raises(ValueError, match=rf"{name}\.safetensors holds a restoration network .*, but a quality encoder"):
        open_weights(file, needs="encoder")


def test_commands_do_without_the_encoder(tmp_path: Path, capsys: pytest.CaptureFixture, refusal: Callable) -> None:
    file, photo = save_small(tmp_path, "dncnn"), save(tmp_path / "photo.png", noise(20, 30, 3))
    program.run("describe", "--weights", file)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "DnCNN, 1 channel(s)" and lines[1].endswith(" M parameters, no encoder")
    program.run("restore", photo, "--weights", file, "--output", tmp_path / "out", "--device", "cpu")
    captured = capsys.readouterr()
    assert captured.err == f"{file} holds no encoder: qualities are not read\n" and "JPEG quality" not in captured.out
    assert sha256(tmp_path / "out" / "photo.png") != sha256(photo)
    program.run("publish", "--weights", file, "--output", tmp_path / "half.safetensors")
    assert open_weights(tmp_path / "half.safetensors").network.title == "DnCNN"
    line = refusal("guidance", "--weights", file, "--sets", tmp_path, "--quality", 10, "--device", "cpu")
    assert "dncnn.safetensors has no encoder whose features could be exchanged" in line
