"""The restoration networks by name, with their options."""

from dataclasses import asdict, dataclass, field
from typing import Literal

from torch import nn

from restoration.networks.fast import Block, FastRestorer, Fusion
from restoration.networks.paper import PaperRestorer
from restoration.networks.restorer import Restorer


@dataclass(frozen=True)
class PaperOptions:
    """Options of the paper's network.

    Args:
        released_fusion: true fuses as the authors' code does, false as Eq. 5-6 are printed.
        width: channels of the trunk.
        groups: residual attention groups after the fusion of E3, E2' and E1'.
    """

    released_fusion: bool = False
    width: int = 64
    groups: tuple[int, int, int] = (2, 4, 4)


@dataclass(frozen=True)
class FastOptions:
    """Options of the fast network.

    Args:
        widths: channels of the trunk at 1/2, 1/4 and 1/8 of the size.
        blocks_down: blocks before each halving, and at 1/8 before the fusion.
        blocks_up: blocks after the fusion at 1/2, 1/4 and 1/8.
        fusion_hidden_ratio: channels inside the fusions' residual blocks, as a share of the trunk's.
        block: what the trunk is made of: "residual" (two 3x3 convolutions) or "gated" (depthwise, with products).
        fusion: "invertible" as the paper's; "concatenation" or "none" (no guidance), to measure what that is worth.
    """

    widths: tuple[int, int, int] = (64, 128, 192)
    blocks_down: tuple[int, int, int] = (2, 2, 2)
    blocks_up: tuple[int, int, int] = (4, 4, 4)
    fusion_hidden_ratio: float = 1.0
    block: Block = "residual"
    fusion: Fusion = "invertible"

    def __post_init__(self) -> None:
        if min(*self.widths, *self.blocks_down, *self.blocks_up) < 0 or min(self.widths) < 1:
            raise ValueError("network.fast.widths must be at least 1, blocks_down and blocks_up at least 0")
        if not self.fusion_hidden_ratio > 0:
            raise ValueError(f"network.fast.fusion_hidden_ratio must be > 0, got {self.fusion_hidden_ratio}")


@dataclass(frozen=True)
class NetworkConfig:
    """Which restoration network.

    Args:
        name: "paper" (the authors' architecture) or "fast" (ours); the section of that name has its options.
        paper: options where the name is "paper".
        fast: options where the name is "fast".
    """

    name: Literal["paper", "fast"] = "paper"
    paper: PaperOptions = field(default_factory=PaperOptions)
    fast: FastOptions = field(default_factory=FastOptions)

    def __post_init__(self) -> None:
        if self.name not in _NETWORKS:
            raise ValueError(f"network.name must be one of {', '.join(_NETWORKS)}, got '{self.name}'")

    @classmethod
    def of(cls, name: str, options: dict) -> "NetworkConfig":
        """The config of a network and its options as plain values, the inverse of `described`."""
        return cls(name=name, **{name: _OPTIONS[name](**{key: _as_tuple(value) for key, value in options.items()})})

    def described(self) -> dict:
        """Name and options as plain values, for weight files."""
        return {"name": self.name, "options": asdict(getattr(self, self.name))}


def build_restorer(config: NetworkConfig, encoder: nn.Module, channels: int) -> Restorer:
    """An untrained network around an encoder, for images of 1 or 3 channels."""
    return _NETWORKS[config.name](encoder, channels, **asdict(getattr(config, config.name)))


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


_NETWORKS = {"paper": PaperRestorer, "fast": FastRestorer}
_OPTIONS = {"paper": PaperOptions, "fast": FastOptions}
