"""Quality encoders as weight files, and the probe that may lie beside an encoder in the files of either stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cqe.encoder import QualityEncoder
from cqe.quality import QualityProbe
from engine.weight_files import WeightFile, architecture_of, describing, load_exactly, read_weight_file, save_weights

_PROBE = "probe."  # how the names of a probe's tensors start, in a file that holds an encoder or a restorer too


@dataclass(frozen=True)
class EncoderWeights:
    """What an encoder's file holds, ready to use on the CPU.

    Args:
        encoder: in eval mode.
        probe: names qualities by this encoder; None where the file has none.
    """

    encoder: QualityEncoder
    probe: QualityProbe | None


def open_encoder(path: str | Path, *, channels: int | None = None) -> EncoderWeights:
    """An encoder and its probe from a weight file of stage 1, which is read once.

    Args:
        path: as written by `save_encoder`, `encoder.safetensors` of a stage 1 run.
        channels: image channels it must have; None takes any.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is damaged, not an encoder's, or made for other channels.
    """
    opened = encoder_in(read_weight_file(path))
    if channels is not None and opened.encoder.in_channels != channels:
        raise ValueError(
            f"{path} is an encoder for {opened.encoder.in_channels}-channel images, but {channels} channel(s) are "
            f"needed; set data.channels, or give another encoder"
        )
    return opened


def load_encoder(path: str | Path, *, channels: int | None = None) -> QualityEncoder:
    """The encoder alone, as `open_encoder`."""
    return open_encoder(path, channels=channels).encoder


def encoder_in(file: WeightFile) -> EncoderWeights:
    """The encoder and its probe in a file that was read. Raises ValueError if it is not an encoder's."""
    architecture = architecture_of(file, "encoder")
    with describing(file.path):
        encoder = build_encoder(architecture)
    load_exactly(encoder, without_probe(file.content), file.path)
    return EncoderWeights(encoder.eval(), probe_in(file))


def probe_in(file: WeightFile) -> QualityProbe | None:
    """The probe in an encoder's or restorer's file; None where there is none. Raises ValueError if it is damaged."""
    stored = {name.removeprefix(_PROBE): tensor for name, tensor in file.content.items() if name.startswith(_PROBE)}
    if not stored:
        return None
    with describing(file.path):
        probe = QualityProbe(len(stored["mean"]))
    load_exactly(probe, stored, file.path)
    return probe


def build_encoder(architecture: Mapping[str, Any]) -> QualityEncoder:
    """An untrained encoder of an architecture, as `encoder_architecture` gives it."""
    return QualityEncoder(**architecture)


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


def copy_with_probe(source: WeightFile, target: str | Path, probe: QualityProbe) -> None:
    """Write a file of this project, of either stage, again with a probe, in place of one it may have.

    Tensors stay as they are stored: float16 stays float16.
    """
    save_weights(target, with_probe(without_probe(source.content), probe), **source.description._asdict())


def with_probe(tensors: Mapping[str, Tensor], probe: QualityProbe | None) -> dict[str, Tensor]:
    """The tensors to store of a network and its probe."""
    return dict(tensors) | ({f"{_PROBE}{name}": value for name, value in probe.state_dict().items()} if probe else {})


def without_probe(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's own tensors of a weight file."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_PROBE)}
