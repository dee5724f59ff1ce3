"""One photo: what is read of its file, what a network changes in it, what is written.

A photo becomes a PNG, so that nothing is lost by coding it anew. Size, transparency, colour profile and EXIF data come
along; pixels are not rotated, the EXIF orientation goes on saying how they lie. 16-bit gray stays 16-bit; 16-bit colour
is read by Pillow, and so restored, at 8 bits. A TIFF's own tags are not carried over (Pillow applies its orientation).
"""

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from restoration.tiling import TILE_PX, restore_tensor

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # JFIF's Y, full range: the plane that a colour JPEG codes

MAX_PIXELS = 2**29  # Pillow refuses pictures of twice as many, about a gigapixel

_METADATA = ("exif", "icc_profile", "dpi")  # as Pillow calls them, in what it read and when it writes
_FOREIGN_PROFILE = ("CMYK", "LAB")  # modes whose colour profile does not describe the RGB made of them
# What Pillow's decoders raise for damaged data.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error,
    zlib.error,
)  # fmt: skip


class Photo(NamedTuple):
    """A picture and what travels with it."""

    pixels: np.ndarray  # gray: (H, W), uint8 or uint16; colour: (H, W, 3) uint8
    alpha: np.ndarray | None  # (H, W) uint8
    metadata: dict[str, Any]  # what Pillow is to write beside the pixels


def restore_photo(
    restorer: nn.Module, photo: Photo, *, tile_px: int = TILE_PX, on_tile: Callable[[float], None] | None = None
) -> Photo:
    """The photo with restored pixels; all else as it was.

    What the network changes is added to the pixels as they are. A luma network sees Y of a colour photo (JFIF's, full
    range, not rounded), and its change of Y is added to R, G and B alike: that leaves the chroma, Cb and Cr, as it was,
    and gives back the very same RGB where Y does not change. A colour network sees a gray photo as three equal
    channels, and the luma of its change is added.

    Raises:
        ValueError: if the tile size does not fit.
        FloatingPointError: if the network's output is not finite.
    """
    pixels = photo.pixels
    is_color, peak = pixels.ndim == 3, np.iinfo(pixels.dtype).max
    seen = pixels.astype(np.float32).reshape(*pixels.shape[:2], -1) / peak  # (H, W, 1 or 3)
    if restorer.channels == 1 and is_color:
        seen = (seen @ LUMA)[..., None]
    elif restorer.channels == 3 and not is_color:
        seen = np.repeat(seen, 3, axis=2)
    x = torch.from_numpy(seen).permute(2, 0, 1)[None]  # (1, channels, H, W)
    restored = restore_tensor(restorer, x, tile_px=tile_px, on_tile=on_tile)
    change = (restored - x)[0].permute(1, 2, 0).numpy()  # (H, W, channels)
    if not is_color:
        change = change[..., 0] if restorer.channels == 1 else change @ LUMA  # (H, W)
    return photo._replace(pixels=np.rint(np.clip(pixels + peak * change, 0, peak)).astype(pixels.dtype))


def read_photo(path: str | Path) -> Photo:
    """Read a photo with what travels with it.

    Palettes are looked up, a colour that stands for transparency becomes an alpha channel, CMYK becomes RGB.

    Raises:
        ValueError: if the file is damaged, no image, of several pictures, or of unsupported depth.
        OSError: if it cannot be opened.
    """
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own limit is below a phone's largest photos
    # Pillow warns of pictures half as large as those it refuses; they are fine here.
    ignored = warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
    try:
        with ignored, Image.open(path) as opened:
            _refuse_several(opened)
            opened.load()
            return _as_photo(opened)
    except _Unsupported as error:
        raise ValueError(f"{path} {error}") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that can be read") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} has more than {2 * MAX_PIXELS / 1e9:.1f} gigapixels; cut it into parts") from None
    except _DECODER_ERRORS as error:
        # The file system's own errors carry an errno and name the file already.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path} is damaged or cut off ({str(error) or type(error).__name__})") from error


def has_color(photo: Photo) -> bool:
    """Whether any pixel is other than gray. Gray stored as three equal channels is gray."""
    pixels = photo.pixels
    return pixels.ndim == 3 and bool((pixels[..., 1:] != pixels[..., :1]).any())


def save_photo(photo: Photo, path: str | Path) -> None:
    """Write a photo as PNG, so that `path` is either what it was or the whole new file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = photo.pixels if photo.alpha is None else np.dstack([photo.pixels, photo.alpha])
    working = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        Image.fromarray(planes).save(working, format="PNG", **photo.metadata)
        os.replace(working, path)
    finally:
        working.unlink(missing_ok=True)


class _Unsupported(ValueError):
    """A sound file of a kind that is not restored; the message goes on from the file's name."""


def _refuse_several(opened: Image.Image) -> None:
    num_pictures = getattr(opened, "n_frames", 1)
    # MPO, as phones and cameras write it, is a JPEG photo followed by its previews or its other eye's view.
    if num_pictures > 1 and opened.format != "MPO":
        raise _Unsupported(f"holds {num_pictures} pictures (an animation, or pages); only single ones are restored")


def _as_photo(opened: Image.Image) -> Photo:
    mode = opened.mode
    metadata = {key: opened.info[key] for key in _METADATA if opened.info.get(key)}
    if mode in _FOREIGN_PROFILE:
        metadata.pop("icc_profile", None)
    # Pillow gives 16-bit PNG and PGM as "I;16" or, depending on its version, as "I" with values up to 65535.
    if mode.startswith("I;16") or (mode == "I" and opened.format in ("PNG", "PPM")):
        return Photo(np.array(opened).astype(np.uint16), None, metadata)
    if mode in ("I", "F"):
        raise _Unsupported("stores 32-bit numbers; save it with 8 or 16 bits a channel")
    colors = "L" if mode in ("1", "L", "LA", "La") else "RGB"
    if not opened.has_transparency_data:
        return Photo(np.array(opened.convert(colors)), None, metadata)
    planes = np.array(opened.convert(f"{colors}A"))  # (H, W, 2 or 4)
    return Photo(planes[..., 0] if colors == "L" else planes[..., :3], planes[..., -1], metadata)
