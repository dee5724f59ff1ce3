"""Weight files of quality encoders, and the probe that the files of both stages may hold beside an encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cqe.encoder import QualityEncoder
from cqe.quality import QualityProbe
from engine.weight_files import WeightFile, architecture_of, describing, load_exactly, read_weight_file, save_weights

_PROBE = "probe."  # prefix of the probe's tensor names in a file with an encoder or a restorer


@dataclass(frozen=True)
class EncoderWeights:
    """The content of an encoder's weight file, ready to use on the CPU.

    Args:
        encoder: in eval mode.
        probe: reads qualities from the encoder's output; None if the file has none.
    """

    encoder: QualityEncoder
    probe: QualityProbe | None


def load_encoder(path: str | Path, *, channels: int | None = None) -> QualityEncoder:
    """Read an encoder, in eval mode, from a weight file of stage 1.

    Args:
        path: a file written by `save_encoder`, such as `encoder.safetensors` of a stage 1 run.
        channels: number of image channels that the encoder must have, 1 or 3; None accepts both.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, holds no encoder, or holds one for other channels.
    """
    encoder = encoder_in(read_weight_file(path)).encoder
    if channels is not None:
        check_channels(encoder, channels, path)
    return encoder


def check_channels(encoder: QualityEncoder, channels: int, path: str | Path) -> None:
    """Refuse an encoder for other image channels; `path` is its file. Raises ValueError."""
    if encoder.in_channels != channels:
        raise ValueError(
            f"{path} is an encoder for {encoder.in_channels}-channel images, but {channels} channel(s) are needed; set "
            f"data.channels, or give another encoder"
        )


def encoder_in(file: WeightFile) -> EncoderWeights:
    """Build the encoder and its probe from a file that has been read. Raises ValueError if it holds no encoder."""
    architecture = architecture_of(file, "encoder")
    with describing(file.path):
        encoder = build_encoder(architecture)
    load_exactly(encoder, without_probe(file.content), file.path)
    return EncoderWeights(encoder.eval(), probe_in(file))


def probe_in(file: WeightFile) -> QualityProbe | None:
    """The probe in a file of an encoder or a restorer; None if there is none. Raises ValueError if it is damaged."""
    stored = {name.removeprefix(_PROBE): tensor for name, tensor in file.content.items() if name.startswith(_PROBE)}
    if not stored:
        return None
    return build_probe(stored, file.path)


def build_probe(tensors: Mapping[str, Tensor], path: str | Path) -> QualityProbe:
    """The probe with these tensors, which come from the file `path`. Raises ValueError if they are not a probe's."""
    with describing(path):
        probe = QualityProbe(len(tensors["mean"]))
    load_exactly(probe, tensors, path)
    return probe


def build_encoder(architecture: Mapping[str, Any]) -> QualityEncoder:
    """An untrained encoder. `architecture` is what `encoder_architecture` returns."""
    return QualityEncoder(**architecture)


def encoder_architecture(encoder: QualityEncoder) -> dict:
    """The options that are needed to build this encoder again."""
    return {
        "in_channels": encoder.in_channels,
        "width": encoder.feature_channels[0],
        "remove_local_mean": encoder.remove_local_mean,
    }


def save_encoder(encoder: QualityEncoder, path: str | Path, probe: QualityProbe | None = None) -> None:
    """Write an encoder, and its probe if there is one, to a `.safetensors` file, whole or not at all."""
    tensors = with_probe(encoder.state_dict(), probe)
    save_weights(path, tensors, kind="encoder", architecture=encoder_architecture(encoder))


def copy_with_probe(source: WeightFile, target: str | Path, probe: QualityProbe) -> None:
    """Copy a weight file of this project, of either stage, with a new probe. A probe in the source is replaced.

    Other tensors are copied as they are stored: float16 stays float16.
    """
    save_weights(target, with_probe(without_probe(source.content), probe), **source.description._asdict())


def with_probe(tensors: Mapping[str, Tensor], probe: QualityProbe | None) -> dict[str, Tensor]:
    """The tensors of a network and its probe, as they are stored in one file."""
    return dict(tensors) | ({f"{_PROBE}{name}": value for name, value in probe.state_dict().items()} if probe else {})


def without_probe(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a weight file without those of the probe."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_PROBE)}
