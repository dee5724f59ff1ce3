"""The files of a plot: PNG, SVG, and the numbers shown as JSON. Apart from `outputs`, which needs no matplotlib."""

from pathlib import Path

from matplotlib.figure import Figure

from common.files import check_writable, write_text
from evaluation.plot_files import FORMATS, save_figure
from evaluation.report import as_json
from restoration.folders import make_folder


def check_figure(stem: Path) -> None:
    """Refuse a plot whose files could not be written, before anything is computed."""
    for suffix in (*FORMATS, "json"):
        check_writable(f"{stem}.{suffix}")


def write_figure(stem: Path, figure: Figure, content: dict, *, dots_per_inch: int | None = None) -> None:
    """Write a plot and its numbers; print the files and the caption.

    Args:
        stem: path of the files, without suffix.
        figure: the plot.
        content: what the JSON holds, "caption" among it.
        dots_per_inch: as `save_figure`.
    """
    make_folder(stem.parent)
    paths = save_figure(figure, stem, dots_per_inch=dots_per_inch)
    write_text(f"{stem}.json", as_json(content))
    print(*paths, f"{stem}.json", content["caption"], sep="\n")
