"""Weights by name or file. `open_weights` reads a file once, recognises it by its content, and builds the networks.

To support a new kind of file, add it to `RECOGNISERS`, at the end; another system's, to `restoration.compared.OPENERS`.
No caller changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cqe.encoder import QualityEncoder
from cqe.quality import QualityProbe, QualityReader
from cqe.weights import build_encoder, encoder_architecture, encoder_in, probe_in, with_probe, without_probe
from engine.weight_files import (
    KINDS,
    SUFFIX,
    UNREADABLE,
    WeightFile,
    architecture_of,
    describing,
    load_exactly,
    read_description,
    read_weight_file,
    save_weights,
)
from restoration.compared import OPENERS
from restoration.fineness import EVERY_IMAGE, FineLimits, Fineness
from restoration.networks import NetworkConfig, build_restorer
from restoration.networks.restorer import Restorer
from restoration.released import is_released, load_released

_LIMITS = "fine_limits"  # key of the description; `publish` and `probe` keep it

WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "weights"


@dataclass(frozen=True)
class Weights:
    """The content of a weight file, ready to use. Networks are in eval mode, on the CPU.

    Args:
        path: the file.
        sha256: digest of the file.
        kind: a key of `RECOGNISERS`.
        network: the restoration network; None if the file holds only an encoder.
        encoder: if there is a network, the same object as the network's encoder; None if that has none.
        probe: reads qualities from the encoder's output; None if the file has none.
    """

    path: Path
    sha256: str
    kind: str
    network: Restorer | None
    encoder: QualityEncoder | None
    probe: QualityProbe | None

    @property
    def name(self) -> str:
        """The file's name without suffix. It is the name in results."""
        return self.path.stem

    def reader(self) -> QualityReader | None:
        """A reader of JPEG qualities, on the encoder's device; None without a probe."""
        return None if self.probe is None else QualityReader(self.encoder, self.probe)


def open_weights(name_or_path: str | Path, *, needs: Literal["network", "encoder"] | None = None) -> Weights:
    """Open a published name or a file, as in `open_weights("fast_tiny_gray").network`.

    Args:
        name_or_path: a name from `weights/`, or a file of any kind in `RECOGNISERS`. The file may have any name.
        needs: a file without this part is refused.

    Raises:
        FileNotFoundError: if there is no such name or file.
        ValueError: if the file is damaged, holds code, is of an unknown kind, or lacks the part that is needed.
    """
    return recognise(read_weight_file(find_weights(name_or_path)), needs=needs)


def load_restorer(name_or_path: str | Path) -> Restorer:
    """The restoration network of a published name or a file, in eval mode. Errors as `open_weights`."""
    return open_weights(name_or_path, needs="network").network


def recognise(file: WeightFile, *, needs: Literal["network", "encoder"] | None = None) -> Weights:
    """Build the networks of a file that has been read. `needs` and errors as in `open_weights`."""
    opened = (recogniser(file) for recogniser in RECOGNISERS.values())
    weights = next((found for found in opened if found is not None), None)
    if weights is None:
        found = "holds weights of an unknown network" if file.is_readable else UNREADABLE
        raise ValueError(f"{file.path} {found}; known are {', '.join(RECOGNISERS)}")
    if needs is not None and getattr(weights, needs) is None:
        raise ValueError(f"{file.path} holds {weights.kind}, but {_PARTS[needs]} is needed here")
    return weights


