"""The paper's Fig. 7: photos as they were found, restored, and what was removed from them. They have no original."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from evaluation.figures.crops import Crop
from evaluation.figures.pictures import GAP_INCHES, LETTERS, WIDTH_INCHES, mark, place, show, title, write
from evaluation.plot_files import STYLE

MAX_PHOTOS, MAX_SYSTEMS = 8, 3  # what a page has room for
MIDDLE = 128  # the grey level that means: nothing was removed
TITLE_INCHES = 0.2  # of one line


class RestoredPhoto(NamedTuple):
    """A photo, the part of it to magnify, and the results of systems by name. All images are uint8 and of one shape."""

    photo: np.ndarray  # (H, W) or (H, W, 3)
    crop: Crop
    restored: Mapping[str, np.ndarray]


def removed(photo: np.ndarray, restored: np.ndarray, amplification: int) -> np.ndarray:
    """What was removed, photo minus restored, times a factor, as a uint8 image around `MIDDLE`."""
    change = amplification * (photo.astype(np.int32) - restored)
    return np.clip(MIDDLE + change, 0, 255).astype(np.uint8)


def removal_figure(photos: Sequence[RestoredPhoto], amplification: int) -> Figure:
    """Draw a row for each photo: whole, its part magnified, and that part restored and removed by each system.

    Args:
        photos: at most `MAX_PHOTOS`, all restored by the same systems.
        amplification: factor of what was removed.
    """
    num_columns = 2 + 2 * len(photos[0].restored)
    column = (WIDTH_INCHES - GAP_INCHES * (num_columns + 1)) / num_columns
    heights = [column * shown.crop.height / shown.crop.width for shown in photos]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, TITLE_INCHES + sum(heights) + GAP_INCHES * len(heights)))
        top = TITLE_INCHES
        for row, (shown, height) in enumerate(zip(photos, heights, strict=True)):
            whole_height, whole_width = shown.photo.shape[:2]
            scale = min(column / whole_width, height / whole_height)
            axes = place(figure, GAP_INCHES, top, scale * whole_width, scale * whole_height)
            show(axes, shown.photo)
            mark(axes, shown.crop)
            for index, (name, image) in enumerate(_columns(shown, amplification)):
                left = (index + 2) * GAP_INCHES + (index + 1) * column
                part = place(figure, left, top, column, height)
                show(part, shown.crop.of(image), is_magnified=True)
                if row == 0:
                    title(part, name, column)
                if index == 0 and len(photos) > 1:
                    write(part, 0.04, 0.96, LETTERS[row], part.transAxes)
            if row == 0:
                title(axes, "photo, whole", column, loc="left")
            top += height + GAP_INCHES
    return figure


def _columns(shown: RestoredPhoto, amplification: int) -> list[tuple[str, np.ndarray]]:
    """Titles and images of the magnified columns."""
    columns = [("magnified", shown.photo)]
    for name, image in shown.restored.items():
        columns += [(name, image), (f"removed, x{amplification}", removed(shown.photo, image, amplification))]
    return columns
