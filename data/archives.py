"""Takes the images out of a .zip, .tar or .tgz that is not trusted.

Only regular image files are written, all below the given folder. If a member points outside (`..`, or a link), the
whole archive is refused. A leading slash is dropped in a tar and refused in a zip. An archive is also refused if it
unpacks to far more than its own size, or does not fit on the disk.
"""

import errno
import gzip
import lzma
import ntpath
import os
import posixpath
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from data.images import is_image_name

# An archive may unpack to the larger of these two limits. Photos hardly shrink when they are packed. Zeros shrink a
# thousand times with deflate, and archive bombs are made of them.
MAX_UNPACKED_BYTES = 16 * 10**9
MAX_UNPACKED_RATIO = 20
MAX_MEMBERS = 2_000_000

_CHUNK_BYTES = 1 << 20
_MAX_TRAILER_BYTES = 1 << 26
_MAX_NOTE_BYTES = 1 << 20
_NOTES = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError, NotImplementedError,
    struct.error, OverflowError, UnicodeDecodeError,
    RuntimeError,  # zipfile raises this for a member with a password
)  # fmt: skip
_OUTSIDE = "points out of it"
_BAD_NAME = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


class DamagedArchive(ValueError):
    """An archive that is cut off or damaged, or a file that is not an archive.

    Attributes:
        archive: the file.
        finding: what is wrong. It continues a sentence that starts with the file's name.
    """

    def __init__(self, archive: Path, finding: str) -> None:
        super().__init__(f"{archive} {finding}; fetch or pack it again")
        self.archive = archive
        self.finding = finding


class UnsafeMember(Exception):
    """A member for which the whole archive is refused.

    Attributes:
        finding: what is wrong with the member. It continues a sentence that starts with its name.
    """

    def __init__(self, name: str, finding: str) -> None:
        super().__init__(name)
        self.name = name
        self.finding = finding


def extract_images(
    archive: str | Path, folder: str | Path, *, max_bytes: int | None = None, max_members: int = MAX_MEMBERS
) -> None:
    """Write the image files of an archive below `folder`, with the archive's own subfolders.

    Args:
        archive: the file.
        folder: where to write; it is made if it does not exist.
        max_bytes: limit for the size of all images. None: the larger of `MAX_UNPACKED_BYTES` and `MAX_UNPACKED_RATIO`
            times the size of the archive.
        max_members: limit for the number of files and folders in the archive.

    Raises:
        DamagedArchive: if the file is cut off, damaged, or not an archive.
        ValueError: if a member points outside or cannot be written, or if the archive is over a limit or packed with
            an unusual method. Images written before that stay in `folder`.
        OSError: if the disk is full.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if max_bytes is None:
        max_bytes = max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * archive.stat().st_size)
    budget = _Budget(archive, folder, max_bytes, max_members)
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, folder, budget)
        elif tarfile.is_tarfile(archive):
            _extract_tar(archive, folder, budget)
        else:
            raise DamagedArchive(archive, "is no .zip, .tar or .tgz that can be read (cut off?)")
    except UnsafeMember as error:
        raise ValueError(f"{archive} is refused: its member {error.name!r} {error.finding}") from error
    except _DAMAGE as error:
        raise DamagedArchive(archive, f"is damaged or cut off ({_reason(error)})") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise budget.disk_is_full() from error
        if error.errno in _BAD_NAME:  # the member's name is too long, or is also the name of a folder
            member = Path(error.filename).relative_to(folder).as_posix()
            raise ValueError(
                f"{archive} is refused: its member {member!r} cannot be written ({error.strerror}); "
                "unpack it yourself and give the folder"
            ) from error
        if error.errno in (None, errno.EINVAL):  # damaged bzip2 data, or an offset before the start of a zip
            raise DamagedArchive(archive, f"is damaged or cut off ({_reason(error)})") from error
        raise


class _Budget:
    """The space that an archive may still use. Written bytes are counted; sizes in headers only end it earlier."""

    def __init__(self, archive: Path, folder: Path, max_bytes: int, max_members: int) -> None:
        self._archive, self._max_bytes, self._max_members = archive, max_bytes, max_members
        self._free_bytes = shutil.disk_usage(folder).free
        self._num_bytes = 0

    def check_members(self, num_members: int) -> None:
        if num_members > self._max_members:
            raise ValueError(self._too_much(f"lists more than {self._max_members} files and folders"))

    def check_claim(self, num_bytes: int) -> None:
        """Refuse members of this total size if it is more than what is left."""
        if self._num_bytes + num_bytes > self._max_bytes:
            raise ValueError(self._too_much(f"unpacks to more than {_readable(self._max_bytes)}"))
        if self._num_bytes + num_bytes > self._free_bytes:
            raise OSError(errno.ENOSPC, "not enough space left")

    def write(self, packed: IO[bytes], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as file:
            while chunk := packed.read(_CHUNK_BYTES):
                self.check_claim(len(chunk))
                self._num_bytes += file.write(chunk)

    def disk_is_full(self) -> OSError:
        return OSError(
            f"the images of {self._archive} do not fit on the disk, where {_readable(self._free_bytes)} were free; "
            "make room, or choose another disk"
        )

    def _too_much(self, finding: str) -> str:
        return f"{self._archive} is refused: it {finding}; if it should, unpack it yourself and give the folder"


class _StrictTarInfo(tarfile.TarInfo):
    """Makes a damaged header an error. `tarfile` takes one in the middle of an archive for its end."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        try:
            header = super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(str(error)) from error
        # tarfile reads long names and other notes about the next member into memory whole.
        if header.type in _NOTES and header.size > _MAX_NOTE_BYTES:
            raise tarfile.ReadError(f"a name of {header.size} bytes")
        return header


