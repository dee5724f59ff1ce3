"""`represent`: how well an encoder tells qualities apart."""

import argparse
from importlib.metadata import version
from pathlib import Path

import torch

from commands.arguments import ExpandQualities, add_common_options, add_set_options, jpeg_quality, positive, scale, seed
from commands.encoders import open_encoder_for
from commands.outputs import check_outputs, report
from commands.systems import origin
from common.machine import autocast, choose_device, choose_precision
from cqe.encoder import QualityEncoder
from cqe.quality import raw_rows
from cqe.weights import build_encoder, encoder_architecture
from data.config import data_root
from engine.weight_files import SUFFIX
from evaluation.encoder import study, study_scores
from evaluation.encoder.crops import CONDITIONS, Drawing, between
from evaluation.encoder.study import KINDS
from evaluation.scores.image_sets import open_sets
from restoration.weights import Weights, find_weights

PROBE_IMAGES = "bsds500/val"  # under the data root; not a set that scores are reported on
HELP = "an encoder's scores: neighbours, linear probes, clusters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Measures how well an encoder tells JPEG qualities apart. The linear probes are fitted on crops of "
        "--probe-images and tested on the sets, under the same condition. All other scores use one set alone."
    )
    parser.add_argument(
        "--weights", required=True, metavar="NAME", help="encoder, or restorer with an encoder: a name or a file"
    )
    add_set_options(parser, qualities=range(10, 91, 10))
    parser.add_argument(
        "--crop-size", nargs="+", type=positive, default=[128], metavar="PX", help="sides of the crops (default: 128)"
    )
    for name, known in (("condition", CONDITIONS), ("kinds", KINDS)):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            choices=known,
            default=list(known),
            metavar=name.upper(),
            help=f"any of {', '.join(known)} (default: all)",
        )
    parser.add_argument(
        "--supervised",
        metavar="FILE",
        help="encoder trained with labels (default: <encoder>_supervised beside the encoder)",
    )
    parser.add_argument(
        "--probe-images",
        metavar="DIR",
        help=f"images to fit the probes on; none may be in a tested set (default: {PROBE_IMAGES} under --data-root)",
    )
    parser.add_argument(
        "--unseen-quality",
        nargs="+",
        action=ExpandQualities,
        metavar="Q",
        help="for condition 'unseen' (default: half-way between those of --quality, and as far beyond both ends)",
    )
    parser.add_argument(
        "--second-quality",
        type=jpeg_quality,
        default=90,
        metavar="Q",
        help="quality of the second coding, for condition 'double' (default: %(default)s)",
    )
    parser.add_argument(
        "--scale",
        type=scale,
        default=0.8,
        metavar="S",
        help="factor for the sides, for condition 'resized' (default: %(default)s)",
    )
    parser.add_argument(
        "--crops",
        type=positive,
        default=1,
        metavar="N",
        help="crops of each image at each quality (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of crop places and fresh weights (default: %(default)s)"
    )
    add_common_options(parser)


def run(options: argparse.Namespace) -> None:

    check_outputs(options)
    root = data_root(options.data_root)
    sets = open_sets(options.sets, root)
    wanted = study_plan(options)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    torch.backends.cudnn.allow_tf32 = False  # compute in true float32 on every GPU
    own = open_encoder_for(options.weights, options.channels)
    labelled = supervised_file(own, options)
    supervised = open_supervised(labelled, own, options)
    encoders = encoders_of(own, supervised, options)
    probe_images = study.open_probe_images(options.probe_images or root / PROBE_IMAGES) if encoders else None
    study.check_images(sets, probe_images, wanted)

    def read(encoder: torch.nn.Module, crops: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision):
            return raw_rows(encoder.to(device, memory_format=torch.channels_last), crops)

    reencode = "reencode" in options.kinds
    result = study_scores.measure(encoders, read, sets, probe_images, wanted, name=own.name, with_reencode=reencode)
    provenance = origin(own, device, options) | {"scikit_learn": version("scikit-learn")}
    if supervised:
        provenance |= {"supervised": supervised.path.name, "supervised_sha256": supervised.sha256}
    report(study_scores.sections(result), result | {"provenance": provenance}, options)
    if "supervised" in options.kinds and supervised is None:
        print(no_supervised(labelled))


def study_plan(options: argparse.Namespace) -> study.Plan:
    """The study that the options ask for. Raises ValueError for qualities that make no study."""
    return study.Plan(
        color_mode=options.channels,
        conditions=tuple(dict.fromkeys(options.condition)),
        qualities=tuple(sorted(set(options.quality))),
        unseen=tuple(sorted(set(options.unseen_quality or between(options.quality)))),
        drawing=Drawing(
            sizes_px=tuple(dict.fromkeys(options.crop_size)),
            crops_per_image=options.crops,
            second_quality=options.second_quality,
            scale=options.scale,
            seed=options.seed,
            workers=options.workers,
        ),
    )


def supervised_file(own: Weights, options: argparse.Namespace) -> Path:
    """The file of the encoder that was trained with labels. It may be missing, unless `--supervised` names it.

    Raises:
        FileNotFoundError: if `--supervised` names no weights, or if only this encoder is wanted and is missing.
    """
    file = own.path.with_name(f"{own.name}_supervised{SUFFIX}")
    if options.supervised:
        file = find_weights(options.supervised)
    if set(options.kinds) == {"supervised"} and not file.is_file():
        raise FileNotFoundError(no_supervised(file))
    return file


def no_supervised(file: Path) -> str:
    """The message that no encoder trained with labels was found."""
    return (
        f"supervised: left out, there is no {file}; to train one: python train_cqe.py --config <config> "
        f"--config configs/cqe/supervised.yaml (then put its encoder there, or name it with --supervised)"
    )


def open_supervised(file: Path, own: Weights, options: argparse.Namespace) -> Weights | None:
    """The encoder trained with labels; None if it is not wanted or missing.

    Raises:
        ValueError: as `open_encoder_for`, or if its architecture differs from that of `own`.
    """
    if "supervised" not in options.kinds or not file.is_file():
        return None
    supervised = open_encoder_for(file, options.channels)
    architecture, wanted = encoder_architecture(supervised.encoder), encoder_architecture(own.encoder)
    if architecture != wanted:
        raise ValueError(f"{file} is {architecture}, but --weights is {wanted}; give one of this architecture")
    return supervised


def encoders_of(own: Weights, supervised: Weights | None, options: argparse.Namespace) -> dict[str, QualityEncoder]:
    """The encoders that were asked for and that there are, by kind."""
    encoders = {"encoder": own.encoder, "untrained": untrained_like(own.encoder, options.seed)}
    if supervised:
        encoders["supervised"] = supervised.encoder
    return {kind: encoder for kind, encoder in encoders.items() if kind in options.kinds}


def untrained_like(encoder: QualityEncoder, seed: int) -> QualityEncoder:
    """A freshly initialised encoder of the same architecture, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(encoder_architecture(encoder)).eval()
