"""The restoration networks by name, with their options. A new one is its file and its line in `NETWORKS`."""

from dataclasses import asdict, dataclass, field, make_dataclass
from typing import Literal

from torch import nn

from restoration.networks.arcnn import ARCNN, ARCNNOptions
from restoration.networks.dncnn import DnCNN, DnCNNOptions
from restoration.networks.fast import FastOptions, FastRestorer
from restoration.networks.paper import PaperOptions, PaperRestorer
from restoration.networks.rdn import RDN, RDNOptions
from restoration.networks.restorer import Restorer
from restoration.networks.rnan import RNAN, RNANOptions
from restoration.networks.unet import UNet, UNetOptions

# The class takes (encoder, channels), or (channels) if its `takes_encoder` is False, and the fields of its options as
# keywords. The first name is the default. The options' class is a frozen dataclass; `--help` shows the first line and
# the Args of its docstring.
NETWORKS = {
    "paper": (PaperRestorer, PaperOptions),
    "fast": (FastRestorer, FastOptions),
    "arcnn": (ARCNN, ARCNNOptions),
    "dncnn": (DnCNN, DnCNNOptions),
    "rnan": (RNAN, RNANOptions),
    "rdn": (RDN, RDNOptions),
    "unet": (UNet, UNetOptions),
}


@dataclass(frozen=True)
class _NamedNetwork:
    """What `NetworkConfig` can do, whatever networks there are. jsonargparse wants its bases to be dataclasses too."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in NETWORKS:
            raise ValueError(f"network.name must be one of {', '.join(NETWORKS)}, got '{self.name}'")

    @classmethod
    def of(cls, name: str, options: dict) -> "NetworkConfig":
        """The config of a network and its options as plain values, the inverse of `described`."""
        _, options_class = NETWORKS[name]
        return cls(name=name, **{name: options_class(**{key: _as_tuple(value) for key, value in options.items()})})

    @property
    def takes_encoder(self) -> bool:
        """Whether the network is built around an encoder."""
        network_class, _ = NETWORKS[self.name]
        return network_class.takes_encoder

    @property
    def reads_encoder(self) -> bool:
        """Whether the network uses what its encoder sees."""
        return self.takes_encoder and getattr(getattr(self, self.name), "fusion", None) != "none"

    @property
    def recomputes(self) -> bool:
        """Whether the network can compute activations again, to train with less memory."""
        network_class, _ = NETWORKS[self.name]
        return network_class.recomputes

    def described(self) -> dict:
        """Name and options as plain values, for weight files."""
        return {"name": self.name, "options": asdict(getattr(self, self.name))}


def build_restorer(config: "NetworkConfig", encoder: nn.Module | None, channels: int) -> Restorer:
    """An untrained network for images of 1 or 3 channels, around an encoder if it takes one.

    Raises:
        ValueError: if the network needs an encoder and gets none.
    """
    network_class, _ = NETWORKS[config.name]
    options = asdict(getattr(config, config.name))
    if not config.takes_encoder:
        return network_class(channels, **options)
    if encoder is None:
        raise ValueError(f"the network '{config.name}' is built around an encoder, and there is none")
    return network_class(encoder, channels, **options)


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _config_docstring() -> str:
    """In the form that `--help` reads: a line for each field."""
    sections = [f"    {name}: {options.__doc__.splitlines()[0]}" for name, (_, options) in NETWORKS.items()]
    names = " or ".join(f'"{name}"' for name in NETWORKS)
    name = f"    name: {names}; the section of that name has its options."
    return "\n".join(["Which restoration network.", "", "Args:", name, *sections])


# A dataclass with the fields `name` and, for each network, a section of the network's name with its options.
NetworkConfig = make_dataclass(
    "NetworkConfig",
    [
        ("name", Literal[*NETWORKS], next(iter(NETWORKS))),
        *((name, options, field(default_factory=options)) for name, (_, options) in NETWORKS.items()),
    ],
    bases=(_NamedNetwork,),
    namespace={"__doc__": _config_docstring(), "__module__": __name__},
    frozen=True,
)
