"""The quality encoder that `--weights` of `represent` and `figure` names."""

from pathlib import Path

from evaluation.scores.image_sets import COLOR_MODES
from restoration.weights import Weights, open_weights


def open_encoder_for(name: str | Path, color_mode: str) -> Weights:
    """Weights by name or file, an encoder's or a restoration network's, whose encoder is for these channels.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if the file is damaged, has no encoder, or one for other channels.
    """
    weights = open_weights(name, needs="encoder")
    if weights.encoder.in_channels != COLOR_MODES[color_mode]:
        other = "color" if color_mode == "gray" else "gray"
        raise ValueError(f"{name} is no encoder for {color_mode} images; change --channels (to {other}) or the weights")
    return weights
