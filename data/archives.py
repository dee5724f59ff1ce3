"""Taking the images out of a .zip, .tar or .tgz that came from somewhere else, without trusting it.

Only regular image files are written, all below the given folder. An archive with a member that points outside (`..`, a
link leading out) is refused as a whole; a leading slash is dropped in a tar and refused in a zip.
"""

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from data.images import is_image_name

_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError, NotImplementedError,
    RuntimeError,  # zipfile's answer to a member locked with a password
)  # fmt: skip


def extract_images(archive: str | Path, folder: str | Path) -> None:
    """Write the image files of an archive below `folder`, with the archive's own subfolders.

    Raises:
        ValueError: if the file is no archive, is cut off or damaged, or has a member that points outside.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, folder)
        elif tarfile.is_tarfile(archive):
            _extract_tar(archive, folder)
        else:
            raise ValueError(f"{archive} is no .zip, .tar or .tgz that can be read (cut off?); fetch or pack it again")
    except (tarfile.FilterError, UnsafeMember) as error:
        raise ValueError(f"{archive} is refused: its member {error.tarinfo.name!r} points out of it") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{archive} is damaged or cut off ({reason}); fetch or pack it again") from error


class UnsafeMember(Exception):
    """A zip member whose name leads out of the folder; the counterpart of `tarfile.FilterError`."""

    def __init__(self, name: str) -> None:
        self.tarinfo = tarfile.TarInfo(name)


def _extract_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        for member in opened:  # in file order: a compressed archive is read once
            tarfile.data_filter(member, str(folder))  # raises FilterError, also for members that are not taken
            if member.isreg() and is_image_name(Path(member.name)):
                opened.extract(member, folder, filter="data")


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            inner = PurePosixPath(member.filename.replace("\\", "/"))
            if inner.is_absolute() or ".." in inner.parts or ":" in inner.parts[0]:
                raise UnsafeMember(member.filename)
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            if member.is_dir() or is_link or not is_image_name(Path(inner)):
                continue
            target = folder / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(member) as packed, open(target, "wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
