"""The style of all figures, and how they are written to files."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from common.files import written_whole

STYLE = {"font.size": 8, "axes.linewidth": 0.6, "axes.titlesize": 8, "svg.hashsalt": "cqe"}  # salt: equal SVG files
FORMATS = ("png", "svg")
DOTS_PER_INCH = 250


def save_figure(figure: Figure, stem: str | Path, *, dots_per_inch: int | None = None) -> list[Path]:
    """Write `stem`.png and `stem`.svg, each whole or not at all, and return their paths. The folder must exist.

    Args:
        figure: the figure.
        stem: path without suffix.
        dots_per_inch: of the PNG; None means `DOTS_PER_INCH`, which is enough for print.
    """
    paths = []
    for suffix in FORMATS:
        path = Path(f"{stem}.{suffix}")
        with written_whole(path) as working, matplotlib.rc_context(STYLE):
            # The same figure must give the same file, so no date.
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(working, format=suffix, dpi=dots_per_inch or DOTS_PER_INCH, metadata=metadata)
        paths.append(path)
    return paths
