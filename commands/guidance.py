"""`guidance`: how much a network gains from its encoder."""

import argparse

from commands.arguments import ExpandQualities, add_common_options, add_set_options, seed
from commands.outputs import check_outputs, report
from commands.systems import open_network
from data.config import data_root
from evaluation.scores import guidance
from evaluation.scores.image_sets import check_images, open_sets

HELP = "a network's scores when its decoder is given other features"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--weights", required=True, metavar="NAME", help="name of published weights, or weight file")
    add_set_options(parser)
    parser.add_argument(
        "--wrong-quality",
        nargs="+",
        action=ExpandQualities,
        default=[10, 90],
        metavar="Q",
        help="take features of the same image at the farthest of these qualities (default: 10 90)",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of the shuffled features (default: %(default)s)"
    )
    add_common_options(parser)


def run(options: argparse.Namespace) -> None:
    check_outputs(options)
    sets = open_sets(options.sets, data_root(options.data_root))
    check_images(sets, options.channels)
    network = open_network(options.weights, options.channels, options)
    if network.restorer.encoder is None:
        raise ValueError(f"{options.weights} has no encoder whose features could be exchanged")
    result = guidance.evaluate_features(
        network.restorer,
        network.restore,
        sets,
        options.quality,
        options.channels,
        method=network.name,
        wrong_qualities=options.wrong_quality,
        seed=options.seed,
        workers=options.workers,
    )
    report(guidance.summarize(result), result | {"provenance": network.provenance}, options)
