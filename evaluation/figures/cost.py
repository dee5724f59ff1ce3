"""PSNR against arithmetic: measured networks, and published systems as their papers print them."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox, ScaledTranslation

from evaluation.plot_files import STYLE
from evaluation.scores.documents import PRINTED_NAMES
from evaluation.scores.tables import paper_tables

SIZE_INCHES = (5.0, 3.6)
_KINDS = {
    "measured here": {"marker": "o", "color": "#0072B2"},
    "printed": {"marker": "s", "color": "#D55E00", "fillstyle": "none"},
    "printed, knows the quality": {"marker": "^", "color": "#009E73", "fillstyle": "none"},
}
MEASURED, PRINTED, PRINTED_KNOWING = _KINDS

# Where a name may stand: its place from the marker, in half lines, and the side of the text that is there.
_SIDES = (
    (0, -1, "center", "top"), (0, 1, "center", "bottom"), (1, 0, "left", "center"), (-1, 0, "right", "center"),
    (0, -3, "center", "top"), (0, 3, "center", "bottom"),
)  # fmt: skip


class Point(NamedTuple):
    """A system: its name, its arithmetic in GMAC for a 256x256 image, its PSNR in dB, and a key of `_KINDS`."""

    name: str
    gmac: float
    psnr_db: float
    kind: str


def printed_points(color_mode: str, set_name: str, quality: int) -> list[Point]:
    """The published systems whose PSNR on this set and whose arithmetic are both known."""
    printed: dict[str, float] = {}
    for table in paper_tables().values():
        if table.get("channels") == color_mode and "dataset" not in table:  # with it: an ablation of one system
            for name, cells in table["rows"].items():
                cell = dict(zip(table["metrics"], cells.get(set_name, {}).get(quality, []), strict=False))
                printed |= {name: cell["psnr"]} if "psnr" in cell else {}
    points = []
    for name, known in paper_tables()["arithmetic"].items():
        if name in printed and color_mode in known:
            kind = PRINTED if known["is_blind"] else PRINTED_KNOWING
            points.append(Point(PRINTED_NAMES.get(name, name), known[color_mode], printed[name], kind))
    return points


def cost_figure(points: Sequence[Point], jpeg_psnr_db: float, title: str) -> Figure:
    """Draw the systems, and the JPEG as a line. Arithmetic is on a logarithmic axis.

    Args:
        points: at least one.
        jpeg_psnr_db: PSNR of the JPEG.
        title: says which set and quality.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot(xscale="log")
        axes.grid(linewidth=0.3, color="0.85")
        handles = []
        for kind, style in _KINDS.items():
            places = [(point.gmac, point.psnr_db) for point in points if point.kind == kind]
            if places:
                axes.plot(*np.transpose(places), linestyle="", **style)
                handles.append(Line2D([], [], linestyle="", label=kind, **style))
        axes.axhline(jpeg_psnr_db, color="black", linewidth=0.8)
        above_the_line = axes.get_yaxis_transform() + ScaledTranslation(0.05, 0.03, figure.dpi_scale_trans)
        axes.text(0, jpeg_psnr_db, "the JPEG", transform=above_the_line)
        axes.set(xlabel="GMAC for a 256x256 image", ylabel="PSNR (dB)", title=title)
        axes.margins(0.12, 0.12)
        figure.legend(handles=handles, frameon=False, loc="outside upper center", ncols=len(handles))
        figure.draw_without_rendering()  # from here on the axes stay where they are
        _write_names(axes, points)
    return figure


def _write_names(axes: Axes, points: Sequence[Point]) -> None:
    """Write each name beside its marker: on the first side where it covers nothing and stays inside."""
    places = axes.transData.transform([(point.gmac, point.psnr_db) for point in points])
    radius = 4 * axes.figure.dpi / 72  # 4 points
    taken = [Bbox.from_extents(*(place - radius), *(place + radius)) for place in places]
    for point in points:
        for x, y, across, upwards in _SIDES:
            text = axes.annotate(
                point.name, (point.gmac, point.psnr_db), xytext=(6 * x, 6 * y), textcoords="offset points",
                ha=across, va=upwards,
            )  # fmt: skip
            box = text.get_window_extent()
            is_inside = Bbox.union([axes.bbox, box]).bounds == axes.bbox.bounds
            if is_inside and not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        else:  # no room on any side
            text = axes.annotate(point.name, (point.gmac, point.psnr_db))
        taken.append(text.get_window_extent())
