"""The quality encoder that `--weights` of `represent` and `figure` names."""

from pathlib import Path

from cqe.encoder import QualityEncoder
from evaluation.scores.image_sets import CHANNELS
from restoration.weights import load_quality_encoder


def find_encoder(name: str | Path, channels: str) -> QualityEncoder:
    """An encoder by name or file, or a restoration network's own, in eval mode.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if the file is damaged, or for other channels.
    """
    encoder = load_quality_encoder(name)
    if encoder.in_channels != CHANNELS[channels]:
        other = "color" if channels == "gray" else "gray"
        raise ValueError(f"{name} is no encoder for {channels} images; change --channels (to {other}) or the weights")
    return encoder
