"""Files that are written whole or not at all, and what is asked of a file before any work is done for it."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A name to write a file or folder under, beside `path`.

    It is renamed to `path` at the end of the block, and removed if the block raises: `path` is either what it was or
    the whole new thing. The folder must be there.
    """
    path = Path(path).absolute()  # "." has no name to build the other one from
    working = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield working
        os.replace(working, path)
    finally:
        if working.is_dir():
            shutil.rmtree(working, ignore_errors=True)
        else:
            working.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all. Makes missing folders."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as working:
        working.write_text(text, encoding="utf-8")


def check_writable(path: str | Path) -> None:
    """Refuse an output file that could not be written, before any work is done for it. Creates nothing.

    Raises:
        ValueError: if the path is a folder, or a device.
        OSError: if the folder, or the nearest one that exists, cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file to write")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no ordinary file; name a file to write")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written: {folder}: {error.strerror}") from error


def sha256(path: str | Path) -> str:
    """The digest by which a weight file is known in its model card and in results."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
