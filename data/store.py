"""Training images, decoded once into one memory-mapped uint8 file. A crop then needs no image decoding.

A pack is a folder `<pack_dir>/<name>-<digest>/`. Its `pixels.bin` holds the RGB images one after the other, its
`index.json` their file names, sizes, offsets and checksums. The digest covers names, sizes and times of the source
files, so photos that have changed are packed again. A file that could not be read keeps its place, without pixels.
"""

import copy
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from common.files import flush_to_disk, full_disk_named
from common.machine import usable_cores
from data.config import DEFAULT_PACK_DIR
from data.images import list_images, read_rgb

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
_WORKING = f".packing-{socket.gethostname()}-"  # begins the name of a folder that this machine is writing


class BrokenImage(ValueError):
    """An image has no pixels, or other ones than were packed. The others of the pack may be fine."""


class PixelStore:
    """Read-only RGB images of one pack. Item i is an (H, W, 3) uint8 view into the memory map.

    The checksum of an image is compared when this process first reads it. Reading an item raises BrokenImage if it
    differs, or if the image's file could not be read when the pack was made.

    Raises:
        ValueError: if the pack is damaged; the message names its folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            index = json.loads((self.folder / "index.json").read_text())
            self.names: list[str] = index["names"]
            self.shapes: list[tuple[int, int]] = [tuple(shape) for shape in index["shapes"]]
            self.unreadable: dict[str, str] = index.get("unreadable", {})  # why, by name; these have the shape (0, 0)
            self._offsets: list[int] = index["offsets"]
            self._sums: list[int | None] = index.get("crc32", [None] * len(self.names))  # packs of older versions
            num_bytes = (self.folder / "pixels.bin").stat().st_size
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise _damaged(self.folder) from error
        if num_bytes != sum(3 * height * width for height, width in self.shapes):
            raise _damaged(self.folder)
        self._pixels: np.ndarray | None = None
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        if self._pixels is None:  # each worker process of a loader opens the map itself
            self._pixels = np.memmap(self.folder / "pixels.bin", dtype=np.uint8, mode="r")
        height, width = self.shapes[index]
        start = self._offsets[index]
        image = self._pixels[start : start + height * width * 3].reshape(height, width, 3)
        if index not in self._checked:
            self._check(index, image)
            self._checked.add(index)
        return image

    def file_of(self, index: int) -> str:
        """The set and the file name of an image, for messages."""
        return f"{self.folder.name.rpartition('-')[0]}/{self.names[index]}"

    def _check(self, index: int, image: np.ndarray) -> None:
        if (reason := self.unreadable.get(self.names[index])) is not None:
            raise BrokenImage(reason)
        if self._sums[index] not in (None, zlib.crc32(image)):
            raise BrokenImage(
                f"the packed pixels of {self.file_of(index)} have changed since they were packed; "
                f"remove {self.folder}, it is made again"
            )

    def first(self, count: int | None) -> "PixelStore":
        """The same pack with only its first `count` images; None means all."""
        part = copy.copy(self)
        part.names, part.shapes = self.names[:count], self.shapes[:count]
        return part

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_pixels": None}


def open_store(
    folder: str | Path,
    pack_dir: str | Path = DEFAULT_PACK_DIR,
    *,
    final_folder: str | Path | None = None,
    skips_unreadable: bool = False,
) -> PixelStore:
    """The packed images of a folder. They are packed now if there is no pack, or an outdated one.

    Several processes may call this at once, also on several machines. One packs and the others wait for it, however
    long that takes. If it is killed, the next one packs.

    Args:
        folder: folder of images.
        pack_dir: folder of the packs.
        final_folder: absolute path, without links, that `folder` will be renamed to later. The pack is then found
            under that path.
        skips_unreadable: pack the other images if some cannot be read; see `PixelStore`.

    Raises:
        FileNotFoundError: if the folder is missing.
        ValueError: if it holds no image that can be read; or, unless they are skipped, one that cannot. It is named,
            and nothing is left behind.
    """
    paths = list_images(folder)
    present = Path(folder).resolve()
    final = present if final_folder is None else Path(final_folder)
    target = Path(pack_dir) / f"{final.name}-{_digest(paths, present, final)}"
    described = paths[0].parent if final_folder is None else final
    if not (target / "index.json").exists():
        with _packing_alone(target.parent):
            if not (target / "index.json").exists():  # another process may just have made it
                _pack(paths, target, described, skips_unreadable=skips_unreadable)
    store = PixelStore(target)
    if store.unreadable and not skips_unreadable:
        raise ValueError(next(iter(store.unreadable.values())))
    return store


def _damaged(folder: Path) -> ValueError:
    return ValueError(f"the packed images in {folder} are damaged or cut off; remove this folder, it is made again")


def _digest(paths: list[Path], present: Path, final: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        status, place = path.stat(), path.resolve()
        if place.parent == present:  # a link points to another folder, whose files stay where they are
            place = final / place.name
        digest.update(f"{place}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


@contextmanager
def _packing_alone(pack_dir: Path) -> Iterator[None]:
    """Let one process at a time pack. The system releases the lock of a killed one, and what it left is removed."""
    pack_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(pack_dir / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("waiting for another process that packs images into %s", pack_dir)
        lock.acquire()
    try:
        # Eight characters follow. Those of a machine whose longer name begins as this one's have more.
        for left in pack_dir.glob(f"{_WORKING}{'?' * 8}"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


def _pack(paths: list[Path], target: Path, described: Path, *, skips_unreadable: bool) -> None:
    working = Path(tempfile.mkdtemp(prefix=_WORKING, dir=target.parent))
    try:
        with full_disk_named(target):
            index = _write_pixels(paths, working / "pixels.bin", described, skips_unreadable=skips_unreadable)
            (working / "index.json").write_text(json.dumps(index))
            working.chmod(0o755)  # mkdtemp sets 0700, but other users may share the folder
            flush_to_disk(working)
            try:
                os.rename(working, target)
            except OSError:  # some network file systems know no locks, so another machine may have been first
                if not (target / "index.json").exists():
                    raise
            flush_to_disk(target.parent, is_deep=False)
        size = (target / "pixels.bin").stat().st_size / 1e6
        logger.info("packed %d images of %s, %.0f MB, into %s", len(paths), described, size, target)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def _write_pixels(paths: list[Path], target: Path, described: Path, *, skips_unreadable: bool) -> dict:
    """Decode the files into one file; returns the pack's index."""
    names, shapes, offsets, sums, unreadable = [], [], [], [], {}
    with open(target, "wb") as file:
        decoded = zip(paths, _decoded(paths), strict=True)
        options = {"total": len(paths), "unit": "image", "disable": None, "leave": False}
        for path, pixels in tqdm(decoded, desc=f"packing {described.name}", **options):
            if isinstance(pixels, Exception):
                if not skips_unreadable:
                    raise pixels
                unreadable[path.name] = " ".join(str(pixels).split())
                logger.warning("left out: %s", unreadable[path.name])
                pixels = np.empty((0, 0, 3), np.uint8)
            names.append(path.name)
            shapes.append(pixels.shape[:2])
            offsets.append(file.tell())
            sums.append(zlib.crc32(pixels))
            file.write(pixels.data)
    if len(unreadable) == len(paths):
        raise ValueError(f"{described} holds no image that can be read: {unreadable[names[0]]}")
    return {"names": names, "shapes": shapes, "offsets": offsets, "crc32": sums, "unreadable": unreadable}


def _decoded(paths: Sequence[Path]) -> Iterator[np.ndarray | ValueError | OSError]:
    """The pixels of the files in order, or why one cannot be read. Threads decode: Pillow lets go of Python's lock."""

    def decoded(path: Path) -> np.ndarray | ValueError | OSError:
        try:
            return np.ascontiguousarray(read_rgb(path))
        except (ValueError, OSError) as error:
            return error

    num_threads = usable_cores()
    with ThreadPoolExecutor(num_threads) as pool:
        for first in range(0, len(paths), num_threads):  # so that memory holds no more than these images
            yield from pool.map(decoded, paths[first : first + num_threads])
