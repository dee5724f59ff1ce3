"""The image sets that are known by name, and the images of each. A new set is an entry in `KNOWN_SETS`.

`known_sets.json` holds SHA-256 digests of decoded pixels. They show when an image is a wrong version.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from data.images import read_image
from data.splits import BSDS500_SPLITS, bsds500_stems

# Other places name the images of Classic5 by their scenes.
CLASSIC5_NAMES = {
    "baboon": "1", "barbara": "2", "boats": "3", "boat": "3", "lena": "4", "lenna": "4", "peppers": "5", "pepper": "5",
}  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """One folder of a set.

    Args:
        use: the purpose of its images. "scores": scores on them are reported. "choosing": they are for choosing between
            networks, and scores on them are never reported. "training": `prepare` packs them for training.
        place: path of the folder inside the set; "." is the set itself.
        num_images: how many images there are; None if no number is published.
        split: of `data.splits`; images of another split are refused. None: no images are refused.
    """

    use: Literal["scores", "choosing", "training"]
    place: str = "."
    num_images: int | None = None
    split: str | None = None


@dataclass(frozen=True)
class KnownSet:
    """All that is known about a set.

    Its pixels are compared with `known_sets.json`, if the set is in there. The digests are of images or of folders.

    Args:
        folders: the folders of its images; at most one of them is for scores.
        places: a function that returns {file stem in lower case: place in the set}. One image may be known by several
            stems. The set needs an image for every place, and takes no others. None: the set takes any image.
        is_png: its images are written as PNG, whatever format they come in.
        is_gray: its images are gray; a copy that is stored as RGB is changed back to one channel.
        addresses: URLs of the archives that its owner publishes.
        source: where to get it, if it has no address.
    """

    folders: tuple[Folder, ...]
    places: Callable[[], dict[str, str]] | None = None
    is_png: bool = False
    is_gray: bool = False
    addresses: tuple[str, ...] = ()
    source: str = ""


KNOWN_SETS = {
    "classic5": KnownSet(
        (Folder("scores", num_images=5),),
        places=lambda: _as_named(known_digests()["classic5"]) | CLASSIC5_NAMES,
        is_png=True,
        is_gray=True,
        source="it comes with the code of DnCNN and of FBCNN (github.com/cszn/DnCNN, folder testsets)",
    ),
    "live1": KnownSet(
        (Folder("scores", num_images=29),),
        places=lambda: _as_named(known_digests()["live1"]),
        is_png=True,
        source="the LIVE laboratory, University of Texas at Austin, hands out its image quality database on request",
    ),
    "bsds500": KnownSet(
        (
            Folder("training", "train", 200, split="train"),
            Folder("choosing", "val", 100, split="val"),
            Folder("scores", "test", 200, split="test"),
        ),
        places=lambda: {stem: f"{split}/{stem}" for split in BSDS500_SPLITS for stem in bsds500_stems(split)},
        addresses=("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",),
    ),
    "div2k": KnownSet(
        (Folder("training", num_images=900),),
        places=lambda: _as_named(f"{number:04d}" for number in range(1, 901)),  # 800 training, then 100 validation
        addresses=(
            "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip",
            "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_valid_HR.zip",
        ),
    ),
    "icb": KnownSet(
        (Folder("scores"),),
        source="it is the Image Compression Benchmark of imagecompression.info",
    ),
    "twitter": KnownSet(
        (Folder("scores"),),
        source="it comes with ARCNN, from its authors' project page at the Chinese University of Hong Kong",
    ),
    "photos": KnownSet(
        (Folder("training"),),
        source="it is any folder of your own photos",
    ),
}


@dataclass(frozen=True)
class Item:
    """An image to put into a set: its file, and its place in the set, without suffix."""

    source: Path
    place: str


def pixel_digest(image: np.ndarray) -> str:
    """SHA-256 of shape and pixels of a uint8 image, in hex. It does not depend on the file format."""
    digest = hashlib.sha256(("x".join(map(str, image.shape)) + "\n").encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def split_digest(digests: dict[str, str]) -> str:
    """One digest for many images, from {stem: pixel digest}. The order of the dictionary does not matter."""
    return hashlib.sha256("".join(f"{stem} {digests[stem]}\n" for stem in sorted(digests)).encode()).hexdigest()


class MeasuredFolder(NamedTuple):
    """A folder whose images are scored."""

    path: str  # below the data root
    folder: Folder


def measured_folders() -> dict[str, MeasuredFolder]:
    """The folders that are scored, by name: SET for scores that are reported, SET/FOLDER for choosing."""
    return {
        name if folder.use == "scores" else _path_of(name, folder): MeasuredFolder(_path_of(name, folder), folder)
        for name, known in KNOWN_SETS.items()
        for folder in sorted(known.folders, key=lambda folder: folder.use != "scores")
        if folder.use in ("scores", "choosing")
    }


def packed_folders(name: str) -> list[str]:
    """The places in a set of the folders that are packed for training."""
    return [folder.place for folder in KNOWN_SETS[name].folders if folder.use == "training"]


@cache
def known_digests() -> dict[str, dict[str, str]]:
    """Digests by set, then by place of an image or of a folder."""
    return json.loads((Path(__file__).parent / "known_sets.json").read_text(encoding="utf-8"))


def known_gray_digests() -> set[str]:
    """Pixel digests of all images of the gray sets."""
    gray = (known_digests().get(name, {}) for name, known in KNOWN_SETS.items() if known.is_gray)
    return {digest for digests in gray for digest in digests.values()}


def places_in(name: str) -> dict[str, str]:
    """{file stem in lower case: place in the set}; empty if the set takes any image."""
    places = KNOWN_SETS[name].places
    return places() if places else {}


def choose_fixed(name: str, files: list[Path]) -> tuple[list[Item], list[str]]:
    """The files of a set with known names, and notes about the others.

    Raises:
        ValueError: if several files have the name of one image, and their pixels differ.
    """
    places, offered = places_in(name), {}
    folders = {folder.place for folder in KNOWN_SETS[name].folders}
    for file in files:
        if place := places.get(file.stem.lower()):
            offered.setdefault(place, []).append(file)
    items, num_moved = [], 0
    for place, candidates in sorted(offered.items()):
        # Berkeley's archive has copies of some images as examples. The original is in the folder of its split.
        split = place.rpartition("/")[0]
        in_split = [file for file in candidates if split and file.parent.name == split]
        chosen = _agreed(in_split or candidates, f"{name} {place}")
        num_moved += chosen.parent.name in folders and bool(split) and not in_split
        items.append(Item(chosen, place))
    notes = []
    if num_moved:
        notes.append(f"note: {num_moved} images lay in another split's folder; the published file lists decide")
    if num_left := len(files) - sum(map(len, offered.values())):
        notes.append(f"note: {num_left} other images of the source were left out")
    return items, notes


def _agreed(candidates: list[Path], what: str) -> Path:
    """The first of several files for one place. Raises ValueError if their pixels differ."""
    first, *others = candidates
    for other in others:
        if pixel_digest(read_image(other)) != pixel_digest(read_image(first)):
            both = printable(f"{first} and {other}")
            raise ValueError(f"{both} both claim to be {what}, with different pixels; remove one of them")
    return first


def choose_all(files: list[Path]) -> list[Item]:
    """Give each file its own stem as its place. If several have one stem, add the folders in front, or the suffix."""
    stems = Counter(file.stem.lower() for file in files)
    common = os.path.commonpath([file.parent.absolute() for file in files])
    items, taken = [], set()
    for file in files:
        # If the source itself is a hidden folder, the name starts with a dot, which would hide the image in the set.
        inner = "_".join(file.absolute().relative_to(common).with_suffix("").parts).lstrip(".")
        names = [inner, f"{inner}_{file.suffix[1:]}"] if stems[file.stem.lower()] > 1 else [file.stem]
        free = [name for name in names if name.lower() not in taken]
        if not free:
            raise ValueError(f"{printable(str(file))} has the same name as another image of the source; rename it")
        taken.add(free[0].lower())
        items.append(Item(file, free[0]))
    return items


def repeated_pictures(name: str, digests: dict[str, str]) -> list[str]:
    """Look for equal pictures. Raises ValueError in a set with known names; returns warnings for other sets."""
    places: dict[str, list[str]] = {}
    for place, digest in digests.items():
        places.setdefault(digest, []).append(place)
    repeated = [" = ".join(same) for same in places.values() if len(same) > 1]
    if repeated and places_in(name):
        raise ValueError(f"{name} holds the same picture under several names: {first_few(repeated)}; use a sound copy")
    return [f"warning: the same picture under several names: {first_few(repeated)}"] if repeated else []


def unlike_known(name: str, digests: dict[str, str]) -> list[str]:
    """Warnings: a set's pixels are not the known ones, or training images include benchmark images."""
    known = known_digests().get(name)
    if not known:
        return _leaked(digests) if packed_folders(name) else []
    if not _is_by_folder(name):
        unlike = [place for place, digest in digests.items() if known.get(place, digest) != digest]
        remark = f": {first_few(unlike)}; scores may differ"
    else:
        by_folder: dict[str, dict[str, str]] = {folder: {} for folder in known}
        for place, digest in digests.items():
            folder, _, stem = place.rpartition("/")
            by_folder[folder][stem] = digest
        unlike = [folder for folder in known if split_digest(by_folder[folder]) != known[folder]]
        remark = f" {', '.join(unlike)} (JPEG decoders may differ by a level)"
    return [f"warning: other pixels than the known copy of {name}{remark}"] if unlike else []


def _leaked(digests: dict[str, str]) -> list[str]:
    by_image = [known for name, known in known_digests().items() if not _is_by_folder(name)]
    benchmarks = {digest for known in by_image for digest in known.values()}
    leaked = [place for place, digest in digests.items() if digest in benchmarks]
    return [f"warning: benchmark images among the training images: {first_few(leaked)}; remove them"] if leaked else []


def _is_by_folder(name: str) -> bool:
    return set(known_digests()[name]) <= {folder.place for folder in KNOWN_SETS[name].folders}


def _as_named(stems: Iterable[str]) -> dict[str, str]:
    """{stem: place} for images whose place is their stem."""
    return {stem: stem for stem in stems}


def _path_of(name: str, folder: Folder) -> str:
    return name if folder.place == "." else f"{name}/{folder.place}"


def first_few(names: Sequence[str], num_shown: int = 3) -> str:
    more = f" and {len(names) - num_shown} more" if len(names) > num_shown else ""
    return ", ".join(map(printable, names[:num_shown])) + more


def printable(text: str) -> str:
    """The text on one line. Line breaks, control characters and bytes that are not UTF-8 become backslash escapes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
