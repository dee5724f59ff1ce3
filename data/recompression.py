"""What can happen to a JPEG after it was coded: a second coding on another grid, or a change of size.

Both functions take and return whole images. Both are local: a region that is large enough gives the pixels of a crop.
"""

import numpy as np
from PIL import Image

from data.jpeg import jpeg_roundtrip


def double_jpeg(coded: np.ndarray, second_quality: int, *, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Cut rows and columns off the top left of a coded image, as an edit does, and code it again.

    Args:
        coded: (H, W) or (H, W, 3) uint8, decoded from a JPEG.
        second_quality: 1..100.
        shift: rows and columns cut off; (0, 0) keeps both codings on one grid.

    Returns:
        (H - rows, W - columns[, 3]) uint8.
    """
    rows, columns = shift
    return jpeg_roundtrip(np.ascontiguousarray(coded[rows:, columns:]), second_quality)


def resized(coded: np.ndarray, scale: float) -> np.ndarray:
    """A coded image at another size, bicubic with antialiasing (Pillow).

    Args:
        coded: (H, W) or (H, W, 3) uint8.
        scale: of both sides, > 0; sides are rounded.

    Raises:
        ValueError: if nothing would be left of the image.
    """
    height, width = (round(side * scale) for side in coded.shape[:2])
    if min(height, width) < 1:
        raise ValueError(f"scale {scale} leaves nothing of an image of {coded.shape[1]}x{coded.shape[0]} pixels")
    return np.asarray(Image.fromarray(coded).resize((width, height), Image.Resampling.BICUBIC))
