"""`evaluate`: scores of a system on sets of images."""

import argparse
import os
from pathlib import Path

from commands.arguments import add_common_options, add_set_options
from commands.outputs import check_outputs, report
from commands.systems import JPEG, System, build_system, measure
from common.machine import versions
from data.config import data_root
from evaluation.scores import protocol, tables
from evaluation.scores.image_sets import check_images, open_sets
from evaluation.scores.metrics import METRICS

HELP = f"{', '.join(metric.heading for metric in METRICS.values())} of a network, of JPEG, or of given images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    system = parser.add_mutually_exclusive_group(required=True)
    system.add_argument("--weights", help=f"weight file, name of published weights, or '{JPEG}' for the JPEG itself")
    system.add_argument(
        "--restored", metavar="DIR", help="score the images DIR/<set>/<quality>/<image stem>.png instead"
    )
    add_set_options(parser)
    add_common_options(parser)


def run(options: argparse.Namespace) -> None:
    check_outputs(options)
    sets = open_sets(options.sets, data_root(options.data_root))
    check_images(sets, options.channels)
    if options.restored is not None:
        produce = protocol.restored_in(options.restored, sets, options.quality)
        system = System(produce, Path(os.path.abspath(options.restored)).name, versions())
    else:
        system = build_system(options.weights, options.channels, options)
    result = measure(system, sets, options.quality, options.channels, options)
    report([tables.summarize(result)], result, options)
