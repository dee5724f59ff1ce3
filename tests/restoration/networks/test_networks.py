"""Networks by name: the options of a config, of a weight file and of the network are the same."""

import inspect
import json
from dataclasses import asdict

import pytest

from cqe.encoder import QualityEncoder
from restoration.networks import NETWORKS, FastOptions, NetworkConfig, PaperOptions, build_restorer
from restoration.networks.fast import FastRestorer
from restoration.networks.paper import PaperRestorer

SMALL = {
    "fast": NetworkConfig(name="fast", fast=FastOptions(widths=(4, 6, 8), blocks_down=(0, 1, 2), blocks_up=(2, 1, 0))),
    "paper": NetworkConfig(name="paper", paper=PaperOptions(released_fusion=True, width=8, groups=(1, 1, 1))),
}


@pytest.mark.parametrize(("name", "network_class"), [("fast", FastRestorer), ("paper", PaperRestorer)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_name_builds_its_network(name: str, network_class: type, channels: int) -> None:
    network = build_restorer(SMALL[name], QualityEncoder(channels, width=4), channels)
    assert type(network) is network_class and network.channels == channels


@pytest.mark.parametrize("name", ["fast", "paper"])
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


@pytest.mark.parametrize("name", NETWORKS)
def test_a_class_and_its_options_have_the_same_keywords_and_defaults(name: str) -> None:
    network_class, options_class = NETWORKS[name]
    parameters = inspect.signature(network_class).parameters.values()
    keywords = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert keywords == asdict(options_class())


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="network.name must be one of paper, fast, got 'slow'"):
        NetworkConfig(name="slow")
    with pytest.raises(ValueError, match="network.fast.widths must be at least 1"):
        FastOptions(widths=(0, 4, 4))
    with pytest.raises(ValueError, match="blocks_up at least 0"):
        FastOptions(blocks_up=(1, -1, 1))
    with pytest.raises(ValueError, match="network.fast.fusion_hidden_ratio must be > 0, got 0"):
        FastOptions(fusion_hidden_ratio=0)
