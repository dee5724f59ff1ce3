"""Writing files whole or not at all, and checking outputs before any work is done for them."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`, to write a file or folder to.

    At the end of the block it is renamed to `path`. If the block raises, it is removed and `path` stays as it was. The
    folder of `path` must exist.
    """
    path = Path(path).absolute()  # "." has no name to build the temporary name from
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
    """Write a text file, whole or not at all. Makes missing folders."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as working:
        working.write_text(text, encoding="utf-8")


def check_writable(path: str | Path) -> None:
    """Refuse an output file that could not be written, before any work is done for it. Leaves no file behind.

    Raises:
        ValueError: if the path is a folder or a device.
        OSError: if its folder cannot be written to; if that does not exist, the nearest parent that does.
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
    """The SHA-256 digest of a file, in hex. Model cards and results name weight files by it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
