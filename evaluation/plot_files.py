"""What all plots share: one style, and how they are written."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from common.files import written_whole

STYLE = {"font.size": 8, "axes.linewidth": 0.6, "axes.titlesize": 8, "svg.hashsalt": "cqe"}  # salt: the same file again
FORMATS = ("png", "svg")
DOTS_PER_INCH = 250


def save_figure(figure: Figure, stem: str | Path, *, dots_per_inch: int | None = None) -> list[Path]:
    """Write `stem`.png and `stem`.svg, each whole or not at all; returns their paths. The folder must be there.

    Args:
        figure: the plot.
        stem: path without suffix.
        dots_per_inch: of the PNG; None is `DOTS_PER_INCH`, enough for print.
    """
    paths = []
    for suffix in FORMATS:
        path = Path(f"{stem}.{suffix}")
        with written_whole(path) as working, matplotlib.rc_context(STYLE):
            # Without a date, the same figure gives the same file.
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(working, format=suffix, dpi=dots_per_inch or DOTS_PER_INCH, metadata=metadata)
        paths.append(path)
    return paths