def find_weights(name_or_path: str | Path) -> Path:
    """The path of a published name or of a file. Raises FileNotFoundError, which lists the names."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.name == str(name_or_path) and (WEIGHTS_DIR / f"{path.name}{SUFFIX}").is_file():
        return WEIGHTS_DIR / f"{path.name}{SUFFIX}"
    names = ", ".join(published_names()) or "(none)"
    raise FileNotFoundError(f"no weights '{name_or_path}': neither a file nor one of the names {names}")


def published_names() -> list[str]:
    """Names of all weights that come with the project: encoders and restoration networks."""
    return sorted(path.stem for path in WEIGHTS_DIR.glob(f"*{SUFFIX}"))


def published_restorers(channels: int) -> list[str]:
    """Names of the published restoration networks for images with 1 or 3 channels.

    They are chosen by the metadata of their files; no tensor is read. Raises ValueError if a file is damaged; names it.
    """
    described = {name: read_description(WEIGHTS_DIR / f"{name}{SUFFIX}") for name in published_names()}
    return [
        name
        for name, description in described.items()
        if description and description.kind == "restorer" and description.architecture.get("channels") == channels
    ]


def save_restorer(
    restorer: Restorer,
    config: NetworkConfig,
    path: str | Path,
    *,
    probe: QualityProbe | None = None,
    is_half: bool = False,
) -> None:
    """Write a network, its encoder if any, and the encoder's probe to one `.safetensors` file, whole or not at all.

    Args:
        restorer: the network.
        config: the options that it was built from.
        path: the file.
        probe: of this encoder; None: the file gets no probe.
        is_half: store float16. It changes the probe's estimates by only some hundredths of a point.
    """
    architecture = {
        "channels": restorer.channels,
        "network": config.described(),
        "encoder": None if restorer.encoder is None else encoder_architecture(restorer.encoder.network),
    }
    tensors = with_probe(restorer.state_dict(), probe)
    save_weights(path, tensors, kind="restorer", architecture=architecture, is_half=is_half)


def store_half(source: str | Path, target: str | Path) -> None:
    """Copy the weight file of a network, with its probe if it has one, as float16: half the size.

    Args:
        source: name or file of a network of stage 2.
        target: a `.safetensors` file.

    Raises:
        FileNotFoundError: if there is no such name or file.
        ValueError: if the file is not of a network of stage 2, or if the target has another suffix.
    """
    if Path(target).suffix != SUFFIX:
        raise ValueError(f"{target} must end in {SUFFIX}, as published weights do")
    file = read_weight_file(find_weights(source))
    architecture = architecture_of(file, "restorer")
    recognise(file, needs="network")  # refuses a file that no network could be loaded from
    save_weights(target, file.content, kind="restorer", architecture=architecture, is_half=True)


def copy_calibrated(source: WeightFile, target: str | Path, limits: FineLimits) -> None:
    """Copy the weight file of a network of stage 2 with other limits. All tensors stay as they are stored.

    Raises:
        ValueError: if the file is not of a network of stage 2.
    """
    architecture = architecture_of(source, "restorer") | {_LIMITS: limits._asdict()}
    save_weights(target, source.content, kind="restorer", architecture=architecture)


def _open_encoder(file: WeightFile) -> Weights | None:
    if file.description is None or file.description.kind != "encoder":
        return None
    opened = encoder_in(file)
    return Weights(file.path, file.sha256, KINDS["encoder"], None, opened.encoder, opened.probe)


def _open_restorer(file: WeightFile) -> Weights | None:
    if file.description is None or file.description.kind != "restorer":
        return None
    architecture = file.description.architecture
    with describing(file.path):
        config = NetworkConfig.of(**architecture["network"])
        encoder = architecture["encoder"]
        restorer = build_restorer(config, encoder and build_encoder(encoder), architecture["channels"])
        limits = FineLimits.of(architecture.get(_LIMITS))
    load_exactly(restorer, without_probe(file.content), file.path)
    weights = _of_network(file, KINDS["restorer"], restorer.eval(), probe_in(file))
    restorer.fineness = Fineness(limits, weights.reader())
    return weights


def _open_released(file: WeightFile) -> Weights | None:
    if not isinstance(file.content, Mapping) or not is_released(file.content):
        return None
    try:
        restorer = load_released(file.content)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None
    return _as_published(file, _RELEASED, restorer)


def _compared(kind: str) -> Callable[[WeightFile], Weights | None]:
    """The recogniser of a kind of other systems' files."""

    def open_compared(file: WeightFile) -> Weights | None:
        network = OPENERS[kind](file)
        return None if network is None else _as_published(file, kind, network.eval())

    return open_compared


def _as_published(file: WeightFile, kind: str, network: Restorer) -> Weights:
    """A network that other authors trained: it runs as they ran it."""
    network.as_published = True
    network.fineness = EVERY_IMAGE
    return _of_network(file, kind, network, None)


def _of_network(file: WeightFile, kind: str, restorer: Restorer, probe: QualityProbe | None) -> Weights:
    encoder = None if restorer.encoder is None else restorer.encoder.network
    return Weights(file.path, file.sha256, kind, restorer, encoder, probe)


_PARTS = {"network": KINDS["restorer"], "encoder": KINDS["encoder"]}
_RELEASED = "the authors' network (.pth)"
# The kinds of files, in the words of messages, with the function that opens each. It gets a file that has been read and
# returns None if the file is of another kind. The first that returns something is used.
RECOGNISERS: dict[str, Callable[[WeightFile], Weights | None]] = {
    KINDS["encoder"]: _open_encoder,
    KINDS["restorer"]: _open_restorer,
    _RELEASED: _open_released,
    **{kind: _compared(kind) for kind in OPENERS},
}
