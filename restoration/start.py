"""What a training of stage 2 builds its network from: an encoder's file, trained weights, or a checkpoint."""

import logging
from typing import NamedTuple

import torch

from cqe.encoder import QualityEncoder
from cqe.quality import QualityProbe
from cqe.weights import build_encoder, build_probe, check_channels
from engine.distributed import is_main_process
from engine.run import Checkpoint
from engine.weight_files import describing, load_exactly
from restoration.config import RestorerConfig
from restoration.networks.restorer import Restorer
from restoration.weights import Weights, open_weights

logger = logging.getLogger(__name__)


class Start(NamedTuple):
    """What a network is built from; each may be missing: the encoder that guides it, the encoder's probe, and a trained
    network to start from."""

    encoder: QualityEncoder | None
    probe: QualityProbe | None
    network: Restorer | None


def open_start(config: RestorerConfig, checkpoint: Checkpoint | None) -> Start:
    """What the network is built from. A run that goes on has it in its checkpoint, and needs no other file.

    Raises:
        FileNotFoundError, ValueError: as `open_weights`; and if the encoder is for other image channels.
    """
    if checkpoint and "context" in checkpoint.state:  # older versions did not store it
        return _start_in(checkpoint)
    trained = open_weights(config.initial_weights, needs="network") if config.initial_weights else None
    guide = _open_guide(config, trained)
    return Start(guide and guide.encoder, guide and guide.probe, trained and trained.network)


def _open_guide(config: RestorerConfig, trained: Weights | None) -> Weights | None:
    """The weights with the encoder that guides the network; None if the network takes none."""
    if not config.network.takes_encoder:
        return None
    # Trained weights bring the encoder they were trained with, but a luma encoder cannot read RGB.
    if trained is not None and trained.network.channels == config.data.channels and trained.encoder is not None:
        if config.encoder and is_main_process() and not _is_encoder_in(config.encoder, trained.encoder):
            logger.warning(
                "%s brings its own encoder, and encoder %s is not used; for that one start with no initial_weights",
                config.initial_weights,
                config.encoder,
            )
        return trained
    opened = open_weights(config.encoder, needs="encoder")
    check_channels(opened.encoder, config.data.channels, opened.path)
    return opened


def _is_encoder_in(name: str, encoder: QualityEncoder) -> bool:
    """Whether this encoder is the one of that name or file, up to rounding to float16."""
    try:
        other = open_weights(name, needs="encoder").encoder.state_dict()
    except (OSError, ValueError):
        return False
    mine = encoder.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[key].half(), other[key].half()) for key in mine)


def _start_in(checkpoint: Checkpoint) -> Start:
    """The encoder in a checkpoint, and its probe. Raises ValueError if they are not whole."""
    architecture, probe = (checkpoint.state["context"][name] for name in ("encoder", "probe"))
    if architecture is None:
        return Start(None, None, None)
    with describing(checkpoint.path):
        encoder = build_encoder(architecture)
    prefix = "restorer.encoder.network."  # within `RestorationObjective`
    tensors = {name: tensor for name, tensor in checkpoint.state["module"].items() if name.startswith(prefix)}
    load_exactly(encoder, {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, checkpoint.path)
    return Start(encoder.eval(), probe and build_probe(probe, checkpoint.path), None)
