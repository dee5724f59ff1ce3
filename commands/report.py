"""`report`: one HTML page about a network: pictures, scores, figures, protocol, model card, versions."""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

from commands import comparison, removal
from commands.arguments import (
    add_cache_option,
    add_device_options,
    add_quality_option,
    add_sets_option,
    add_workers_option,
)
from commands.curves import GAIN_QUALITIES
from commands.systems import JPEG, QUALITY, System, build_system, measure_once
from common.files import check_writable, write_text
from data.config import data_root
from data.jpeg import jpeg_roundtrip
from evaluation.encoder.gradcam import find_image
from evaluation.figures.cost import MEASURED, Point, cost_figure, printed_points
from evaluation.figures.crops import Crop, most_changed
from evaluation.figures.gain import curves_of, gain_figure
from evaluation.page.page import Comparison, Drawing, Page
from evaluation.report import Section
from evaluation.scores import tables
from evaluation.scores.degradations import Case, Jpeg
from evaluation.scores.documents import CHANNEL_TITLES, PAPER_TABLES, SET_TITLES
from evaluation.scores.image_sets import COLOR_MODES, ImageSet, check_images, open_sets, present_sets, read_clean
from evaluation.scores.metrics import score
from evaluation.speed.arithmetic import count_gmac
from restoration.weights import Weights, open_weights

SUFFIXES = (".html", ".htm")
NUM_PICTURES = 3  # with sliders, where none are named
PICTURE_PX = (512, 384)  # of larger pictures, the part of this size that changes most is shown
CROP_PX = (96, 96)  # magnified in Figure 6
_OUTER_SEMICOLON = re.compile(r"; (?![^(]*\))")  # not one in brackets
HELP = "one HTML page about a network: pictures, scores, figures, protocol, model card, versions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Measures a network and writes one HTML page about it, with all pictures inside, so that it opens "
        "offline. Pictures are coded at the first --quality; the gain curve is that of the first set."
    )
    parser.add_argument("--weights", required=True, metavar="NAME", help="name of published weights, or weight file")
    parser.add_argument("--output", required=True, metavar="FILE", help="the page, such as report.html")
    add_sets_option(parser, required=False)
    add_quality_option(parser, (10, 20, 30, 40))
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="FILE",
        help=f"pictures for the sliders, as files or SET/STEM (default: {NUM_PICTURES} of the sets); the first one is "
        "also Figure 6",
    )
    parser.add_argument(
        "--photos", nargs="+", default=[], metavar="FILE", help="photos of unknown quality, or folders, for Figure 7"
    )
    parser.add_argument(
        "--data-root", default="", metavar="DIR", help="folder of the sets (default: DATA_ROOT, or datasets)"
    )
    add_device_options(parser)
    add_workers_option(parser)
    add_cache_option(parser)


def run(options: argparse.Namespace) -> None:
    if Path(options.output).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{options.output} must end in {' or '.join(SUFFIXES)}; it becomes a page for browsers")
    if QUALITY in options.weights:
        raise ValueError(f"report is about one network; name one of the files that {options.weights} stands for")
    check_writable(options.output)
    weights = open_weights(options.weights, needs="network")
    color_mode = next(mode for mode, channels in COLOR_MODES.items() if channels == weights.network.channels)
    root = data_root(options.data_root)
    names = options.sets or present_sets(tables.sets_and_qualities(PAPER_TABLES[color_mode])[0], root)
    sets = open_sets(names, root)
    paths = [find_image(name, root) for name in options.images or []] or _first_pictures(sets)
    card = _card(weights)
    drawings = _photo_drawings(options)  # first, because a mistake in its options ends the command
    check_images(sets, color_mode)
    system = build_system(options.weights, color_mode, options)
    pictures, crop = _pictures(system, paths, color_mode, options.quality[0])
    drawings = [_magnified(paths[0], crop, color_mode, options), *drawings]
    result = measure_once(system, sets, options.quality, color_mode, options)
    gmac = count_gmac(weights.network)
    drawings += [_gain(system, sets[0], color_mode, options), *_cost(result, gmac)]
    page = Page(
        title=weights.name,
        summary=_summary(weights, gmac),
        comparisons=pictures,
        tables=_tables(result),
        drawings=drawings,
        protocol=_OUTER_SEMICOLON.split(result["protocol"]),
        card=card,
        provenance={"command": shlex.join(sys.argv), "date": str(date.today()), **system.provenance},
    )
    text = page.html()
    write_text(options.output, text)
    print(f"{options.output}: {len(text.encode()) / 1e6:.1f} MB")


def _tables(result: dict) -> list[Section]:
    """The scores alone, then beside the paper's rows. The protocol is left out: it has a place of its own."""
    alone = tables.summarize(result)
    notes = [note for note in alone.notes if not note.startswith("protocol: ")]
    measured = {int(quality) for qualities in result["results"].values() for quality in qualities}
    sections = [alone._replace(notes=notes)]
    for number in tables.JPEG_TABLES:
        in_table = measured.intersection(tables.sets_and_qualities(number)[1])
        if in_table and tables.paper_table(number)["channels"] == result["channels"]:
            sections += tables.compare(number, [result])
    return sections


