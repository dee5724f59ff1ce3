"""Which images a set consists of: names and counts, the same image under another name, known pixels.

`known_sets.json` holds SHA-256 digests of decoded pixels, by which a wrong version of an image is noticed.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from data.images import read_image
from data.splits import BSDS500_SPLITS, bsds500_split, bsds500_stems

SET_NAMES = ("classic5", "live1", "bsds500", "div2k", "icb", "twitter", "photos")
TRAINING_FOLDERS = {"bsds500": ("train",), "div2k": (".",), "photos": (".",)}  # the ones that are packed
UNCOUNTED = ("icb", "twitter")  # named in the paper, without a count to check against
# Classic5 goes by scene names elsewhere.
CLASSIC5_NAMES = {
    "baboon": "1", "barbara": "2", "boats": "3", "boat": "3", "lena": "4", "lenna": "4", "peppers": "5", "pepper": "5",
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One image on its way: where it is, and where it goes inside the set (without suffix for the fixed sets)."""

    source: Path
    place: str


def pixel_digest(image: np.ndarray) -> str:
    """SHA-256 over shape and pixels of a uint8 image, in hex: equal for equal pictures, whatever the file format."""
    digest = hashlib.sha256(("x".join(map(str, image.shape)) + "\n").encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def split_digest(digests: dict[str, str]) -> str:
    """One digest for many images, from stem -> pixel digest; the order of the dictionary does not matter."""
    return hashlib.sha256("".join(f"{stem} {digests[stem]}\n" for stem in sorted(digests)).encode()).hexdigest()


@cache
def known_sets() -> dict[str, dict[str, str]]:
    """Pixel digests: by image for classic5 and live1, by split for bsds500."""
    return json.loads((Path(__file__).parent / "known_sets.json").read_text(encoding="utf-8"))


def places_in(name: str) -> dict[str, str]:
    """Stem in the wild, lower case -> place in the set; empty for the sets that take any image."""
    if name == "classic5":
        return {stem: stem for stem in known_sets()[name]} | CLASSIC5_NAMES
    if name == "live1":
        return {stem: stem for stem in known_sets()[name]}
    if name == "bsds500":
        return {stem: f"{split}/{stem}" for split in BSDS500_SPLITS for stem in bsds500_stems(split)}
    if name == "div2k":
        return {f"{number:04d}": f"{number:04d}" for number in range(1, 901)}  # 800 training, then 100 validation
    return {}


def choose_fixed(name: str, files: list[Path]) -> tuple[list[Item], list[str]]:
    """The files that a set with known names consists of; files in the way of no name are counted and left."""
    places, offered = places_in(name), {}
    for file in files:
        if place := places.get(file.stem.lower()):
            offered.setdefault(place, []).append(file)
    items, num_moved = [], 0
    for place, candidates in sorted(offered.items()):
        # Berkeley's archive repeats some images as examples; the one in its split's folder is the original.
        split = place.rpartition("/")[0]
        in_split = [file for file in candidates if split and file.parent.name == split]
        chosen = _agreed(in_split or candidates, f"{name} {place}")
        num_moved += chosen.parent.name in BSDS500_SPLITS and bool(split) and not in_split
        items.append(Item(chosen, place))
    notes = []
    if num_moved:
        notes.append(f"note: {num_moved} images lay in another split's folder; the published file lists decide")
    if num_left := len(files) - sum(map(len, offered.values())):
        notes.append(f"note: {num_left} other images of the source were left out")
    return items, notes


def _agreed(candidates: list[Path], what: str) -> Path:
    """The first of several files for one place, if all show the same picture."""
    first, *others = candidates
    for other in others:
        if pixel_digest(read_image(other)) != pixel_digest(read_image(first)):
            both = printable(f"{first} and {other}")
            raise ValueError(f"{both} both claim to be {what}, with different pixels; remove one of them")
    return first


def choose_all(files: list[Path]) -> list[Item]:
    """Every file under its own stem; where that is taken, with its folders' names or its suffix in front or behind."""
    stems = Counter(file.stem.lower() for file in files)
    common = os.path.commonpath([file.parent.absolute() for file in files])
    items, taken = [], set()
    for file in files:
        # A leading dot comes from a hidden folder that is itself the source; it would hide the image in the set.
        inner = "_".join(file.absolute().relative_to(common).with_suffix("").parts).lstrip(".")
        names = [inner, f"{inner}_{file.suffix[1:]}"] if stems[file.stem.lower()] > 1 else [file.stem]
        free = [name for name in names if name.lower() not in taken]
        if not free:
            raise ValueError(f"{printable(str(file))} has the name of another image of the source; rename it")
        taken.add(free[0].lower())
        items.append(Item(file, free[0]))
    return items


def repeated_pictures(name: str, digests: dict[str, str]) -> list[str]:
    """Pictures that occur twice: a mistake in a set with known names or splits, a remark elsewhere."""
    places: dict[str, list[str]] = {}
    for place, digest in digests.items():
        places.setdefault(digest, []).append(place)
    repeated = [" = ".join(same) for same in places.values() if len(same) > 1]
    if repeated and places_in(name):
        raise ValueError(f"{name} holds the same picture under several names: {first_few(repeated)}; use a sound copy")
    return [f"warning: the same picture under several names: {first_few(repeated)}"] if repeated else []


def unlike_known(name: str, digests: dict[str, str]) -> list[str]:
    """Warnings for pixels that are not the known ones, and for benchmark images among training images."""
    if name in ("classic5", "live1"):
        unlike = [place for place, digest in digests.items() if known_sets()[name][place] != digest]
        if unlike:
            return [f"warning: other pixels than the known copy of {name}: {first_few(unlike)}; scores may differ"]
    elif name == "bsds500":
        by_split = {split: {} for split in BSDS500_SPLITS}
        for place, digest in digests.items():
            stem = Path(place).name
            by_split[bsds500_split(stem)][stem] = digest
        unlike = [split for split in BSDS500_SPLITS if split_digest(by_split[split]) != known_sets()[name][split]]
        if unlike:
            remark = "JPEG decoders may differ by a level"
            return [f"warning: other pixels than the known copy of bsds500 {', '.join(unlike)} ({remark})"]
    elif name in TRAINING_FOLDERS:
        reported = {digest for benchmark in ("classic5", "live1") for digest in known_sets()[benchmark].values()}
        leaked = [place for place, digest in digests.items() if digest in reported]
        if leaked:
            return [f"warning: benchmark images among the training images: {first_few(leaked)}; remove them"]
    return []


def first_few(names: Sequence[str], num_shown: int = 3) -> str:
    more = f" and {len(names) - num_shown} more" if len(names) > num_shown else ""
    return ", ".join(map(printable, names[:num_shown])) + more


def printable(text: str) -> str:
    """The text on one line: line breaks, control characters and bytes that are not UTF-8 as backslash escapes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
