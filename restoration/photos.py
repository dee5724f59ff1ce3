"""One photo: reading its file, restoring its pixels, writing it.

A photo is written as PNG, so that coding it again loses nothing. Its size, transparency, colour profile and EXIF data
are kept. Pixels are not rotated; the EXIF orientation is kept with the EXIF data. 16-bit gray stays 16-bit. 16-bit
colour becomes 8-bit, because Pillow reads it so. The tags of a TIFF are not kept; Pillow applies its orientation.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from common.files import written_whole
from common.machine import free_memory
from data.color import FULL_WEIGHTS
from data.images import Unsupported, opened_image
from restoration.fineness import fineness_of
from restoration.tiling import CHANGE_BLOCK_PX, TILE_PX, check_tiles, restore_strips

LUMA = FULL_WEIGHTS.astype(np.float32)  # JFIF's Y, full range: the plane that a colour JPEG codes

MAX_PIXELS = 2**29  # Pillow refuses pictures of twice as many, about a gigapixel
# Main memory for restoring a photo, in bytes a pixel, without the memory that the network needs for one tile. Measured
# with 64 megapixels (8000x8000 and 32000x2000) and rounded up. Reading takes at most 16 (WebP; others less). Then
# all pixels take 8, and those of one row of tiles another 19 (luma network) or 37 (colour network).
READING_BYTES, RESTORING_BYTES, ROW_BYTES = 16, 8, 40
STRIP_PIXELS = 2**22  # a large picture is converted in strips of about this size
METRES_PER_INCH = 0.0254

_METADATA = ("exif", "icc_profile", "dpi")  # Pillow's names, for reading and for writing
_FOREIGN_PROFILE = ("CMYK", "LAB")  # modes whose colour profile does not fit the RGB pixels made from them


class Photo(NamedTuple):
    """A picture, with the data of its file that are kept."""

    pixels: np.ndarray  # gray: (H, W), uint8 or uint16; colour: (H, W, 3) uint8
    alpha: np.ndarray | None  # (H, W) uint8
    metadata: dict[str, Any]  # written by Pillow beside the pixels


def restore_photo(
    restorer: nn.Module, photo: Photo, *, tile_px: int = TILE_PX, on_tile: Callable[[float], None] | None = None
) -> Photo:
    """The photo with restored pixels; its other data stay the same.

    The change that the network makes is added to the stored pixels. A luma network gets Y of a colour photo (JFIF's,
    full range, not rounded). Its change of Y is added to R, G and B alike. This keeps the chroma, Cb and Cr, and keeps
    RGB exactly where Y does not change. A colour network gets a gray photo as three equal channels; the luma of its
    change is added. A fine photo is returned as it was: see `restoration.fineness`.

    Args:
        restorer: a `Restorer` in eval mode. It runs on its device, in the precision of the surrounding autocast.
        photo: as read; it is not changed.
        tile_px, on_tile: as in `restoration.tiling.restore_strips`.

    Raises:
        ValueError: if the tile size is not allowed.
        FloatingPointError: if the network's output is not finite.
    """
    check_tiles(tile_px)
    pixels = photo.pixels
    if fineness_of(restorer).is_read(pixels):
        return photo
    peak = np.iinfo(pixels.dtype).max

    def read(rows: slice) -> torch.Tensor:
        return _as_seen(pixels[rows], restorer.channels)

    # In strips, because floating point copies of a large photo would take ten times the memory of its pixels.
    restored = np.empty_like(pixels)
    for strip in restore_strips(restorer, read, pixels.shape[:2], tile_px=tile_px, on_tile=on_tile):
        change = np.ascontiguousarray((strip.restored - strip.seen)[0].permute(1, 2, 0).numpy())  # (h, W, channels)
        if pixels.ndim == 2:
            change = change[..., 0] if restorer.channels == 1 else change @ LUMA  # (h, W)
        restored[strip.rows] = np.rint(np.clip(pixels[strip.rows] + peak * change, 0, peak))
    return photo._replace(pixels=restored) if strip.is_worth_it else photo


def read_photo(path: str | Path) -> Photo:
    """Read a photo, with the data of its file that are kept.

    Palettes and CMYK become RGB. A colour that means "transparent" becomes an alpha channel.

    Raises:
        ValueError: if the file is damaged, is not an image, holds several pictures, has an unsupported depth, or is so
            large that restoring it would need more memory than is free.
        OSError: if it cannot be opened.
    """
    with opened_image(path, max_pixels=MAX_PIXELS) as opened:
        _refuse_several(opened)
        _refuse_too_large(opened)
        opened.load()
        return _as_photo(opened)


def has_color(photo: Photo) -> bool:
    """Whether any pixel is not gray. A photo with three equal channels is gray."""
    pixels = photo.pixels
    # Row by row, so that it can stop early and needs no second array of the photo's size.
    return pixels.ndim == 3 and any(bool((row[:, 1:] != row[:, :1]).any()) for row in pixels)


def save_photo(photo: Photo, path: str | Path, *, may_replace: bool = True) -> None:
    """Write a photo as PNG. If that fails, `path` stays as it was. Makes missing folders.

    Raises:
        FileExistsError: if there is a file at `path` and `may_replace` is false.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = photo.pixels if photo.alpha is None else np.dstack([photo.pixels, photo.alpha])
    with written_whole(path, may_replace=may_replace) as working:
        Image.fromarray(planes).save(working, format="PNG", **photo.metadata)


