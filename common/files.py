"""Writing files whole or not at all, and checking outputs before any work is done for them."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_NAME_BYTES = 200  # of a file, to build a temporary name from it


class FullDisk(OSError):
    """A disk is full; the message says which, and what was not written."""


@contextmanager
def written_whole(path: str | Path, *, may_replace: bool = True) -> Iterator[Path]:
    """A temporary name beside `path`, to write a file or folder to.

    At the end of the block it is renamed to `path`. If the block raises, it is removed and `path` stays as it was. The
    folder of `path` must exist. The content is on the disk before it gets its name, so a power cut does no harm either.

    Args:
        path: of the file or folder.
        may_replace: whether a file of this name may be replaced; False is for files alone.

    Raises:
        FullDisk: if the disk is full.
        FileExistsError: if there is such a file by now, and it may not be replaced.
    """
    path = Path(path).absolute()  # "." has no name to build the temporary name from
    working = path.with_name(f".{_short(path.name)}{_partly_written(os.getpid())}")
    try:
        with full_disk_named(path):
            yield working
            flush_to_disk(working)
            if may_replace:
                os.replace(working, path)
            else:
                _rename_to_new(working, path)
            flush_to_disk(path.parent, is_deep=False)
    finally:
        if working.is_dir():
            shutil.rmtree(working, ignore_errors=True)
        else:
            working.unlink(missing_ok=True)


def flush_to_disk(path: str | Path, *, is_deep: bool = True) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk.

    Args:
        path: of the file or folder.
        is_deep: False: of a folder, only its list of names. A renamed file keeps its new name after a power cut then.
    """
    path = Path(path)
    if is_deep and path.is_dir():
        for inner in path.iterdir():
            flush_to_disk(inner)
    if path.is_dir() and os.name != "posix":
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def full_disk_named(path: str | Path) -> Iterator[None]:
    """Turn an error of the block that a full disk caused into a FullDisk.

    Args:
        path: what the block writes: a file or a folder.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FullDisk) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        path = Path(path).absolute()
        folder = next(place for place in (path, *path.parents) if place.is_dir())
        usage = shutil.disk_usage(folder)
        named = FullDisk(
            f"{path} was not written: {os.strerror(error.errno)} ({usage.free / 1e6:.1f} MB of {usage.total / 1e6:.0f} "
            f"MB are free in {folder}); make room there, or choose another folder"
        )
        named.errno = error.errno
        raise named from error


def remove_partly_written(folder: str | Path) -> None:
    """Remove what killed processes left of `written_whole` in a folder. No process may be writing there."""
    for path in Path(folder).glob(f".*{_partly_written('*')}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _partly_written(process: int | str) -> str:
    return f".{process}.part"


def _short(name: str) -> str:
    """The name, or a digest of it where no room would be left for what is added: names end at 255 bytes."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= MAX_NAME_BYTES else hashlib.sha256(encoded).hexdigest()


def _rename_to_new(working: Path, path: Path) -> None:
    """Give a file its name, unless that exists: then raise FileExistsError."""
    named = FileExistsError(errno.EEXIST, "made by another program meanwhile, and left as it is", str(path))
    try:
        os.link(working, path)  # unlike a rename, it fails if the name exists
    except FileExistsError:
        raise named from None
    except OSError:  # a file system without hard links
        if path.exists():
            raise named from None
        os.replace(working, path)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all. Makes missing folders. Bytes of a file's name that are no text are
    escaped."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as working:
        working.write_text(text, encoding="utf-8", errors="backslashreplace")


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
