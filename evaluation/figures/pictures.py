"""What figures of images are built of: places in inches, titles that fit, frames and letters for any ground."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Transform

from evaluation.figures.crops import Crop

LETTERS = "abcdefgh"  # of the crops
WIDTH_INCHES = 7.2  # width of the text on a printed page
GAP_INCHES, TITLE_INCHES = 0.06, 0.34  # a title has two lines
TITLE_POINTS, LEAST_POINTS = 8, 5
LETTER_SHARE = 0.6  # mean width of a letter as a share of the font's size; wide enough for digits


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes without ticks at a place in inches, measured from the left and from the top of the figure."""
    inches = figure.get_size_inches()
    sides = np.array([left, inches[1] - top - height, width, height])
    return figure.add_axes(tuple(sides / np.tile(inches, 2)), xticks=[], yticks=[])


def show(axes: Axes, image: np.ndarray, *, is_magnified: bool = False) -> None:
    """Draw a uint8 image over all of the axes. Of a magnified one, single pixels are seen."""
    interpolation = "nearest" if is_magnified else "auto"
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation=interpolation)


def title(axes: Axes, text: str, width: float, *, loc: str = "center") -> None:
    """Write a title above axes that are `width` inches wide. A long one gets smaller letters, and at last an end."""
    points = min(TITLE_POINTS, 72 * width / (LETTER_SHARE * max(map(len, text.split("\n")))))
    if points < LEAST_POINTS:
        points, room = LEAST_POINTS, int(72 * width / (LETTER_SHARE * LEAST_POINTS))
        text = "\n".join(line if len(line) <= room else f"{line[: room - 1]}…" for line in text.split("\n"))
    axes.set_title(text, loc=loc, fontsize=points)


def mark(axes: Axes, crop: Crop, letter: str = "") -> None:
    """Draw a frame around a part, and a letter in it, that show on light and on dark ground."""
    for color, line_width in (("black", 2.4), ("white", 1.2)):
        corner = (crop.left - 0.5, crop.top - 0.5)
        axes.add_patch(Rectangle(corner, crop.width, crop.height, fill=False, edgecolor=color, linewidth=line_width))
    if letter:
        write(axes, crop.left + 0.04 * crop.width, crop.top + 0.04 * crop.height, letter, axes.transData)


def write(axes: Axes, x: float, y: float, letter: str, transform: Transform) -> None:
    """Write a letter whose upper left corner is at (x, y)."""
    outline = [withStroke(linewidth=2, foreground="black")]
    axes.text(x, y, letter, transform=transform, va="top", color="white", fontweight="bold", path_effects=outline)
