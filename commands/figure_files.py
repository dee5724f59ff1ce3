"""The files of a figure: PNG, SVG, PDF, and JSON with its data. A module of its own: `outputs` needs no matplotlib."""

from pathlib import Path

from matplotlib.figure import Figure

from common.files import check_writable, write_text
from evaluation.plot_files import FORMATS, save_figure
from evaluation.report import as_json
from restoration.folders import make_folder


def check_figure(stem: Path) -> None:
    """Raise ValueError or OSError before any work, if a file of the figure could not be written."""
    for suffix in (*FORMATS, "json"):
        check_writable(f"{stem}.{suffix}")


def write_figure(stem: Path, figure: Figure, content: dict, *, dots_per_inch: int | None = None) -> None:
    """Write a figure and its JSON; print their paths and the caption.

    Args:
        stem: path of the files, without suffix.
        figure: the figure.
        content: of the JSON file; it has a "caption".
        dots_per_inch: as in `save_figure`.
    """
    make_folder(stem.parent)
    paths = save_figure(figure, stem, dots_per_inch=dots_per_inch)
    write_text(f"{stem}.json", as_json(content))
    print(*paths, f"{stem}.json", content["caption"], sep="\n")
