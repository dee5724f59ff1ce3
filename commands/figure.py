"""`figure`: the paper's figures 2, 5, 6 and 7, and two of ours: gain against quality, PSNR against arithmetic."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from commands import comparison, curves, encoder_figures, removal
from commands.arguments import positive
from commands.figure_files import check_figure, write_figure

MAX_DOTS_PER_INCH = 1200  # 7.2 inches are 8640 pixels then; the picture takes 4 bytes a pixel and more


class Kind(NamedTuple):
    """A figure: a line about it, its options, and the function that draws it and gives the content of its JSON."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    draw: Callable[[argparse.Namespace], tuple[Figure, dict]]


FIGURES = {
    "2": Kind("t-SNE of representations", encoder_figures.add_cluster_arguments, encoder_figures.draw_clusters),
    "5": Kind("feature maps and Grad-CAM", encoder_figures.add_map_arguments, encoder_figures.draw_maps),
    "6": Kind("an image as systems restore it", comparison.add_arguments, comparison.draw),
    "7": Kind("photos of unknown quality: restored, and what was removed", removal.add_arguments, removal.draw),
    "gain": Kind("PSNR gain against JPEG quality", curves.add_gain_arguments, curves.draw_gain),
    "cost": Kind("PSNR against arithmetic", curves.add_cost_arguments, curves.draw_cost),
}
HELP = "the paper's figures: 2 (t-SNE), 5 (feature maps), 6 (restored images), 7 (photos); gain and cost, of ours"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    figures = parser.add_subparsers(title="figures", dest="number", metavar="FIGURE", required=True)
    for name, kind in FIGURES.items():
        figure = figures.add_parser(name, help=f"{kind.help}; writes figure_{name}.png, .svg, .pdf and .json")
        kind.add_arguments(figure)
        figure.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
        figure.add_argument(
            "--dots-per-inch",
            type=dots_per_inch,
            metavar="N",
            help="resolution of the PNG (default: 250); 120 suits a web page",
        )
        figure.add_argument(
            "--data-root", default="", metavar="DIR", help="folder of the sets (default: DATA_ROOT, or datasets)"
        )


def run(options: argparse.Namespace) -> None:
    stem = Path(options.output) / f"figure_{options.number}"
    check_figure(stem)
    write_figure(stem, *FIGURES[options.number].draw(options), dots_per_inch=options.dots_per_inch)


def dots_per_inch(text: str) -> int:
    """Read the resolution of a PNG."""
    dots = positive(text)
    if dots > MAX_DOTS_PER_INCH:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_DOTS_PER_INCH}, got {text}")
    return dots
