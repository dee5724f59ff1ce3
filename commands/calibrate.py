"""`calibrate`: chooses by which limits a network leaves fine images alone, and writes them into its file."""

import argparse
import math
from pathlib import Path

from commands.arguments import ExpandQualities, add_score_options, positive
from commands.outputs import check_outputs, report
from common.files import check_writable, sha256
from common.machine import autocast, choose_device, choose_precision
from data.config import data_root
from data.known_sets import measured_folders
from data.splits import refuse_other_split
from engine.weight_files import SUFFIX, architecture_of, read_weight_file
from evaluation.scores.calibration import QUALITIES, choose, gains_section, measure
from evaluation.scores.image_sets import COLOR_MODES, ImageSet, check_images, open_sets
from restoration.weights import copy_calibrated, find_weights, recognise

HELP = "choose which images a network leaves alone because they are too fine for it; writes this into its file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Choose two limits, so that the mean gain is at least 0 at every quality: from which quality, as the encoder "
        "reads it, and under which change an image is returned as it was. Prints the gains with these limits. "
        "The weights themselves do not change."
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="weight file, or name of published weights")
    parser.add_argument(
        "--output", metavar="FILE", help="the same weights with the limits (default: replace --weights)"
    )
    parser.add_argument(
        "--sets",
        nargs="+",
        default=["bsds500/val"],
        metavar="SET",
        help="sets under --data-root, or folders, that are in no test (default: bsds500/val)",
    )
    parser.add_argument(
        "--quality",
        nargs="+",
        action=ExpandQualities,
        default=list(QUALITIES),
        metavar="Q",
        help=f"JPEG qualities, or ranges such as 1..100 (default: {' '.join(map(str, QUALITIES))})",
    )
    parser.add_argument("--num-images", type=positive, metavar="N", help="of each set, evenly spread (default: all)")
    parser.add_argument(
        "--max-loss",
        type=loss,
        default=0.0,
        metavar="DB",
        help="mean loss that is allowed at a quality, where single images would decide (default: %(default)g)",
    )
    add_score_options(parser)


def run(options: argparse.Namespace) -> None:
    check_outputs(options)
    source = read_weight_file(find_weights(options.weights))
    output = options.output or source.path
    weights = recognise(source, needs="network")
    architecture_of(source, "restorer")  # refuses files that have no place for limits
    if Path(output).suffix != SUFFIX:
        raise ValueError(f"limits are kept in {SUFFIX} files, but --output is {output}")
    check_writable(output)
    color_mode = next(name for name, channels in COLOR_MODES.items() if channels == weights.network.channels)
    sets = open_choosing_sets(options)
    check_images(sets, color_mode)
    device = choose_device(options.device)
    restorer = weights.network.to(device)
    with autocast(device, choose_precision(options.precision, device)):
        outcomes = list(measure(restorer, weights.reader(), sets, options.quality, color_mode))
    limits = choose(outcomes, max_loss_db=options.max_loss)
    if Path(output).exists() and Path(output).samefile(source.path) and sha256(output) != source.sha256:
        raise ValueError(f"{output} has changed while it was measured, and stays as it is; give --output another file")
    copy_calibrated(source, output, limits)
    title = f"{output}: sha256 {sha256(output)}"
    content = {"weights": str(output), "limits": limits._asdict(), "outcomes": [one._asdict() for one in outcomes]}
    report([gains_section(outcomes, limits, title)], content, options)


def loss(text: str) -> float:
    """Read a loss in dB."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text}")
    return value


def open_choosing_sets(options: argparse.Namespace) -> list[ImageSet]:
    """The sets to choose on, with as many images as asked for.

    Raises:
        FileNotFoundError, ValueError: as `open_sets`; ValueError for a set that is for reporting.
    """
    known = measured_folders()
    reporting = [name for name in options.sets if name in known and known[name].folder.use == "scores"]
    if reporting:
        raise ValueError(f"{reporting[0]} is for reporting; choose on bsds500/val, or on a folder of photos")
    sets = []
    for name, paths in open_sets(options.sets, data_root(options.data_root)):
        refuse_other_split(paths, "val")
        count = min(options.num_images or len(paths), len(paths))
        sets.append(ImageSet(name, [paths[index * len(paths) // count] for index in range(count)]))
    return sets
