"""The eight symmetries of the square: flips and quarter turns, as views that copy nothing."""

import numpy as np

NUM_SYMMETRIES = 8


def symmetry(image: np.ndarray, index: int) -> np.ndarray:
    """One of the eight symmetries of an image, as a view.

    Args:
        image: (H, W) or (H, W, C).
        index: 0..7; 0 is the image itself, the lowest two bits count quarter turns, the third bit mirrors.

    Raises:
        ValueError: if the index is not within 0..7.
    """
    if not 0 <= index < NUM_SYMMETRIES:
        raise ValueError(f"symmetry index must be within 0..7, got {index}")
    turned = np.rot90(image, index % 4)
    return turned[:, ::-1] if index >= 4 else turned
