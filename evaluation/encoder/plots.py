"""Draws the paper's Fig. 2 and Fig. 5. Their content comes from `tsne` and `gradcam`.

They are readable in black and white: qualities differ by marker, brightness and a number beside each cluster, and maps
are gray.
"""

from collections.abc import Sequence
from itertools import combinations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from evaluation.encoder.gradcam import Column, upper_limit
from evaluation.encoder.tsne import PHOTO, Panel
from evaluation.plot_files import STYLE

MARKERS = ("o", "s", "^", "D", "v", "P", "<", "X", ">", "*")  # told apart without colour
COLOURS = matplotlib.colormaps["cividis"]  # from dark to light, so in gray print too
NUMBER_SIZE = (0.08, 0.04)  # room for the number of a cluster: part of a panel's width and height


def tsne_figure(panels: Sequence[Panel]) -> Figure:
    """Panels two by two (or in one row where there are fewer than four), with a legend for each list of qualities."""
    num_columns = 2 if len(panels) == 4 else len(panels)
    num_rows = -(-len(panels) // num_columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.5 * num_columns, 3.3 * num_rows + 0.6), layout="constrained")
        grid = figure.add_gridspec(num_rows + 1, num_columns, height_ratios=[3.3] * num_rows + [0.45])
        for index, panel in enumerate(panels):
            _draw(figure.add_subplot(grid[divmod(index, num_columns)]), panel)
        axes = figure.add_subplot(grid[num_rows, :])
        axes.axis("off")
        letters: dict[tuple[int, ...], str] = {}  # qualities -> panels that show them
        for panel in panels:
            key = tuple(np.unique(panel.qualities[panel.qualities != PHOTO]).tolist())
            letters[key] = f"{letters.get(key, '')}({panel.letter})"
        for place, (qualities, shown_in) in zip(("upper center", "lower center"), letters.items(), strict=False):
            handles = [_handle(rank, quality) for rank, quality in enumerate(qualities)]
            if any(PHOTO in panel.qualities and f"({panel.letter})" in shown_in for panel in panels):
                handles.append(Line2D([], [], label="photo", **_PHOTO_STYLE))
            heading = Line2D([], [], linestyle="", label=f"JPEG quality, {shown_in}:")
            legend = axes.legend(
                handles=[heading, *handles], ncols=len(handles) + 1, loc=place, frameon=False,
                handlelength=1.2, handletextpad=0.2, columnspacing=0.9, borderpad=0.0, borderaxespad=0.0,
            )  # fmt: skip
            axes.add_artist(legend)
    return figure


def maps_figure(columns: Sequence[Column], *, score_name: str = "cosine") -> Figure:
    """A column for each quality: the coded image, E0..E3 and Grad-CAM.

    The feature maps of a row have one scale, so they can be compared. Each Grad-CAM map has its own scale up to its
    maximum, as is usual: only its places can be compared.
    """
    height, width = columns[0].image.shape[:2]
    num_maps = len(columns[0].maps)
    with matplotlib.rc_context(STYLE):
        figure, grid, bars = _grid(num_maps + 2, len(columns), height / width)
        for axes, column in zip(grid[0], columns, strict=True):
            _show(axes, column.image, (height, width), limit=255)
            axes.set_title(f"quality {column.quality}")
        grid[0][0].set_ylabel("JPEG")
        bars[0].axis("off")
        for index in range(num_maps):
            maps = [column.maps[index] for column in columns]
            limit = upper_limit(maps)
            shown = [
                _show(axes, values, (height, width), limit=limit)
                for axes, values in zip(grid[index + 1], maps, strict=True)
            ]
            grid[index + 1][0].set_ylabel(f"$E_{index}$, {maps[0].shape[1]}x{maps[0].shape[0]}")
            _label(figure.colorbar(shown[0], cax=bars[index + 1], extend="max"), "mean |feature|")
        for axes, column in zip(grid[-1], columns, strict=True):
            last = _show(axes, column.cam / (column.cam.max() or 1.0), (height, width), limit=1)
            axes.set_xlabel(f"{score_name} {column.score:.2f}")
        grid[-1][0].set_ylabel("Grad-CAM of $E_3$")
        _label(figure.colorbar(last, cax=bars[-1]), "part of its maximum")
    return figure


def moved_apart(places: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Places of numbers, moved up or down where they would cover each other.

    Args:
        places: (K, 2).
        extent: (2,), width and height of the whole plot, in the same unit.

    Returns:
        (K, 2), at least `NUMBER_SIZE` apart in one direction, unless too many are crowded together.
    """
    relative = places / extent
    for _ in range(100):
        before = relative.copy()
        for low, high in combinations(range(len(relative)), 2):
            if relative[low, 1] > relative[high, 1]:
                low, high = high, low
            across, upwards = relative[high] - relative[low]
            missing = NUMBER_SIZE[1] - upwards
            if abs(across) < NUMBER_SIZE[0] and missing > 1e-6:
                relative[[low, high], 1] += -missing / 2, missing / 2
        if np.array_equal(before, relative):
            break
    return np.where(relative == places / extent, places, relative * extent)


_PHOTO_STYLE = {
    "linestyle": "", "marker": "o", "markersize": 6, "markerfacecolor": "none", "markeredgecolor": "black",
    "markeredgewidth": 1.2,
}  # fmt: skip


def _draw(axes: Axes, panel: Panel) -> None:
    qualities = np.unique(panel.qualities[panel.qualities != PHOTO])
    clusters = [panel.points[panel.qualities == quality] for quality in qualities]
    numbers_at = moved_apart(
        np.stack([np.median(cluster, axis=0) for cluster in clusters]), np.ptp(panel.points, axis=0)
    )
    for rank, (quality, cluster, (x, y)) in enumerate(zip(qualities, clusters, numbers_at, strict=True)):
        axes.plot(*cluster.T, **_style(rank, quality), label=f"Q{quality}")
        axes.text(
            x, y, str(quality), ha="center", va="center", fontsize=8, fontweight="bold", zorder=4,
            path_effects=[withStroke(linewidth=1.8, foreground="white")],
        )  # fmt: skip
    if PHOTO in panel.qualities:
        axes.plot(*panel.points[panel.qualities == PHOTO].T, **_PHOTO_STYLE, label="photo", zorder=3)
    axes.set(xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
    axes.set_title(f"({panel.letter}) {panel.title}")


def _style(rank: int, quality: int) -> dict:
    return {
        "linestyle": "",
        "marker": MARKERS[rank % len(MARKERS)],
        "markersize": 4.5,
        "markerfacecolor": COLOURS(quality / 100),
        "markeredgecolor": "black",
        "markeredgewidth": 0.35,
    }


def _handle(rank: int, quality: int) -> Line2D:
    return Line2D([], [], label=str(quality), **_style(rank, quality))


def _grid(num_rows: int, num_columns: int, height_to_width: float) -> tuple[Figure, list[list[Axes]], list[Axes]]:
    """A figure with axes in rows and columns, and a narrow one for a colour bar at the end of each row."""
    side, gap, bar, left, right, margin = 1.35, 0.1, 0.09, 0.25, 0.55, 0.22  # inches
    row = side * height_to_width
    width = left + num_columns * (side + gap) + bar + right
    height = 2 * margin + num_rows * row + (num_rows - 1) * gap
    figure = Figure(figsize=(width, height))
    spec = figure.add_gridspec(
        num_rows, num_columns + 1, width_ratios=[side] * num_columns + [bar], hspace=gap / row,
        wspace=gap * (num_columns + 1) / (num_columns * side + bar),  # of the mean width
        left=left / width, right=1 - right / width, bottom=margin / height, top=1 - margin / height,
    )  # fmt: skip
    axes = [[figure.add_subplot(spec[row, column]) for column in range(num_columns + 1)] for row in range(num_rows)]
    return figure, [row[:-1] for row in axes], [row[-1] for row in axes]


def _label(bar: Colorbar, text: str) -> None:
    bar.locator = MaxNLocator(nbins=4)
    bar.ax.tick_params(labelsize=7, width=0.6, length=2)
    bar.set_label(text)
    bar.ax.yaxis.set_label_coords(5.2, 0.5)  # one below the other, however long the numbers


def _show(axes: Axes, values: np.ndarray, size: tuple[int, int], *, limit: float) -> AxesImage:
    """A picture in gray, or RGB, over the image's coordinates in pixels, whatever its own size."""
    axes.set(xticks=[], yticks=[])
    extent = (0, size[1], size[0], 0)
    return axes.imshow(values, cmap="gray", vmin=0, vmax=limit, extent=extent, interpolation="nearest")
