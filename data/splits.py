"""The three splits of BSDS500, as Berkeley published them: 200 training, 100 validation and 200 test images.

The file name alone decides the split of an image. So training images are refused as test images, whatever their folder
is called.
"""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

BSDS500_SPLITS = ("train", "val", "test")


def bsds500_split(stem: str) -> str | None:
    """The split of a BSDS500 image: `train`, `val` or `test`. None if no BSDS500 image has this name."""
    return _split_of_stem().get(stem)


def bsds500_stems(split: str) -> frozenset[str]:
    """The image names (without suffix) of one split."""
    return frozenset(stem for stem, owner in _split_of_stem().items() if owner == split)


def refuse_other_split(paths: Iterable[str | Path], wanted: str) -> None:
    """Refuse images of BSDS500 that are not of the wanted split. Images of other sets are accepted.

    Raises:
        ValueError: names the first such image, its split and how many there are.
    """
    if wanted not in BSDS500_SPLITS:
        raise ValueError(f"split must be one of {', '.join(BSDS500_SPLITS)}, got {wanted!r}")
    strangers = [Path(path) for path in paths if bsds500_split(Path(path).stem) not in (None, wanted)]
    if strangers:
        first, owner = strangers[0], bsds500_split(strangers[0].stem)
        others = f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else ""
        raise ValueError(
            f"{first} belongs to the BSDS500 {owner} split, not to {wanted}{others}; use the folder bsds500/{wanted}"
        )


@cache
def _split_of_stem() -> dict[str, str]:
    lists = json.loads((Path(__file__).parent / "bsds500_splits.json").read_text(encoding="utf-8"))
    return {stem: split for split, stems in lists.items() for stem in stems}
