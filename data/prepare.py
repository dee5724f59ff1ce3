"""Checks a benchmark or training set and puts it into the folder layout that this project reads.

    <root>/classic5/*.png   live1/*.png   bsds500/{train,val,test}/*.jpg   div2k/*.png   icb/*   twitter/*   photos/*

A set is built in a hidden folder beside its final place. Its training images are packed there. If all of that worked,
the folder is renamed; an error or Ctrl-C leaves nothing behind. `data/known_sets.py` lists the images of each set.
"""

import errno
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.archives import extract_images
from data.config import DEFAULT_PACK_DIR
from data.images import is_image_name, read_image, stored_axes
from data.known_sets import (
    KNOWN_SETS,
    Item,
    choose_all,
    choose_fixed,
    first_few,
    packed_folders,
    pixel_digest,
    places_in,
    printable,
    repeated_pictures,
    unlike_known,
)
from data.store import open_store

logger = logging.getLogger(__name__)


@dataclass
class PreparedSet:
    """A set that `prepare` made: image counts by folder, sizes, and notes."""

    name: str
    folder: Path
    counts: dict[str, int]
    megapixels: float
    megabytes: float
    notes: list[str] = field(default_factory=list)
    packed: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The summary, as lines."""
        counts = ", ".join(str(count) if key == "." else f"{key} {count}" for key, count in self.counts.items())
        size = f"{self.megapixels:.1f} megapixels, {self.megabytes:.1f} MB"
        return [f"{self.name}: {counts} images, {size}, in {self.folder}", *self.notes, *self.packed]


def prepare(
    name: str,
    sources: str | Path | Sequence[str | Path],
    *,
    root: str | Path = "datasets",
    link: bool = False,
    force: bool = False,
    pack_dir: str | Path = DEFAULT_PACK_DIR,
) -> PreparedSet:
    """Make the set `<root>/<name>` from folders or archives.

    Args:
        name: one of `KNOWN_SETS`.
        sources: a folder, .zip, .tar or .tgz, or several of them. All their subfolders are searched.
        root: folder of all sets.
        link: make symbolic links instead of copies; only for folders. Images that must be converted are written.
        force: replace a set that exists.
        pack_dir: folder for the memory-mapped arrays of training images.

    Raises:
        ValueError, OSError: one line that says what is missing, broken or in the way. An existing set stays as it was.
    """
    sources = [Path(source) for source in ([sources] if isinstance(sources, (str, Path)) else sources)]
    target = Path(root) / name
    check_target(name, root, force=force)
    _check_sources(sources, target, link)
    _check_pack_dir(Path(pack_dir), target)
    with _working_folder(Path(root), name) as working:
        files = [file for index, source in enumerate(sources) for file in _find(source, working / f"source{index}")]
        if not files:
            raise ValueError(f"{_names(sources)} holds no images")
        items, notes = choose_fixed(name, files) if (fixed := places_in(name)) else (choose_all(files), [])
        missing = sorted(set(fixed.values()) - {item.place for item in items}) if fixed else []
        made = _build(name, items, working, link=link, missing=missing, described=_names(sources))
        made.notes[:0] = notes
        made.folder = target
        # Packed before the swap: if the disk is full or somebody presses Ctrl-C, the old set is still in place.
        for inner in packed_folders(name):
            _pack(working / "set", target, inner, pack_dir)
            made.packed.append(f"{(target / inner).as_posix()} is packed for training in {pack_dir}")
        _swap_in(working / "set", target, working)
    return made


def check_target(name: str, root: str | Path, *, force: bool) -> None:
    """Refuse an unknown set, and, without `force`, a set that exists.

    Raises:
        ValueError: for an unknown name.
        FileExistsError: if `<root>/<name>` exists.
    """
    if name not in KNOWN_SETS:
        raise ValueError(f"unknown set {name!r}; the sets are {', '.join(KNOWN_SETS)}")
    target = Path(root) / name
    if os.path.lexists(target) and not force:
        raise FileExistsError(f"{target} is there already; give --force to replace it")


def _check_sources(sources: list[Path], target: Path, link: bool) -> None:
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source} does not exist; give a folder, .zip, .tar or .tgz of images")
        if link and not source.is_dir():
            raise ValueError(f"only a folder can be linked, and {source} is a file; copy its images instead")
        inner, outer = source.resolve(), target.resolve()
        if target.exists() and (inner.is_relative_to(outer) or outer.is_relative_to(inner)):
            raise ValueError(f"{source} and the set {target} to be replaced overlap; give a source outside of it")


def _check_pack_dir(pack_dir: Path, target: Path) -> None:
    if pack_dir.resolve().is_relative_to(target.resolve()):
        raise ValueError(f"the pack folder {pack_dir} lies in the set {target} itself; choose one outside of it")


@contextmanager
def _working_folder(root: Path, name: str) -> Iterator[Path]:
    """A hidden folder in `root`, on the file system of the set. It is removed at the end, even after an error."""
    is_new_root = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(prefix=f".{name}-unfinished-", dir=root))
    try:
        yield working
    finally:
        shutil.rmtree(working, ignore_errors=True)
        if is_new_root and not any(root.iterdir()):
            root.rmdir()


def _find(source: Path, unpacked: Path) -> list[Path]:
    """Image files of one source, sorted. Hidden files and folders are skipped. An archive is unpacked first."""
    if not source.is_dir():
        extract_images(source, unpacked)
        source = unpacked
    found, seen = [], set()
    for folder, inner, names in os.walk(source, onerror=_say_left_out, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a link to a parent folder would never end
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(each for each in inner if not each.startswith((".", "__MACOSX")))
        images = [Path(folder, each) for each in sorted(names) if is_image_name(Path(each))]
        # A link to a missing file is kept, to be reported as broken. Pipes and devices are not: reading may never end.
        found += [path for path in images if os.path.isfile(path) or not os.path.exists(path)]
    return found


def _say_left_out(error: OSError) -> None:
    logger.warning("%s cannot be read (%s) and is left out", printable(str(error.filename)), error.strerror)


def _build(
    name: str, items: list[Item], working: Path, *, link: bool, missing: list[str], described: str
) -> PreparedSet:
    """Read and check every image and put it below `working`/set. One error names all that is missing or broken."""
    built, broken, digests, num_pixels = working / "set", [], {}, 0
    for item in tqdm(items, desc=f"checking {name}", unit="image", disable=None, leave=False):
        try:
            image = _as_published(name, read_image(item.source), item.source)
        except (ValueError, FileNotFoundError, PermissionError) as error:
            message = printable(str(error).replace(f"{working}{os.sep}", ""))
            broken.append(message.removesuffix("; replace or remove the file"))
            continue
        digests[item.place] = pixel_digest(image)
        num_pixels += image.shape[0] * image.shape[1]
        _put(name, item, image, working, link=link)
    if missing or broken:
        raise ValueError(f"{name} cannot be made from {described}: {_complaint(missing, broken)}; nothing was written")
    counts = Counter(Path(item.place).parent.as_posix() for item in items)
    num_bytes = sum(path.stat().st_size for path in built.rglob("*") if path.is_file())
    made = PreparedSet(name, built, {}, num_pixels / 1e6, num_bytes / 1e6)
    made.counts = {folder.place: counts[folder.place] for folder in KNOWN_SETS[name].folders}
    made.notes += repeated_pictures(name, digests) + unlike_known(name, digests)
    if any(folder.use == "scores" and folder.num_images is None for folder in KNOWN_SETS[name].folders):
        made.notes.append(f"note: the paper gives no count for {name}; only readability was checked")
    return made


def _pack(built: Path, target: Path, inner: str, pack_dir: str | Path) -> None:
    """Pack the folder `built`/`inner` so that the pack is found for `target`/`inner`, its path after the swap."""
    try:
        # `target` may be a link, and the swap replaces that link. So only its parent is resolved.
        open_store(built / inner, pack_dir, final_folder=target.parent.resolve() / target.name / inner)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error
        raise OSError(f"{target} could not be packed in {pack_dir} ({reason}); the set is as it was before") from error
    except ValueError as error:
        raise ValueError(str(error).replace(str(built), str(target))) from error


def _as_published(name: str, image: np.ndarray, source: Path) -> np.ndarray:
    """The image with one channel if the set is gray. Raises ValueError if it is in colour then."""
    if not KNOWN_SETS[name].is_gray or image.ndim == 2:
        return image
    if (image != image[:, :, :1]).any():
        raise ValueError(f"{source} is in colour, and {name} is distributed in gray; use the gray file")
    return image[:, :, 0]  # (H, W, 3) -> (H, W)


def _put(name: str, item: Item, image: np.ndarray, working: Path, *, link: bool) -> None:
    """Put one image into the set: link, copy or convert to PNG as the set needs; images of an archive are moved."""
    built = working / "set"
    suffix = item.source.suffix.lower()
    if KNOWN_SETS[name].is_png and (suffix != ".png" or stored_axes(item.source) != image.ndim):
        target = built / f"{item.place}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(target)
        return
    target = built / f"{item.place}{suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if working in item.source.parents:
        os.replace(item.source, target)
    elif link:
        target.symlink_to(item.source.resolve())
    else:
        shutil.copyfile(item.source, target)


def _complaint(missing: list[str], broken: list[str]) -> str:
    parts = [f"{len(missing)} missing ({first_few(missing)})"] if missing else []
    return ", ".join(parts + ([f"{len(broken)} broken ({first_few(broken)})"] if broken else []))


def _names(sources: list[Path]) -> str:
    return " + ".join(map(str, sources))


def _swap_in(built: Path, target: Path, working: Path) -> None:
    """Rename the finished set into place. An older set is moved away first, and moved back if the rename fails."""
    if not os.path.lexists(target):
        os.rename(built, target)
        return
    old = working / "old"  # removed with the working folder
    try:
        os.rename(target, old)
        os.rename(built, target)
    except BaseException:  # includes Ctrl-C between the two renames
        if os.path.lexists(old) and not os.path.lexists(target):
            os.rename(old, target)
        raise
