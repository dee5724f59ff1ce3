"""The quality encoder that `--weights` of `represent` and `figure` names."""

from pathlib import Path

from evaluation.scores.image_sets import COLOR_MODES
from restoration.weights import Weights, open_weights


def open_encoder_for(name: str | Path, color_mode: str) -> Weights:
    """Open the weights of an encoder, or of a restoration network with its encoder.

    Args:
        name: a published name, or a file.
        color_mode: "gray" or "color", the images that the encoder must be for.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if the file is damaged, has no encoder, or has one for the other mode.
    """
    weights = open_weights(name, needs="encoder")
    if weights.encoder.in_channels != COLOR_MODES[color_mode]:
        other = "color" if color_mode == "gray" else "gray"
        raise ValueError(f"{name} is no encoder for {color_mode} images; change --channels (to {other}) or the weights")
    return weights
