"""`test.py describe` and `test.py publish`: what a weight file holds, and its half-size copy."""

from pathlib import Path

import pytest
import torch
from torch import nn

import test as script
from cqe.encoder import QualityEncoder
from restoration.networks import FastOptions, NetworkConfig, build_restorer
from restoration.published import load_restorer, save_restorer
from restoration.restorer import Restorer

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


def test_describe_counts_parameters_and_arithmetic(weights: Path, capsys) -> None:
    script.main(["describe", "--weights", str(weights)])
    lines = capsys.readouterr().out.splitlines()
    restorer = load_restorer(weights)
    assert lines[0] == "FastRestorer, 1 channel(s)"
    assert lines[1].startswith(f"{sum(p.numel() for p in restorer.parameters()) / 1e6:.2f} M parameters")
    assert lines[2] == f"{counted_gmac(restorer):.2f} GMAC at 256x256"


def test_publish_halves_the_file_and_rounds_to_float16(weights: Path, tmp_path: Path, capsys) -> None:
    half = tmp_path / "half.safetensors"
    script.main(["publish", "--weights", str(weights), "--output", str(half)])
    assert script.sha256(half) in capsys.readouterr().out
    assert half.stat().st_size < 0.7 * weights.stat().st_size
    for (name, value), rounded in zip(
        load_restorer(weights).state_dict().items(), load_restorer(half).state_dict().values(), strict=True
    ):
        expected = value.half().float() if value.is_floating_point() else value
        torch.testing.assert_close(rounded, expected, rtol=0, atol=0, msg=name)


def test_publish_refuses_what_is_no_restorer(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main(["publish", "--weights", str(tmp_path / "none.safetensors"), "--output", str(tmp_path / "x")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x").exists()
