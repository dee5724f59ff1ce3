"""`table`: a table of the paper, with measured rows below the printed ones."""

import argparse

from commands.arguments import add_common_options
from commands.outputs import check_outputs, report
from commands.systems import JPEG, build_system, measure, published_for
from data.config import data_root
from evaluation.scores import tables
from evaluation.scores.image_sets import check_images, open_sets, present_sets

HELP = "a table of the paper, with measured rows below the printed ones"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("number", type=int, choices=range(1, 6), help="1 luma, 3 colour, 4 unseen qualities")
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="NAME",
        help=f"systems to measure, as in evaluate (default: {JPEG} and the published weights for this table)",
    )
    add_common_options(parser)


def run(options: argparse.Namespace) -> None:
    if options.number not in tables.BUILT_TABLES:
        built = ", ".join(map(str, tables.BUILT_TABLES))
        raise ValueError(f"Table {options.number} is not built yet; tables {built} are")
    check_outputs(options)
    color_mode = tables.paper_table(options.number)["channels"]
    names, qualities = tables.sets_and_qualities(options.number)
    root = data_root(options.data_root)
    sets = open_sets(present_sets(names, root), root)
    check_images(sets, color_mode)
    chosen = options.weights or [JPEG, *published_for(color_mode)]
    systems = [build_system(weights, color_mode, options) for weights in dict.fromkeys(chosen)]
    results = [measure(system, sets, qualities, color_mode, options) for system in systems]
    sections = tables.compare(options.number, results)
    report(sections, {"table": options.number, "measured": results}, options)
    for name in names:
        if all(name != image_set.name for image_set in sets):
            print(f"{name}: not under {root}, left out")
    for result in results:
        if result["method"] == JPEG:
            num_compared, differences = tables.check_jpeg(result, options.number)
            num_equal = num_compared - len(differences)
            print(f"JPEG: {num_equal} of {num_compared} figures equal to the printed digit", *differences, sep="\n")
