"""Scores that have been measured before, on disk: one small JSON file for each system, set of images and quality.

The key of a file is the digest of all that its scores depend on. So a changed weight file, image, library or line of
code is measured anew, and nothing has to be cleared. A file that cannot be read is measured again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from common.files import check_writable, sha256, write_text
from evaluation.scores.image_sets import ImageSet

# Code that scores depend on.
SOURCES = ("common", "data", "engine", "cqe", "restoration", "evaluation/scores", "commands")
ROOT = Path(__file__).resolve().parent.parent.parent

Measure = Callable[[ImageSet, Sequence[int]], dict]  # (set, qualities) -> {quality: scores}


def cached(
    folder: str | Path, system: dict, sets: Sequence[ImageSet], qualities: Sequence[int], measure: Measure
) -> dict[str, dict]:
    """{set: {quality: scores}}, from the folder as far as it has them; only what is missing is measured, and kept.

    Args:
        folder: of the files; it is made.
        system: all that the scores depend on beside images, quality and code: weights' digest, device, protocol, ...
        measure: measures some qualities of one set; the scores are those of a quality in `protocol.evaluate`.

    Raises:
        OSError: if scores are missing and the folder cannot be written to; nothing has been measured then.
    """
    results = {}
    for image_set in sets:
        key = system | {"set": image_set.name, "images": files_digest(image_set.paths), "code": code_digest()}
        paths = {quality: _path(folder, key | {"quality": quality}) for quality in qualities}
        found = {quality: _read(path) for quality, path in paths.items()}
        lacking = [quality for quality, scores in found.items() if scores is None]
        if lacking:
            check_writable(paths[lacking[0]])  # before hours of measuring
        measured = measure(image_set, lacking) if lacking else {}
        for quality in lacking:
            found[quality] = measured[str(quality)]
            write_text(paths[quality], json.dumps({"key": key | {"quality": quality}, "scores": found[quality]}))
        results[image_set.name] = {str(quality): found[quality] for quality in qualities}
    return results


def files_digest(paths: Iterable[Path]) -> str:
    """One digest for the names and bytes of files, in order."""
    return _digest([(path.name, sha256(path)) for path in paths])


@cache
def code_digest() -> str:
    """One digest for the project's sources that scores depend on."""
    paths = sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))
    return _digest([(path.relative_to(ROOT).as_posix(), sha256(path)) for path in paths])


def _digest(content: Iterable | dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _path(folder: str | Path, key: dict) -> Path:
    return Path(folder) / f"{_digest(key)}.json"


def _read(path: Path) -> dict | None:
    """The scores of a file; infinite ones are kept as such. None if there is no such file, or not a whole one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["scores"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
