"""Training images, decoded once into one memory-mapped uint8 file. A crop then needs no image decoding.

A pack is a folder `<pack_dir>/<name>-<digest>/`. Its `pixels.bin` holds the RGB images one after the other, its
`index.json` their file names, sizes and offsets. The digest covers names, sizes and times of the source files, so
photos that have changed are packed again.
"""

import copy
import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.config import DEFAULT_PACK_DIR
from data.images import list_images, read_rgb

logger = logging.getLogger(__name__)


class PixelStore:
    """Read-only RGB images of one pack. Item i is an (H, W, 3) uint8 view into the memory map.

    Raises:
        ValueError: if the pack is damaged; the message names its folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            index = json.loads((self.folder / "index.json").read_text())
            self.names: list[str] = index["names"]
            self.shapes: list[tuple[int, int]] = [tuple(shape) for shape in index["shapes"]]
            self._offsets: list[int] = index["offsets"]
            num_bytes = (self.folder / "pixels.bin").stat().st_size
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise _damaged(self.folder) from error
        if num_bytes != sum(3 * height * width for height, width in self.shapes):
            raise _damaged(self.folder)
        self._pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        if self._pixels is None:  # each worker process of a loader opens the map itself
            self._pixels = np.memmap(self.folder / "pixels.bin", dtype=np.uint8, mode="r")
        height, width = self.shapes[index]
        start = self._offsets[index]
        return self._pixels[start : start + height * width * 3].reshape(height, width, 3)

    def first(self, count: int | None) -> "PixelStore":
        """The same pack with only its first `count` images; None means all."""
        part = copy.copy(self)
        part.names, part.shapes, part._offsets = self.names[:count], self.shapes[:count], self._offsets[:count]
        return part

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_pixels": None}


def open_store(
    folder: str | Path, pack_dir: str | Path = DEFAULT_PACK_DIR, *, final_folder: str | Path | None = None
) -> PixelStore:
    """The packed images of a folder. They are packed now if there is no pack, or an outdated one.

    Several processes may call this at once. Each writes a temporary folder, and the first to rename it wins.

    Args:
        folder: folder of images.
        pack_dir: folder of the packs.
        final_folder: absolute path, without links, that `folder` will be renamed to later. The pack is then found
            under that path.

    Raises:
        FileNotFoundError: if the folder is missing.
        ValueError: if it holds no image, or one that cannot be read; it is named, and nothing is left behind.
    """
    paths = list_images(folder)
    present = Path(folder).resolve()
    final = present if final_folder is None else Path(final_folder)
    target = Path(pack_dir) / f"{final.name}-{_digest(paths, present, final)}"
    if not (target / "index.json").exists():
        _pack(paths, target, paths[0].parent if final_folder is None else final)
    return PixelStore(target)


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


def _pack(paths: list[Path], target: Path, described: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        names, shapes, offsets, position = [], [], [], 0
        with open(working / "pixels.bin", "wb") as file:
            for path in tqdm(paths, desc=f"packing {described.name}", unit="image", disable=None, leave=False):
                pixels = read_rgb(path)
                names.append(path.name)
                shapes.append(pixels.shape[:2])
                offsets.append(position)
                position += file.write(np.ascontiguousarray(pixels).data)
        (working / "index.json").write_text(json.dumps({"names": names, "shapes": shapes, "offsets": offsets}))
        working.chmod(0o755)  # mkdtemp sets 0700, but other users may share the folder
        try:
            os.rename(working, target)
        except OSError:
            if not (target / "index.json").exists():
                raise
        else:
            logger.info("packed %d images of %s, %.0f MB, into %s", len(names), described, position / 1e6, target)
    finally:
        shutil.rmtree(working, ignore_errors=True)
