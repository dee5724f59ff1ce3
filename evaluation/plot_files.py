"""The style of all figures, and how they are written to files."""

import io
from pathlib import Path

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

from common.files import written_whole

# Lines differ in colour, in marker and in dashes, so a reader needs only one of the three. The colours are those of
# Okabe and Ito, which the colour-blind tell apart, without yellow, which is too pale on paper.
SERIES = (
    cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"])
    + cycler(marker=["o", "s", "^", "D", "v", "P", "X"])
    + cycler(linestyle=["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))])
)
STYLE = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.titlesize": 8,
    "axes.prop_cycle": SERIES,
    "svg.hashsalt": "cqe",  # equal figures give equal SVG files
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
}
FORMATS = ("png", "svg", "pdf")
_NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}  # equal figures give equal files
DOTS_PER_INCH = 250


def save_figure(figure: Figure, stem: str | Path, *, dots_per_inch: int | None = None) -> list[Path]:
    """Write `stem`.png, .svg and .pdf, each whole or not at all, and return their paths. The folder must exist.

    Args:
        figure: the figure.
        stem: path without suffix.
        dots_per_inch: of the PNG, and of pictures in the PDF; None means `DOTS_PER_INCH`, which is enough for print.
    """
    paths = []
    for suffix in FORMATS:
        path = Path(f"{stem}.{suffix}")
        with written_whole(path) as working:
            working.write_bytes(figure_bytes(figure, suffix, dots_per_inch=dots_per_inch))
        paths.append(path)
    return paths


def figure_bytes(figure: Figure, suffix: str, *, dots_per_inch: int | None = None) -> bytes:
    """The content of a figure's file. `suffix` is one of `FORMATS`; `dots_per_inch` as in `save_figure`."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        dots = dots_per_inch or DOTS_PER_INCH
        figure.savefig(buffer, format=suffix, dpi=dots, metadata=_NO_DATE.get(suffix))
    return buffer.getvalue()
