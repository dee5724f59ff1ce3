"""`table`: a table of the paper, with measured rows below the printed ones."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

from commands.arguments import add_cache_option, add_common_options
from commands.outputs import check_outputs, report
from commands.perceptual import add_perceptual_options, open_perceptual
from commands.systems import (
    JPEG,
    System,
    build_system,
    check_qualities,
    measure,
    published_for,
    refuse_equal_names,
    restored_system,
)
from data.config import data_root
from evaluation.scores import ablation, perceptual, protocol, tables
from evaluation.scores.cache import cached
from evaluation.scores.image_sets import ImageSet, check_images, open_sets, present_sets
from evaluation.scores.paper import sections_of

Scorer = Callable[[System, ImageSet, Sequence[int]], dict]  # -> {quality: scores}
ABLATION_RUNS = "runs/ablation/fast_tiny"
HELP = "a table of the paper, with measured rows below the printed ones"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "number",
        type=int,
        choices=range(1, 6),
        help="1 luma, 2 LPIPS and FID, 3 colour, 4 unseen qualities, 5 ablation",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="NAME",
        help=f"systems to measure, as in evaluate (default: {JPEG} and the published weights for this table)",
    )
    parser.add_argument(
        "--restored", action="append", default=[], metavar="[NAME=]DIR", help="a system by its images, as in evaluate"
    )
    parser.add_argument(
        "--runs",
        metavar="DIR",
        help=f"Table 5: what `python -m commands.ablation` trained (default: {ABLATION_RUNS})",
    )
    add_perceptual_options(parser)
    add_cache_option(parser)
    add_common_options(parser)


def run(options: argparse.Namespace) -> None:
    if options.number == 5 and (options.weights or options.restored):
        raise ValueError("Table 5 measures the networks of --runs; --weights and --restored are for the other tables")
    if options.number != 5 and options.runs:
        raise ValueError(f"--runs is for Table 5, not for Table {options.number}")
    if options.number != 2 and (options.lpips_backbone or options.inception):
        raise ValueError(f"--lpips-backbone and --inception are for Table 2, not for Table {options.number}")
    check_outputs(options)
    color_mode = tables.paper_table(options.number)["channels"]
    names, qualities = tables.sets_and_qualities(options.number)
    root = data_root(options.data_root)
    sets = open_sets(present_sets(names, root), root)
    check_images(sets, color_mode)
    content = {"table": options.number, "measured": [], "missing": {}}
    for name in names:
        if all(name != one.name for one in sets):
            content["missing"][name] = f"it is not under {root}"
    score, words, content["lacking"] = _scorer(options, color_mode)
    systems = _systems(options, color_mode, sets, qualities)
    for system, _ in systems:
        if system.qualities is not None and not system.qualities & set(qualities):
            check_qualities(system, set(qualities))
    for system, about in systems:
        head = {"method": system.name, "channels": color_mode, "protocol": words}
        asked = [quality for quality in qualities if system.qualities is None or quality in system.qualities]
        if absent := [str(quality) for quality in qualities if quality not in asked]:
            content["lacking"].append(f"{system.name}: no weights for quality {', '.join(absent)}")
        there = [one for one in sets if system.sets is None or one.name in system.sets]
        if absent := [one.name for one in sets if one not in there]:
            content["lacking"].append(f"{system.name}: no images of {', '.join(absent)}")
        results = cached(options.cache, head | system.provenance, there, asked, partial(score, system))
        content["measured"].append(about | head | {"results": results, "provenance": system.provenance})
    report(sections_of(content), content, options)
    for result in content["measured"]:
        if result["method"] == JPEG and options.number in tables.JPEG_TABLES:
            num_compared, differences = tables.check_jpeg(result, options.number)
            num_equal = num_compared - len(differences)
            print(f"JPEG: {num_equal} of {num_compared} figures equal to the printed digit", *differences, sep="\n")


def _systems(
    options: argparse.Namespace, color_mode: str, sets: Sequence[ImageSet], qualities: Sequence[int]
) -> list[tuple[System, dict]]:
    """The systems to measure, and what else their results say of them."""
    if options.number == 5:
        runs = ablation.trained_models(options.runs or ABLATION_RUNS)
        return [(build_system(str(run.weights), color_mode, options), run.about) for run in runs]
    names = options.weights or [JPEG, *published_for(color_mode)]
    systems = [build_system(name, color_mode, options) for name in dict.fromkeys(names)]
    systems += [
        restored_system(given, sets, qualities, may_lack_sets=True) for given in dict.fromkeys(options.restored)
    ]
    refuse_equal_names(systems)
    return [(system, {}) for system in systems]


def _scorer(options: argparse.Namespace, color_mode: str) -> tuple[Scorer, str, list[str]]:
    """What scores a system on a set, the protocol in words, and notes on metrics that are left out."""
    if options.number == 2:
        metrics, notes = open_perceptual(options)

        def distances(system: System, one: ImageSet, qualities: Sequence[int]) -> dict:
            return perceptual.evaluate(system.produce, one, qualities, color_mode, metrics)

        return distances, metrics.describe(color_mode), notes

    def score(system: System, one: ImageSet, qualities: Sequence[int]) -> dict:
        return measure(system, [one], qualities, color_mode, options)["results"][one.name]

    return score, protocol.describe(color_mode), []
