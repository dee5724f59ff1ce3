"""Reads image files of all usual formats into one kind of array.

An *image* is a uint8 array: (H, W) for gray, (H, W, 3) for RGB. Every file is decoded completely, so a cut-off file is
found when it is read. Pixels are used as they are stored: EXIF rotation is not applied, because the reference of a
benchmark must be the stored pixels.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import is_about_memory
from data.color import luma

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".webp")

# What Pillow's decoders raise for damaged data. PNG also raises SyntaxError and ValueError. Errors of struct, zlib
# and indexing come from the parsers of headers, RuntimeError from the AVIF decoder.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, RuntimeError, struct.error,
    zlib.error,
)  # fmt: skip


def list_images(folder: str | Path) -> list[Path]:
    """Image files of a folder, sorted by name. They are found by suffix. Hidden files and sub-folders are skipped.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it is not a folder or holds no image.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist; give a folder of images")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the folder that holds the images")
    found = sorted(path for path in folder.iterdir() if is_image_name(path))
    if not found:
        raise ValueError(f"{folder} holds no images; files ending in {', '.join(IMAGE_SUFFIXES)} are read")
    return found


def is_image_name(path: Path) -> bool:
    """Whether a file is an image by its name. Hidden files are not: macOS writes `._name.jpg` files with no image."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def read_image(path: str | Path) -> np.ndarray:
    """Decode a file to uint8: (H, W) if it is gray, (H, W, 3) RGB otherwise.

    Transparency is dropped. 16-bit gray is divided by 257 and rounded. An image whose palette colours are all gray
    becomes gray. CMYK and other colour spaces become RGB. Of an animation, only the first frame is read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is empty, cut off, damaged, too large, not an image, or of an unsupported depth.
    """
    with opened_image(path) as opened:
        opened.load()
        return _to_uint8(opened)


@contextmanager
def opened_image(path: str | Path, *, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """Open an image file with Pillow. Its errors, also those while the block decodes it, become one line.

    Args:
        path: the file.
        max_pixels: refuse pictures of more than twice as many; None: Pillow's own limit.

    Raises:
        FileNotFoundError, PermissionError: as the file system has them.
        ValueError: if the file is empty, cut off, damaged, too large, or no image; or if the block raised
            `Unsupported`. The message names the file.
    """
    path, before = Path(path), Image.MAX_IMAGE_PIXELS
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); replace or remove the file")
    Image.MAX_IMAGE_PIXELS = max_pixels or before
    try:
        # Pillow warns of pictures half as large as those it refuses; they are fine here.
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as file,
        ):
            yield file
    except Unsupported as error:
        raise ValueError(f"{path} {error}") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that can be read; replace or remove the file") from None
    except Image.DecompressionBombError:
        limit = 2 * Image.MAX_IMAGE_PIXELS / 1e6
        raise ValueError(f"{path} has more than {limit:.0f} megapixels; cut it into parts or remove it") from None
    except _DECODER_ERRORS as error:
        # Errors of the file system (missing file, no permission) have an errno, and their message names the file.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if isinstance(error, RuntimeError) and is_about_memory(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged or cut off ({reason}); replace or remove the file") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


def stored_axes(path: str | Path) -> int:
    """The number of axes of a file's pixels: 2 where it is stored gray, 3 otherwise. Decodes nothing."""
    with opened_image(path) as opened:
        return 2 if opened.mode in ("L", "1", "LA") or opened.mode.startswith("I") else 3


def read_rgb(path: str | Path) -> np.ndarray:
    """Decode a file to (H, W, 3) uint8. A gray file becomes RGB with three equal channels. Errors as `read_image`."""
    image = read_image(path)
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image  # (H, W) -> (H, W, 3)


def to_channels(image: np.ndarray, channels: int, *, name: str | Path = "the image") -> np.ndarray:
    """The image, converted for a network with this number of input channels.

    Args:
        image: (H, W) or (H, W, 3) uint8.
        channels: 1 gives (H, W): a gray image as it is, or the luma (16..235) of an RGB image. 3 gives (H, W, 3).
        name: the file, for the error message.

    Raises:
        ValueError: if the image is gray and `channels` is 3, or if `channels` is neither 1 nor 3.
    """
    if channels == 1:
        return image if image.ndim == 2 else luma(image)
    if channels != 3:
        raise ValueError(f"channels must be 1 (luma) or 3 (RGB), got {channels}")
    if image.ndim == 2:
        raise ValueError(f"{name} is gray, but 3 channels were asked for; use a colour image, or gray (1 channel)")
    return image


class Unsupported(ValueError):
    """The file is fine but not supported. The message continues a sentence that starts with the file's name."""


def _to_uint8(opened: Image.Image) -> np.ndarray:
    mode = opened.mode
    if mode in ("L", "RGB"):
        return np.array(opened)
    if mode in ("1", "LA", "La"):
        return np.array(opened.convert("LA" if mode == "La" else mode).convert("L"))
    # Pillow gives 16-bit PNG and PGM as "I;16" or, depending on its version, as "I" with values up to 65535.
    if mode.startswith("I;16") or mode == "I" and opened.format in ("PNG", "PPM"):
        return ((np.array(opened).astype(np.uint32) + 128) // 257).astype(np.uint8)
    if mode in ("I", "F"):
        kind = "32-bit integers" if mode == "I" else "floating point numbers"
        raise Unsupported(f"stores {kind}; save it with 8 or 16 bits a channel")
    if mode == "RGBa":
        opened = opened.convert("RGBA")
    image = np.array(opened.convert("RGB"))
    is_gray_palette = mode in ("P", "PA") and (image == image[:, :, :1]).all()
    return image[:, :, 0].copy() if is_gray_palette else image
