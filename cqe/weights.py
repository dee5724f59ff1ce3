"""Quality encoders as weight files, and the probe that may lie beside an encoder in the files of either stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from cqe.encoder import QualityEncoder
from cqe.quality import QualityProbe
from engine.weight_files import describing, load_exactly, read_weights, save_weights

_PROBE = "probe."  # how the names of a probe's tensors start, in a file that holds an encoder or a restorer too


def encoder_architecture(encoder: QualityEncoder) -> dict:
    """What is needed to build this encoder again."""
    return {
        "in_channels": encoder.in_channels,
        "width": encoder.feature_channels[0],
        "remove_local_mean": encoder.remove_local_mean,
    }


def save_encoder(encoder: QualityEncoder, path: str | Path, probe: QualityProbe | None = None) -> None:
    """Write an encoder, and its probe if there is one, to a `.safetensors` file, atomically."""
    tensors = with_probe(encoder.state_dict(), probe)
    save_weights(path, tensors, kind="encoder", architecture=encoder_architecture(encoder))


def load_encoder(path: str | Path, *, channels: int | None = None) -> QualityEncoder:
    """An encoder from its weight file, in eval mode.

    Args:
        path: as written by `save_encoder`, `encoder.safetensors` of a stage 1 run.
        channels: image channels it must have; None takes any.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is damaged, not an encoder's, or made for other channels.
    """
    tensors, architecture = read_weights(path, kind="encoder")
    with describing(path):
        encoder = QualityEncoder(**architecture)
    if channels is not None and encoder.in_channels != channels:
        raise ValueError(
            f"{path} is an encoder for {encoder.in_channels}-channel images, but {channels} channel(s) are "
            f"needed; set data.channels, or give another encoder"
        )
    load_exactly(encoder, without_probe(tensors), path)
    return encoder.eval()


def load_probe(path: str | Path) -> QualityProbe | None:
    """The probe in an encoder's or restorer's weight file; None where there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or not of this project.
    """
    tensors, _ = _read(path)
    stored = {name.removeprefix(_PROBE): tensor for name, tensor in tensors.items() if name.startswith(_PROBE)}
    if not stored:
        return None
    with describing(path):
        probe = QualityProbe(len(stored["mean"]))
    load_exactly(probe, stored, path)
    return probe


def copy_with_probe(source: str | Path, target: str | Path, probe: QualityProbe) -> None:
    """Write an encoder's or restorer's weight file again with a probe, in place of one it may have.

    Raises:
        FileNotFoundError, ValueError: as `load_probe`.
    """
    _, description = _read(source)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    save_weights(target, with_probe(without_probe(load_file(source)), probe), **description)  # float16 stays float16


def with_probe(tensors: Mapping[str, Tensor], probe: QualityProbe | None) -> dict[str, Tensor]:
    """The tensors to store of a network and its probe."""
    return dict(tensors) | ({f"{_PROBE}{name}": value for name, value in probe.state_dict().items()} if probe else {})


def without_probe(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's own tensors of a weight file."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_PROBE)}


def is_encoder(path: str | Path) -> bool:
    """Whether a file is a sound one of an encoder; False for all else, which other readers tell what it is."""
    try:
        read_weights(path, kind="encoder")
    except ValueError:
        return False
    return True


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file of either stage; and its kind and architecture, as `save_weights` takes them."""
    kind = "encoder" if is_encoder(path) else "restorer"
    tensors, architecture = read_weights(path, kind=kind)
    return tensors, {"kind": kind, "architecture": architecture}
