"""`figure gain` and `figure cost`: scores of networks, measured here or read from results of `evaluate`."""

import argparse
import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from commands.arguments import add_cache_option, add_device_options, add_set_options, add_workers_option, jpeg_quality
from commands.systems import JPEG, QUALITY, build_system, measure_once, refuse_equal_names
from common.files import sha256
from data.config import data_root
from evaluation.figures.cost import MEASURED, Point, cost_figure, printed_points
from evaluation.figures.gain import curves_of, gain_figure
from evaluation.scores.documents import CHANNEL_TITLES, SET_TITLES
from evaluation.scores.image_sets import COLOR_MODES, check_images, open_sets, set_name
from evaluation.scores.results import read_result
from evaluation.speed.arithmetic import count_gmac
from restoration.weights import WEIGHTS_DIR, load_restorer

GAIN_QUALITIES = (1, *range(5, 101, 5))


def add_gain_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `figure gain`."""
    _add_sources(parser)
    add_set_options(parser, qualities=GAIN_QUALITIES, required=False)
    parser.set_defaults(quality=None)  # to know whether it was given


def add_cost_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `figure cost`."""
    _add_sources(parser)
    parser.add_argument("--set", required=True, metavar="SET", help="the set of the scores, as in evaluate")
    parser.add_argument(
        "--quality", type=jpeg_quality, default=10, metavar="Q", help="JPEG quality (default: %(default)s)"
    )
    parser.add_argument("--channels", choices=COLOR_MODES, default="gray", help="luma or RGB (default: %(default)s)")


def draw_gain(options: argparse.Namespace) -> tuple[Figure, dict]:
    """PSNR gain against quality, and the content of its JSON file."""
    if bool(options.weights) != bool(options.sets):
        raise ValueError("--weights are measured on --sets: give both, or results of evaluate with --results")
    if not options.weights and (options.quality or options.channels != "gray"):
        raise ValueError("--quality and --channels are for --weights; results are drawn as they are")
    results = _results(options, options.sets or [], options.quality or GAIN_QUALITIES)
    curves = curves_of(results)
    if not all(curve.qualities for curve in curves):
        raise ValueError("a result has no finite gain at a JPEG quality; images coded twice or at drawn ones have none")
    caption = (
        f"Mean PSNR gain over the JPEG against its quality, and the share of images whose PSNR falls: "
        f"{'; '.join(_measured_on(result) for result in results)}."
    )
    content = {"figure": "gain", "caption": caption, "curves": [curve._asdict() for curve in curves]}
    return gain_figure(curves), content | {"provenance": _provenance(results)}


def draw_cost(options: argparse.Namespace) -> tuple[Figure, dict]:
    """PSNR against arithmetic, and the content of its JSON file."""
    results = _results(options, [options.set], [options.quality])
    name = set_name(options.set)
    printed = printed_points(options.channels, name, options.quality)
    measured = []
    for index, (result, source) in enumerate(zip(results, [*options.results, *options.weights], strict=True)):
        scores = _finite_scores(result, source, name, options)
        if result["method"] != JPEG:
            of_quality = source.replace(QUALITY, str(options.quality))  # a system may have a file for each
            gmac = _gmac(result, of_quality, is_file=index < len(options.results))
            measured.append(Point(result["method"], gmac, scores["psnr"], MEASURED))
    points = [*measured, *printed]
    if not points:
        raise ValueError(f"nothing to draw: no network was named, and none is printed for {name}")
    where = f"{SET_TITLES.get(name, name)}, {CHANNEL_TITLES[options.channels]}, quality {options.quality}"
    caption = (
        f"PSNR on {where}, against the arithmetic for a 256x256 image. Filled: measured here. Hollow: as printed, in "
        "the paper or the system's own; systems whose arithmetic is not known are left out."
    )
    content = {"figure": "cost", "caption": caption, "systems": [point._asdict() for point in points]}
    return cost_figure(points, scores["jpeg"]["psnr"], where), content | {"provenance": _provenance(results)}


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", nargs="+", default=[], metavar="JSON", help="files written by evaluate --json, or of docs/results"
    )
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="NAME", help="networks to measure now, as in evaluate"
    )
    add_device_options(parser)
    add_workers_option(parser)
    add_cache_option(parser)


def _results(options: argparse.Namespace, names: Sequence[str], qualities: Sequence[int]) -> list[dict]:
    """The results that were named, then those of networks that are measured now."""
    if not (options.results or options.weights):
        raise ValueError("name results of evaluate with --results, or networks to measure with --weights")
    results = [read_result(path) for path in options.results]
    if not options.weights:
        _refuse_equal(results)
        return results
    sets = open_sets(names, data_root(options.data_root))
    systems = [build_system(name, options.channels, options) for name in options.weights]
    refuse_equal_names(systems)
    check_images(sets, options.channels)
    heads = [
        {"method": system.name, "channels": options.channels, "results": dict.fromkeys(one.name for one in sets)}
        for system in systems
    ]
    _refuse_equal([*results, *heads])
    return results + [measure_once(system, sets, qualities, options.channels, options) for system in systems]


def _refuse_equal(results: Sequence[dict]) -> None:
    """Raise ValueError if two results could not be told apart."""
    seen = set()
    for result in results:
        if (title := _measured_on(result)) in seen:
            raise ValueError(f"two results are of {title}; rename the weights of one, and measure it again")
        seen.add(title)


def _finite_scores(result: dict, source: str, name: str, options: argparse.Namespace) -> dict:
    """A result's scores on the set and at the quality of the options. Raises ValueError if they cannot be drawn."""
    scores = result["results"].get(name, {}).get(str(options.quality))
    wanted = f"{name} at quality {options.quality}, {options.channels}"
    if scores is None or result["channels"] != options.channels:
        raise ValueError(f"{source} has no scores on {wanted}; name other results, or another set or quality")
    if any(psnr is None or not math.isfinite(psnr) for psnr in (scores["psnr"], scores["jpeg"]["psnr"])):
        raise ValueError(f"{source} has an infinite PSNR on {wanted}: an image equals its original")
    return scores


def _gmac(result: dict, source: str, *, is_file: bool) -> float:
    """The arithmetic of the network that `source` names, or that the result in the file `source` is of."""
    if not is_file:
        return count_gmac(load_restorer(source))
    made = result.get("provenance", {})
    path = WEIGHTS_DIR / str(made.get("weights"))
    if not path.is_file() or sha256(path) != made.get("weights_sha256"):
        raise ValueError(f"{source} is of weights that are not in {path.parent}; measure them again with --weights")
    return count_gmac(load_restorer(path))


def _measured_on(result: dict) -> str:
    sets = ", ".join(SET_TITLES.get(name, name) for name in result["results"])
    return f"{result['method']} on {sets}, {CHANNEL_TITLES[result['channels']]}"


def _provenance(results: Sequence[dict]) -> list[dict]:
    return [{"method": result["method"], **result.get("provenance", {})} for result in results]
