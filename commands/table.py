"""`table`: a table of the paper, with measured rows below the printed ones."""

import argparse
from collections.abc import Sequence

from commands.arguments import add_common_options
from commands.outputs import check_outputs, report
from commands.systems import JPEG, System, build_system, measure, published_for
from data.config import data_root
from evaluation.scores import ablation, tables
from evaluation.scores.cache import cached
from evaluation.scores.image_sets import ImageSet, check_images, open_sets, present_sets
from evaluation.scores.paper import sections_of
from evaluation.scores.protocol import describe

HELP = "a table of the paper, with measured rows below the printed ones"
DEFAULT_RUNS = "runs/ablation/fast_tiny"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "number", type=int, choices=range(1, 6), help="1 luma, 3 colour, 4 unseen qualities, 5 ablation"
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="NAME",
        help=f"systems to measure, as in evaluate (default: {JPEG} and the published weights for this table)",
    )
    parser.add_argument(
        "--runs",
        metavar="DIR",
        default=DEFAULT_RUNS,
        help="Table 5: what `python -m commands.ablation` trained (default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        default="runs/scores",
        help="scores that are kept between calls (default: %(default)s)",
    )
    add_common_options(parser)


def run(options: argparse.Namespace) -> None:
    if options.number == 5 and options.weights:
        raise ValueError("Table 5 measures the networks of --runs; --weights is for the other tables")
    if options.number == 2:
        raise ValueError("Table 2 is not built yet; tables 1, 3, 4 and 5 are")
    check_outputs(options)
    color_mode = tables.paper_table(options.number)["channels"]
    names, qualities = tables.sets_and_qualities(options.number)
    root = data_root(options.data_root)
    sets = open_sets(present_sets(names, root), root)
    check_images(sets, color_mode)
    missing = {name: f"it is not under {root}" for name in names if all(name != one.name for one in sets)}
    content = {"table": options.number, "measured": _results(options, color_mode, sets, qualities)}
    if missing:
        content["missing"] = missing
    report(sections_of(content), content, options)
    for result in content["measured"]:
        if result["method"] == JPEG and options.number in tables.JPEG_TABLES:
            num_compared, differences = tables.check_jpeg(result, options.number)
            num_equal = num_compared - len(differences)
            print(f"JPEG: {num_equal} of {num_compared} figures equal to the printed digit", *differences, sep="\n")


def _results(
    options: argparse.Namespace, color_mode: str, sets: Sequence[ImageSet], qualities: Sequence[int]
) -> list[dict]:
    """What is measured of each system of the table."""
    if options.number == 5:
        return [
            {"model": trained.model, "seed": trained.seed, "budget": trained.budget}
            | _measured(build_system(str(trained.weights), color_mode, options), sets, qualities, color_mode, options)
            for trained in ablation.trained_models(options.runs)
        ]
    chosen = options.weights or [JPEG, *published_for(color_mode)]
    systems = [build_system(weights, color_mode, options) for weights in dict.fromkeys(chosen)]
    return [_measured(system, sets, qualities, color_mode, options) for system in systems]


def _measured(
    system: System, sets: Sequence[ImageSet], qualities: Sequence[int], color_mode: str, options: argparse.Namespace
) -> dict:
    """As `systems.measure`, from the cache as far as it is there."""
    if system.name != JPEG and "weights_sha256" not in system.provenance:  # what it depends on is not known
        return measure(system, sets, qualities, color_mode, options)
    head = {"method": system.name, "channels": color_mode, "protocol": describe(color_mode)}

    def measured(image_set: ImageSet, lacking: Sequence[int]) -> dict:
        return measure(system, [image_set], lacking, color_mode, options)["results"][image_set.name]

    results = cached(options.cache, head | system.provenance, sets, qualities, measured)
    return head | {"results": results, "provenance": system.provenance}