def _as_seen(pixels: np.ndarray, channels: int) -> torch.Tensor:
    """Pixels (h, W) or (h, W, 3) as the input of a restorer: (1, channels, h, W) in [0, 1]."""
    seen = pixels.astype(np.float32).reshape(*pixels.shape[:2], -1)  # (h, W, 1 or 3)
    seen /= np.iinfo(pixels.dtype).max
    if channels == 1 and pixels.ndim == 3:
        seen = (seen @ LUMA)[..., None]
    elif channels == 3 and pixels.ndim == 2:
        seen = np.repeat(seen, 3, axis=2)
    return torch.from_numpy(seen).permute(2, 0, 1)[None]


def _refuse_several(opened: Image.Image) -> None:
    num_pictures = getattr(opened, "n_frames", 1)
    # MPO is written by phones and cameras: a JPEG photo, then previews or the second picture of a stereo pair.
    if num_pictures > 1 and opened.format != "MPO":
        raise Unsupported(f"holds {num_pictures} pictures (an animation, or pages); only single ones are restored")


def _refuse_too_large(opened: Image.Image) -> None:
    num_pixels, in_a_row = opened.width * opened.height, opened.width * min(opened.height, TILE_PX + CHANGE_BLOCK_PX)
    needed = max(READING_BYTES * num_pixels, RESTORING_BYTES * num_pixels + ROW_BYTES * in_a_row)
    free = free_memory()
    if needed > free:
        raise Unsupported(
            f"has {opened.width}x{opened.height} pixels: restoring it takes about {needed / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free; cut it into parts"
        )


def _as_photo(opened: Image.Image) -> Photo:
    mode = opened.mode
    metadata = {key: opened.info[key] for key in _METADATA if opened.info.get(key)}
    # A PNG may have texts of these names.
    metadata = {key: value for key, value in metadata.items() if key == "dpi" or isinstance(value, bytes)}
    if not _is_writable(metadata.get("dpi")):
        metadata.pop("dpi", None)
    if mode in _FOREIGN_PROFILE:
        metadata.pop("icc_profile", None)
    height, width = opened.height, opened.width
    # Pillow gives 16-bit PNG and PGM as "I;16" or, depending on its version, as "I" with values up to 65535.
    if mode.startswith("I;16") or (mode == "I" and opened.format in ("PNG", "PPM")):
        pixels = np.empty((height, width), np.uint16)
        for rows, strip in _strips(opened):
            pixels[rows] = np.asarray(strip)
        return Photo(pixels, None, metadata)
    if mode in ("I", "F"):
        raise Unsupported("stores 32-bit numbers; save it with 8 or 16 bits a channel")
    is_gray, has_alpha = mode in ("1", "L", "LA", "La"), opened.has_transparency_data
    wanted = ("L" if is_gray else "RGB") + ("A" if has_alpha else "")
    pixels = np.empty((height, width) if is_gray else (height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if has_alpha else None
    for rows, strip in _strips(opened):
        planes = np.asarray(strip if strip.mode == wanted else strip.convert(wanted))  # (h, W), or (h, W, 2..4)
        if alpha is not None:
            alpha[rows] = planes[..., -1]
            planes = planes[..., 0] if is_gray else planes[..., :3]
        pixels[rows] = planes
    return Photo(pixels, alpha, metadata)


def _strips(opened: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """A picture in strips of rows. Converting a large picture whole would take several times its memory."""
    num_rows = max(1, STRIP_PIXELS // opened.width)
    for top in range(0, opened.height, num_rows):
        bottom = min(top + num_rows, opened.height)
        yield slice(top, bottom), opened.crop((0, top, opened.width, bottom))


def _is_writable(dpi: Any) -> bool:
    """Whether PNG can store a resolution: pixels per metre, in 31 bits. Some files say 0/0 or 4294967295."""
    try:
        per_metre = [int(value / METRES_PER_INCH + 0.5) for value in dpi]
    except (TypeError, ValueError, ArithmeticError):
        return False
    return len(per_metre) == 2 and all(0 < value < 2**31 for value in per_metre)
