"""The interface that processes of several machines meet on."""

import importlib.util
import sys

import pytest

from engine import network
from engine.network import VARIABLE, choose_interface, interface_of, own_address_towards


def test_the_loopback_interface_has_the_loopback_address() -> None:
    assert own_address_towards("127.0.0.1") == "127.0.0.1"
    assert interface_of("127.0.0.1").startswith("lo")
    assert interface_of("192.0.2.77") is None and own_address_towards("no.such.host.invalid") is None


@pytest.mark.parametrize(
    ("environment", "ways", "expected"),
    [
        ({"GROUP_WORLD_SIZE": "2"}, {"first": "10.0.0.7"}, "of 10.0.0.7"),
        ({"GROUP_WORLD_SIZE": "2"}, {"first": "127.0.0.1", network.ELSEWHERE: "10.0.0.8"}, "of 10.0.0.8"),
        ({"GROUP_WORLD_SIZE": "2"}, {"first": "127.0.0.1"}, None),  # a machine without a network
        ({"GROUP_WORLD_SIZE": "2", VARIABLE: "ib0"}, {"first": "10.0.0.7"}, "ib0"),
        ({"GROUP_WORLD_SIZE": "1"}, {"first": "10.0.0.7"}, None),
        ({}, {"first": "10.0.0.7"}, None),
    ],
)
def test_gloo_takes_the_way_to_the_first_machine(
    environment: dict, ways: dict, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "own_address_towards", ways.get)
    monkeypatch.setattr(network, "interface_of", lambda address: f"of {address}")
    environment = {"MASTER_ADDR": "first"} | environment
    choose_interface(environment)
    assert environment.get(VARIABLE) == expected


def test_windows_does_not_tell_the_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # Windows has no such module
    spec = importlib.util.spec_from_file_location("network_without_fcntl", network.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.interface_of("127.0.0.1") is None
