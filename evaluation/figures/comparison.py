"""The paper's Fig. 6: one image restored by several systems, whole and magnified, with scores in the titles."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from evaluation.figures.crops import Crop
from evaluation.figures.pictures import GAP_INCHES, LETTERS, TITLE_INCHES, WIDTH_INCHES, mark, place, show, title, write
from evaluation.plot_files import STYLE

ORIGINAL = "original"


class Shown(NamedTuple):
    """One version of the image, with its name. The original has no scores."""

    name: str
    image: np.ndarray  # (H, W) or (H, W, 3) uint8
    scores: dict[str, float] | None


class _Layout(NamedTuple):
    """Sizes in inches. Versions stand side by side in `num_lines` lines of `num_columns`."""

    num_lines: int
    num_columns: int
    column: float  # width of a crop
    whole: float  # width of the whole image


def comparison_figure(versions: Sequence[Shown], crops: Sequence[Crop]) -> Figure:
    """Draw the whole original with its crops marked. Beside it: a column for each version, with a row for each crop.

    Where there are many versions, they stand in several lines.

    Args:
        versions: all of one size; the original comes last.
        crops: all inside the image; see `check_crops`.
    """
    whole = versions[-1].image
    height, width = whole.shape[:2]
    shares = [crop.height / crop.width for crop in crops]
    lines = _layout(height / width, shares, len(versions))
    rows = [lines.column * share for share in shares]
    line_height = sum(rows) + GAP_INCHES * (len(rows) - 1) + TITLE_INCHES + GAP_INCHES
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, lines.num_lines * line_height))
        axes = place(figure, GAP_INCHES, TITLE_INCHES, lines.whole, lines.whole * height / width)
        show(axes, whole)
        title(axes, "original, whole\nPSNR / SSIM of the whole image:", lines.whole, loc="left")
        for letter, crop in zip(LETTERS, crops, strict=False):
            mark(axes, crop, letter if len(crops) > 1 else "")
        for index, version in enumerate(versions):
            line, column = divmod(index, lines.num_columns)
            left = 2 * GAP_INCHES + lines.whole + column * (lines.column + GAP_INCHES)
            for row, crop in enumerate(crops):
                top = line * line_height + TITLE_INCHES + sum(rows[:row]) + row * GAP_INCHES
                axes = place(figure, left, top, lines.column, rows[row])
                show(axes, crop.of(version.image), is_magnified=True)
                if row == 0:
                    title(axes, f"{version.name}\n{_scores(version)}", lines.column)
                if column == 0 and len(crops) > 1:
                    write(axes, 0.04, 0.96, LETTERS[row], axes.transAxes)
    return figure


def _layout(whole_share: float, shares: Sequence[float], num_versions: int) -> _Layout:
    """The number of lines that gives the widest crops.

    The whole image is as high as all lines together, and the figure is filled. That gives the width of a column:
    `columns * column + whole = room`, and `whole * whole_share = lines * sum(shares) * column + gaps`.

    Args:
        whole_share: height of the whole image divided by its width.
        shares: the same for each crop.
    """
    layouts = []
    for num_lines in range(1, num_versions + 1):
        num_columns = -(-num_versions // num_lines)
        between = (num_lines - 1) * (TITLE_INCHES + GAP_INCHES) + num_lines * (len(shares) - 1) * GAP_INCHES
        crops_share = num_lines * sum(shares) / whole_share
        room = WIDTH_INCHES - GAP_INCHES * (num_columns + 2) - between / whole_share
        column = room / (num_columns + crops_share)
        layouts.append(_Layout(num_lines, num_columns, column, column * crops_share + between / whole_share))
    return max(layouts, key=lambda layout: layout.column)


def _scores(version: Shown) -> str:
    if version.scores is None:
        return ""
    return f"{version.scores['psnr']:.2f} dB / {version.scores['ssim']:.3f}"