def _first_pictures(sets: Sequence[ImageSet]) -> list[Path]:
    """The first image of each set, then the second of each, and so on."""
    longest = max(len(image_set.paths) for image_set in sets)
    in_turn = [image_set.paths[index] for index in range(longest) for image_set in sets if index < len(image_set.paths)]
    return in_turn[:NUM_PICTURES]


def _pictures(system: System, paths: Sequence[Path], color_mode: str, quality: int) -> tuple[list[Comparison], Crop]:
    """The sliders, and the part of the first picture that changes most."""
    pictures, crops = [], []
    for path in paths:
        clean = read_clean(path, color_mode)
        before, after = jpeg_roundtrip(clean, quality), system.produce(clean, Case("", Jpeg((quality,)), path.stem))
        change = after.astype(np.int32) - before
        crops.append(most_changed(change, *CROP_PX))
        shown = most_changed(change, *PICTURE_PX)
        scores = [score(image, clean) for image in (before, after)]
        psnr, ssim = ([of_image[metric] for of_image in scores] for metric in ("psnr", "ssim"))
        name = f"{path.absolute().parent.name}/{path.stem}"  # Classic5 calls its images 1 to 5
        caption = (
            f"{name}, quality {quality}. The JPEG: {psnr[0]:.2f} dB, SSIM {ssim[0]:.3f}. {system.name}: "
            f"{psnr[1]:.2f} dB, SSIM {ssim[1]:.3f}."
        )
        if shown[2:] != (clean.shape[1], clean.shape[0]):
            caption += f" Shown are {shown.width}x{shown.height} pixels of {clean.shape[1]}x{clean.shape[0]}."
        pictures.append(Comparison(name, "JPEG", shown.of(before), system.name, shown.of(after), caption))
    return pictures, crops[0]


def _magnified(path: Path, crop: Crop, color_mode: str, options: argparse.Namespace) -> Drawing:
    """Figure 6 of one picture."""
    chosen = {"image": str(path), "quality": options.quality[0], "channels": color_mode, "crop": [crop]}
    systems = {"systems": [JPEG, options.weights], "restored": []}
    figure, content = comparison.draw(argparse.Namespace(**vars(options) | chosen | systems))
    return Drawing("Magnified", figure, content["caption"], has_pictures=True)


def _photo_drawings(options: argparse.Namespace) -> list[Drawing]:
    """Figure 7, where photos were given."""
    if not options.photos:
        return []
    chosen = {"images": options.photos, "systems": [options.weights], "crop": None, "amplify": 8}
    figure, content = removal.draw(argparse.Namespace(**vars(options) | chosen))
    return [Drawing("Photos of unknown quality", figure, content["caption"], has_pictures=True)]


def _gain(system: System, image_set: ImageSet, color_mode: str, options: argparse.Namespace) -> Drawing:
    result = measure_once(system, [image_set], GAIN_QUALITIES, color_mode, options)
    caption = (
        f"Mean PSNR gain over the JPEG on {_where(image_set.name, result)}, and below it the share of images whose "
        "PSNR falls."
    )
    return Drawing("Gain against JPEG quality", gain_figure(curves_of([result])), caption)


def _cost(result: dict, gmac: float) -> list[Drawing]:
    """PSNR against arithmetic, on the first set and quality for which systems are printed; none without such a set."""
    for set_name, qualities in result["results"].items():
        for quality, scores in qualities.items():
            if printed := printed_points(result["channels"], set_name, int(quality)):
                points = [Point(result["method"], gmac, scores["psnr"], MEASURED), *printed]
                where = f"{_where(set_name, result)}, quality {quality}"
                caption = (
                    f"PSNR on {where}. Filled: measured here. Hollow: as printed, in the paper or the system's own."
                )
                return [Drawing("PSNR against arithmetic", cost_figure(points, scores["jpeg"]["psnr"], where), caption)]
    return []


def _where(set_name: str, result: dict) -> str:
    return f"{SET_TITLES.get(set_name, set_name)}, {CHANNEL_TITLES[result['channels']]}"


def _summary(weights: Weights, gmac: float) -> str:
    num_parameters = sum(parameter.numel() for parameter in weights.network.parameters())
    mode = "luma" if weights.network.channels == 1 else "colour"
    return f"{weights.network.title} for {mode}: {num_parameters / 1e6:.2f} M parameters, {gmac:.2f} GMAC at 256x256."


def _card(weights: Weights) -> str | None:
    """The model card: the Markdown file beside the weights, of the same name."""
    path = weights.path.with_suffix(".md")
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text in UTF-8; replace or remove this model card") from None
