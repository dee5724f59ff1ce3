"""The paper's Fig. 6: one image restored by several systems, whole and magnified, with scores in the titles."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from evaluation.plot_files import STYLE
from evaluation.scores.image_sets import size_of

WIDTH_INCHES = 7.2  # width of the text on a printed page
GAP_INCHES, TITLE_INCHES = 0.06, 0.34
ORIGINAL = "original"


class Crop(NamedTuple):
    """A part of an image. `left` and `top` are its first column and row; all in pixels."""

    left: int
    top: int
    width: int
    height: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """This part of an (H, W) or (H, W, 3) image."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]

    def __str__(self) -> str:
        return ",".join(map(str, self))


class Shown(NamedTuple):
    """One version of the image, with its name. The original has no scores."""

    name: str
    image: np.ndarray  # (H, W) or (H, W, 3) uint8
    scores: dict[str, float] | None


def check_crops(crops: Sequence[Crop], image: np.ndarray, name: object) -> None:
    """Refuse a crop that reaches outside the image. Raises ValueError."""
    for crop in crops:
        if crop.of(image).shape[:2] != (crop.height, crop.width):
            raise ValueError(f"the crop {crop} reaches outside {name}, which is {size_of(image)} pixels")


def comparison_figure(versions: Sequence[Shown], crops: Sequence[Crop]) -> Figure:
    """Draw the whole original with its crops marked. Beside it: a row for each crop, a column for each version.

    Args:
        versions: all of one size; the original comes last.
        crops: all inside the image; see `check_crops`.
    """
    whole = versions[-1].image
    height, width = whole.shape[:2]
    shares = [crop.height / crop.width for crop in crops]
    column, whole_width = _widths(height / width, shares, len(versions))
    rows = [column * share for share in shares]
    total = sum(rows) + GAP_INCHES * (len(rows) - 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, total + TITLE_INCHES + GAP_INCHES))

        def place(left: float, top: float, wide: float, high: float) -> Axes:
            """Axes at a place in inches, measured from the left and from below the titles."""
            sides = np.array([left, total + GAP_INCHES - top - high, wide, high])
            return figure.add_axes(tuple(sides / np.tile(figure.get_size_inches(), 2)), xticks=[], yticks=[])

        axes = place(GAP_INCHES, 0, whole_width, total)
        _show(axes, whole)
        axes.set_title("original, whole\nPSNR / SSIM of the whole image:", loc="left")
        for letter, crop in zip("abcdefgh", crops, strict=False):
            _mark(axes, crop, letter if len(crops) > 1 else "")
        for index, version in enumerate(versions):
            for row, crop in enumerate(crops):
                left = 2 * GAP_INCHES + whole_width + index * (column + GAP_INCHES)
                axes = place(left, sum(rows[:row]) + row * GAP_INCHES, column, rows[row])
                _show(axes, crop.of(version.image), interpolation="nearest")
                if row == 0:
                    axes.set_title(f"{version.name}\n{_scores(version)}")
                if index == 0 and len(crops) > 1:
                    _write(axes, 0.04, 0.96, "abcdefgh"[row], axes.transAxes)
    return figure


def _widths(whole_share: float, shares: Sequence[float], num_columns: int) -> tuple[float, float]:
    """Widths of a column of crops and of the whole image, in inches. Both get the same height and fill the figure.

    Args:
        whole_share: height of the whole image divided by its width.
        shares: the same for each crop.
    """
    gaps = GAP_INCHES * (len(shares) - 1) / whole_share
    room = WIDTH_INCHES - GAP_INCHES * (num_columns + 2)
    column = (room - gaps) / (num_columns + sum(shares) / whole_share)
    return column, column * sum(shares) / whole_share + gaps


def _show(axes: Axes, image: np.ndarray, interpolation: str = "auto") -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation=interpolation)


def _mark(axes: Axes, crop: Crop, letter: str) -> None:
    """Draw a frame that shows on light and on dark ground."""
    for color, line_width in (("black", 2.4), ("white", 1.2)):
        place = (crop.left - 0.5, crop.top - 0.5)
        axes.add_patch(Rectangle(place, crop.width, crop.height, fill=False, edgecolor=color, linewidth=line_width))
    if letter:
        _write(axes, crop.left + 0.04 * crop.width, crop.top + 0.04 * crop.height, letter, axes.transData)


def _write(axes: Axes, x: float, y: float, letter: str, transform: matplotlib.transforms.Transform) -> None:
    outline = [withStroke(linewidth=2, foreground="black")]
    axes.text(x, y, letter, transform=transform, va="top", color="white", fontweight="bold", path_effects=outline)


def _scores(version: Shown) -> str:
    if version.scores is None:
        return ""
    return f"{version.scores['psnr']:.2f} dB / {version.scores['ssim']:.3f}"