def _extract_tar(archive: Path, folder: Path, budget: _Budget) -> None:
    with tarfile.open(archive, tarinfo=_StrictTarInfo) as opened:
        num_members = 0
        while member := opened.next():  # in the order of the file, so a compressed archive is read only once
            num_members += 1
            budget.check_members(num_members)
            opened.members.clear()  # otherwise tarfile keeps all of them in memory
            if "\0" in member.name:
                raise tarfile.ReadError("a name with a zero byte")
            inner = _checked_inner_path(member)  # of members that are skipped, too
            if not member.isreg() or not is_image_name(Path(member.name)):
                continue
            budget.check_claim(member.size)
            with opened.extractfile(member) as packed:
                budget.write(packed, folder / inner)
        _read_to_end(opened.fileobj)


def _checked_inner_path(member: tarfile.TarInfo) -> PurePosixPath:
    """Where a member goes, below the folder. Raises UnsafeMember for a device or pipe, and for what points outside.

    Not `tarfile.data_filter`, which Python has only from 3.11.4 on.
    """
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise UnsafeMember(member.name, "is a device or a pipe")
    inner = _with_slashes(member.name).lstrip("/")
    places = [inner]
    if member.issym():  # its target counts from the link's own folder; that of a hard link from the archive's root
        places.append(posixpath.join(posixpath.dirname(inner), _with_slashes(member.linkname)))
    elif member.islnk():
        places.append(_with_slashes(member.linkname))
    if any(_is_outside(posixpath.normpath(place)) for place in places):
        raise UnsafeMember(member.name, _OUTSIDE)
    return PurePosixPath(posixpath.normpath(inner))


def _is_outside(inner: str) -> bool:
    """Whether a normalised path leaves the folder."""
    has_drive = os.name == "nt" and bool(ntpath.splitdrive(inner)[0])  # elsewhere a file's name may have a colon
    return inner.startswith("/") or inner.split("/")[0] == ".." or has_drive


def _with_slashes(name: str) -> str:
    return name.replace(os.sep, "/")


def _read_to_end(stream: IO[bytes]) -> None:
    """Read the rest after the last member. Then gzip, bzip2 and xz check their checksums, which are at the end."""
    try:
        for _ in range(0, _MAX_TRAILER_BYTES, _CHUNK_BYTES):
            if not stream.read(_CHUNK_BYTES):
                return
    except gzip.BadGzipFile as error:
        # Other data may follow the compressed data. The gzip command ignores them too.
        if not str(error).startswith("Not a gzipped file"):
            raise


def _extract_zip(archive: Path, folder: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(archive) as opened:
        budget.check_members(len(opened.infolist()))
        images = [member for member in opened.infolist() if _is_image(member)]
        budget.check_claim(sum(member.file_size for member in images))
        for member in images:
            # zipfile decodes bzip2 and LZMA without a limit on the output, so a few kilobytes could fill the memory.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(
                    f"{archive} is not packed with deflate, the usual method of a .zip; "
                    "unpack it yourself and give the folder"
                )
            with opened.open(member) as packed:
                budget.write(packed, folder / _inner_path(member))


def _is_image(member: zipfile.ZipInfo) -> bool:
    """Whether a member is an image to write. Raises UnsafeMember for any member that points outside."""
    inner = _inner_path(member)
    if inner.is_absolute() or ".." in inner.parts or ":" in "".join(inner.parts[:1]):  # "./" has no parts
        raise UnsafeMember(member.filename, _OUTSIDE)
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    return not member.is_dir() and not is_link and is_image_name(Path(inner))


def _inner_path(member: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(member.filename.replace("\\", "/"))


def _readable(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 10**9 else f"{num_bytes / 1e6:.1f} MB"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
