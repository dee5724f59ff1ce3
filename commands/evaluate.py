"""`evaluate`: scores of a system on sets of images."""

import argparse
import logging

from commands.arguments import add_common_options, add_set_options
from commands.degradation_options import add_degradation_options, degradations
from commands.outputs import check_outputs, report
from commands.systems import JPEG, QUALITY, build_system, measure, refuse_equal_names, restored_system
from data.config import data_root
from engine.distributed import Process, failing_together, process_group
from evaluation.report import Section
from evaluation.scores import double_jpeg, tables
from evaluation.scores.image_sets import check_images, open_sets
from evaluation.scores.metrics import METRICS

HELP = f"{', '.join(metric.heading for metric in METRICS.values())} of a network, of JPEG, or of given images"

WAIT_SECONDS = 7 * 24 * 3600.0  # of one process for the slowest: on CPUs, a large set takes a large network many hours


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    system = parser.add_mutually_exclusive_group(required=True)
    system.add_argument(
        "--weights",
        metavar="NAME",
        help=f"name of published weights, a weight file, other systems' included, or '{JPEG}' for the JPEG itself; "
        f"{QUALITY} in a file's name stands for the JPEG quality, if a system has a file for each",
    )
    system.add_argument(
        "--restored",
        action="append",
        metavar="[NAME=]DIR",
        help="score the images DIR/<set>/<quality>/<image stem>.png instead; may be given more than once",
    )
    add_set_options(parser, qualities=None)
    add_degradation_options(parser)
    add_common_options(parser)


def run(options: argparse.Namespace) -> None:
    """Score, in the processes that torchrun started or in this one alone. Rank 0 prints and writes."""
    # "auto": where a GPU is asked for and missing, all ranks find out inside the block that they leave together.
    device = "cpu" if options.device == "cpu" else "auto"
    with process_group(device, timeout_seconds=WAIT_SECONDS) as process, failing_together():
        if not process.is_main:
            logging.disable(logging.WARNING)
        sections, content = _measured(options, process)
        if process.is_main:
            report(sections, content, options)


def _measured(options: argparse.Namespace, process: Process) -> tuple[list[Section], dict]:
    """The tables, and the content of the JSON file."""
    check_outputs(options)
    asked = degradations(options)
    sets = open_sets(options.sets, data_root(options.data_root))
    if process.is_main:
        check_images(sets, options.channels, num_cut_px=max(max(each.shift) for each in asked))
    if options.restored:
        systems = [restored_system(given, sets, asked) for given in dict.fromkeys(options.restored)]
    else:
        systems = [build_system(options.weights, options.channels, options)]
    refuse_equal_names(systems)
    results = [measure(system, sets, asked, options.channels, options) for system in systems]
    content = results[0] if len(results) == 1 else {"measured": results}
    sections = [*map(tables.summarize, results), *double_jpeg.beside_published(results, asked)]
    return sections, content
