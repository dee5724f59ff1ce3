"""Bringing a benchmark or training set into the layout that everything here reads, checked on the way.

    <root>/classic5/*.png   live1/*.png   bsds500/{train,val,test}/*.jpg   div2k/*.png   icb/*   twitter/*   photos/*

A set is built in a hidden folder beside its final place, packed if it is for training, and renamed when all of that has
worked: an error or Ctrl-C leaves nothing behind. `data/known_sets.py` knows what belongs to which set.
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
    """What `prepare` made: image counts by folder, sizes, and remarks that do not stop the work."""

    name: str
    folder: Path
    counts: dict[str, int]
    megapixels: float
    megabytes: float
    notes: list[str] = field(default_factory=list)
    packed: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The summary, one finding a line."""
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
        sources: a folder, .zip, .tar or .tgz, or several of them; searched with all subfolders.
        link: make symbolic links instead of copies (folders only). Images that must be converted are written anyway.
        force: replace a set that is already there.
        pack_dir: where the training sets are packed into memory-mapped arrays.

    Raises:
        ValueError, OSError: one line with what is missing, broken or in the way. The set is then as it was before.
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
        # Before the swap, so that the old set needs no way back when the disk is full or somebody presses Ctrl-C.
        for inner in packed_folders(name):
            _pack(working / "set", target, inner, pack_dir)
            made.packed.append(f"{(target / inner).as_posix()} is packed for training in {pack_dir}")
        _swap_in(working / "set", target, working)
    return made


def check_target(name: str, root: str | Path, *, force: bool) -> None:
    """Refuse an unknown set, and one that is there already unless `force` is given.

    Raises:
        ValueError: for an unknown name.
        FileExistsError: if `<root>/<name>` exists.
    """
    if name not in KNOWN_SETS:
        raise ValueError(f"unknown set {name!r}; the sets are {', '.join(KNOWN_SETS)}")
    target = Path(root) / name
    if os.path.lexists(target) and not force:
        raise FileExistsError(f"{target} is there already; add --force to replace it")


def _check_sources(sources: list[Path], target: Path, link: bool) -> None:
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source} does not exist; give a folder, .zip, .tar or .tgz of images")
        if link and not source.is_dir():
            raise ValueError(f"--link needs a folder, and {source} is a file; leave --link out to copy from an archive")
        inner, outer = source.resolve(), target.resolve()
        if target.exists() and (inner.is_relative_to(outer) or outer.is_relative_to(inner)):
            raise ValueError(f"{source} and the set {target} to be replaced overlap; give a source outside of it")


def _check_pack_dir(pack_dir: Path, target: Path) -> None:
    if pack_dir.resolve().is_relative_to(target.resolve()):
        raise ValueError(f"the pack folder {pack_dir} lies in the set {target} itself; choose one outside of it")


@contextmanager
def _working_folder(root: Path, name: str) -> Iterator[Path]:
    """A hidden folder in `root`, on the same file system as the set, removed at the end however it comes."""
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
    """Image files of one source, sorted, hidden files and folders left out. An archive is unpacked first."""
    if not source.is_dir():
        extract_images(source, unpacked)
        source = unpacked
    found, seen = [], set()
    for folder, inner, names in os.walk(source, onerror=_say_left_out, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a link back up would never end
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(each for each in inner if not each.startswith((".", "__MACOSX")))
        images = [Path(folder, each) for each in sorted(names) if is_image_name(Path(each))]
        # A link that leads nowhere is kept and reported as broken. A pipe or a device is not: reading it may never end.
        found += [path for path in images if os.path.isfile(path) or not os.path.exists(path)]
    return found


def _say_left_out(error: OSError) -> None:
    logger.warning("%s cannot be read (%s) and is left out", printable(str(error.filename)), error.strerror)


def _build(
    name: str, items: list[Item], working: Path, *, link: bool, missing: list[str], described: str
) -> PreparedSet:
    """Read, check and place every image below `working`/set; raise one line for all that is missing and broken."""
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
    """Pack `built`/`inner` as what it will be after the swap, `target`/`inner`."""
    try:
        # `target` itself may be a link, which the swap replaces.
        open_store(built / inner, pack_dir, final_folder=target.parent.resolve() / target.name / inner)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error
        raise OSError(f"{target} could not be packed in {pack_dir} ({reason}); the set is as it was before") from error
    except ValueError as error:
        raise ValueError(str(error).replace(str(built), str(target))) from error


def _as_published(name: str, image: np.ndarray, source: Path) -> np.ndarray:
    """A copy of a gray set stored as RGB with three equal channels is taken back to one."""
    if not KNOWN_SETS[name].is_gray or image.ndim == 2:
        return image
    if (image != image[:, :, :1]).any():
        raise ValueError(f"{source} is in colour, and {name} is distributed in gray; use the gray file")
    return image[:, :, 0]  # (H, W, 3) -> (H, W)


def _put(name: str, item: Item, image: np.ndarray, working: Path, *, link: bool) -> None:
    """Place one image: linked, moved (when it was unpacked for us), copied, or written as PNG where the set has PNG."""
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
    """Rename the finished set into place; an older one steps aside first and comes back if the rename fails."""
    if not os.path.lexists(target):
        os.rename(built, target)
        return
    old = working / "old"  # removed with the working folder
    try:
        os.rename(target, old)
        os.rename(built, target)
    except BaseException:  # Ctrl-C too, which may come between the two
        if os.path.lexists(old) and not os.path.lexists(target):
            os.rename(old, target)
        raise
