"""Stage 2: the networks that restore a JPEG image, guided by the frozen quality encoder.

As a library: `restore_array(load("fast_tiny_color"), image)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from restoration.networks.restorer import Restorer

# Both functions import when they are called, because `restoration.networks` must work with torch alone.


def load(name_or_path: str | Path) -> Restorer:
    """A trained restoration network in eval mode, on the CPU.

    Args:
        name_or_path: a name from `weights/`, such as "fast_tiny_color", or a weight file.

    Raises:
        FileNotFoundError: if there is no such name or file.
        ValueError: if the file is damaged or has no restoration network.
    """
    from restoration.weights import load_restorer

    return load_restorer(name_or_path)


def restore_array(restorer: Restorer, image: np.ndarray) -> np.ndarray:
    """Restore an image of any size. Large images are restored in tiles.

    Args:
        restorer: from `load`. It runs on the device of its parameters, in the precision of the surrounding autocast.
        image: (H, W, 3) uint8 RGB, or (H, W) uint8 or uint16 gray, decoded from a JPEG. A luma network leaves the
            chroma of a colour image as it is; a colour network restores gray images too.

    Returns:
        The restored image, with the shape and type of `image`.

    Raises:
        ValueError: if the array is not such an image.
        FloatingPointError: if the network's output is not finite.
    """
    from restoration.photos import Photo, restore_photo

    depths = {2: ("uint8", "uint16"), 3: ("uint8",)}.get(image.ndim, ())
    if image.size == 0 or image.dtype not in depths or image.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"expected an image of shape (H, W, 3) in uint8, or (H, W) in uint8 or uint16, got {image.shape} in "
            f"{image.dtype}"
        )
    restored = restore_photo(restorer, Photo(image, None, {})).pixels
    return image.copy() if restored is image else restored  # a fine photo: the caller may change what it gets
