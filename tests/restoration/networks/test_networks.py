"""Networks by name: the options of a config, of a weight file and of the network are the same."""

import inspect
import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from cqe.encoder import QualityEncoder
from engine.config import TrainerConfig
from restoration.config import RestorerConfig
from restoration.networks import NETWORKS, FastOptions, NetworkConfig, PaperOptions, build_restorer
from restoration.networks.fast import FastRestorer
from restoration.networks.paper import PaperRestorer
from restoration.networks.recomputing import recompute_activations
from restoration.networks.unet import UNetOptions

SMALL = {
    "fast": NetworkConfig(name="fast", fast=FastOptions(widths=(4, 6, 8), blocks_down=(0, 1, 2), blocks_up=(2, 1, 0))),
    "paper": NetworkConfig(name="paper", paper=PaperOptions(released_fusion=True, width=8, groups=(1, 1, 1))),
    "fast, other parts": NetworkConfig(
        name="fast", fast=FastOptions(widths=(4, 6, 8), block="normalized", fusion="representation", dct=True)
    ),
}
SMALL_UNET = NetworkConfig(name="unet", unet=UNetOptions(widths=(4, 6), blocks=1))


@pytest.mark.parametrize(("name", "network_class"), [("fast", FastRestorer), ("paper", PaperRestorer)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_name_builds_its_network(name: str, network_class: type, channels: int) -> None:
    network = build_restorer(SMALL[name], QualityEncoder(channels, width=4), channels)
    assert type(network) is network_class and network.channels == channels


@pytest.mark.parametrize("name", SMALL)
def test_a_description_survives_json_and_builds_the_same_network(name: str) -> None:
    described = json.loads(json.dumps(SMALL[name].described()))
    assert NetworkConfig.of(**described) == SMALL[name]
    shapes = [
        {key: value.shape for key, value in build_restorer(config, QualityEncoder(1, width=4), 1).state_dict().items()}
        for config in (SMALL[name], NetworkConfig.of(**described))
    ]
    assert shapes[0] == shapes[1]


def test_the_default_is_the_papers_network() -> None:
    assert NetworkConfig().described() == {
        "name": "paper",
        "options": {"released_fusion": False, "width": 64, "groups": (2, 4, 4), "fusion": "invertible", "effm": True},
    }


ABLATED = [
    {"fusion": "none"},
    {"fusion": "convolution"},
    {"fusion": "concatenation"},
    {"fusion": "convolution", "effm": False},
    {"effm": False},
]


@pytest.mark.parametrize("name", ["fast", "paper"])
@pytest.mark.parametrize("options", ABLATED, ids=str)
def test_a_network_without_one_of_its_parts_learns_with_all_others(name: str, options: dict) -> None:
    network = build_restorer(ablated(name, options), QualityEncoder(1, width=4), 1)
    nn.init.normal_(network.tail.weight, std=0.1)
    x = torch.rand(2, 1, 13, 18)
    assert network(x).shape == x.shape
    network(x).square().mean().backward()
    for key, parameter in network.named_parameters():
        assert key.startswith("encoder.") != (parameter.grad is not None and bool(parameter.grad.any())), key


@pytest.mark.parametrize("name", ["fast", "paper"])
def test_without_effm_only_the_features_of_a_scale_are_read(name: str) -> None:
    features = [torch.rand(1, 4, 16, 16), torch.rand(1, 4, 8, 8), torch.rand(1, 8, 4, 4), torch.rand(1, 16, 2, 2)]
    for effm in (True, False):
        network = build_restorer(ablated(name, {"effm": effm}), QualityEncoder(1, width=4), 1)
        nn.init.normal_(network.tail.weight, std=0.1)
        for feature in features:
            feature.grad = None
            feature.requires_grad_()
        network.residual(torch.rand(1, 1, 16, 16), features).sum().backward()
        assert [feature.grad is not None for feature in features] == [effm, True, True, True]  # E0 is in Eq. 3 alone


@pytest.mark.parametrize("name", ["fast", "paper"])
def test_a_network_without_guidance_does_not_run_its_encoder(name: str) -> None:
    encoder = QualityEncoder(1, width=4)
    encoder.register_forward_hook(lambda *_: pytest.fail("the encoder ran"))
    build_restorer(ablated(name, {"fusion": "none"}), encoder, 1)(torch.rand(1, 1, 16, 16))


@pytest.mark.parametrize("name", ["fast", "paper"])
def test_an_encoder_can_be_trained_with_the_network(name: str) -> None:
    network = build_restorer(SMALL[name], QualityEncoder(1, width=4), 1)
    names = list(network.state_dict())
    nn.init.normal_(network.tail.weight, std=0.1)
    network.train_encoder()
    statistics = network.train().encoder.network.bn1.running_mean.clone()
    network(torch.rand(2, 1, 16, 16)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.encoder.parameters())
    assert list(network.state_dict()) == names and (network.encoder.network.bn1.running_mean != statistics).any()


def test_an_encoder_that_is_not_read_cannot_be_trained() -> None:
    network = build_restorer(ablated("fast", {"fusion": "none"}), QualityEncoder(1, width=4), 1)
    with pytest.raises(ValueError, match="train_encoder is on, but network's fusion is none"):
        network.train_encoder()


def ablated(name: str, options: dict) -> NetworkConfig:
    """`SMALL` with these options; the paper's network fuses as printed."""
    printed = {"released_fusion": False} if name == "paper" else {}
    return replace(SMALL[name], **{name: replace(getattr(SMALL[name], name), **printed, **options)})


@pytest.mark.parametrize("name", NETWORKS)
def test_a_class_and_its_options_have_the_same_keywords_and_defaults(name: str) -> None:
    network_class, options_class = NETWORKS[name]
    parameters = inspect.signature(network_class).parameters.values()
    keywords = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert keywords == asdict(options_class())


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(
        ValueError, match="network.name must be one of paper, fast, arcnn, dncnn, rnan, rdn, unet, got 'slow'"
    ):
        NetworkConfig(name="slow")
    with pytest.raises(ValueError, match="network.fast.widths must be at least 1"):
        FastOptions(widths=(0, 4, 4))
    with pytest.raises(ValueError, match="blocks_up at least 0"):
        FastOptions(blocks_up=(1, -1, 1))
    with pytest.raises(ValueError, match="network.fast.fusion_hidden_ratio must be > 0, got 0"):
        FastOptions(fusion_hidden_ratio=0)
    with pytest.raises(ValueError, match="network.fast.fusion_hidden_ratio must be > 0, got inf"):
        FastOptions(fusion_hidden_ratio=math.inf)
    with pytest.raises(ValueError, match="network.paper.fusion must be one of invertible, convolution, .*, got fused"):
        PaperOptions(fusion="fused")
    with pytest.raises(ValueError, match="fusion must be one of invertible, .*, got 'invertable'"):
        FastRestorer(QualityEncoder(1, width=4), 1, fusion="invertable")


@pytest.mark.parametrize("is_bfloat16", [False, True])
@pytest.mark.parametrize("name", [*SMALL, "unet"])
def test_recomputed_activations_change_no_output_and_no_gradient(name: str, is_bfloat16: bool) -> None:
    network = build_restorer(SMALL.get(name, SMALL_UNET), QualityEncoder(1, width=4), 1)
    nn.init.normal_(network.tail.weight, std=0.1)
    x = torch.rand(2, 1, 24, 17)
    ends = []
    for is_on in (False, True):
        recompute_activations(network, is_on)
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bfloat16):
            output = network(x)
        output.float().square().sum().backward()
        ends.append({key: value.grad for key, value in network.named_parameters() if value.requires_grad})
        assert all(gradient.any() for gradient in ends[-1].values())
        ends[-1]["output"] = output.detach()
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0)


def test_a_network_that_cannot_recompute_is_refused() -> None:
    message = "recompute_activations is on, but the network 'dncnn' cannot do that"
    with pytest.raises(ValueError, match=message):
        RestorerConfig(TrainerConfig(run_dir="run"), network=NetworkConfig(name="dncnn"), recompute_activations=True)
