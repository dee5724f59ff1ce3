"""Quality encoders as weight files."""

from pathlib import Path

from cqe.encoder import QualityEncoder
from engine.weights import describing, load_exactly, read_weights, save_weights


def encoder_architecture(encoder: QualityEncoder) -> dict:
    """What is needed to build this encoder again."""
    return {
        "in_channels": encoder.in_channels,
        "width": encoder.feature_channels[0],
        "remove_local_mean": encoder.remove_local_mean,
    }


def save_encoder(encoder: QualityEncoder, path: str | Path) -> None:
    """Write an encoder to a `.safetensors` file, atomically."""
    save_weights(path, encoder.state_dict(), kind="encoder", architecture=encoder_architecture(encoder))


def load_encoder(path: str | Path, *, channels: int) -> QualityEncoder:
    """An encoder from its weight file, in eval mode.

    Args:
        path: as written by `save_encoder`, `encoder.safetensors` of a stage 1 run.
        channels: image channels it must have.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is damaged, not an encoder's, or made for other channels.
    """
    tensors, architecture = read_weights(path, kind="encoder")
    with describing(path):
        encoder = QualityEncoder(**architecture)
    if encoder.in_channels != channels:
        raise ValueError(
            f"{path} is an encoder for {encoder.in_channels}-channel images, but {channels} channel(s) are "
            f"needed; set data.channels, or give another encoder"
        )
    load_exactly(encoder, tensors, path)
    return encoder.eval()
