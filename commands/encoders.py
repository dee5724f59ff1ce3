"""The quality encoder that `--weights` of `represent` and `figure` names."""

from pathlib import Path

from evaluation.scores.image_sets import CHANNELS
from restoration.weights import Weights, open_weights


def open_encoder_for(name: str | Path, channels: str) -> Weights:
    """Weights by name or file, an encoder's or a restoration network's, whose encoder is for these channels.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if the file is damaged, has no encoder, or one for other channels.
    """
    weights = open_weights(name, needs="encoder")
    if weights.encoder.in_channels != CHANNELS[channels]:
        other = "color" if channels == "gray" else "gray"
        raise ValueError(f"{name} is no encoder for {channels} images; change --channels (to {other}) or the weights")
    return weights
