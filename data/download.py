"""Downloads sets that have a stable address, such as DIV2K and BSDS500.

A download that breaks off leaves `<file>.part`. The next try continues from there if the file on the server is still
the same; `<file>.part.json` records its version. A file gets its final name only when it is complete. A damaged archive
is renamed to `<file>.damaged`, so that the next run fetches it again.
"""

import errno
import http.client
import json
import logging
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout
from tqdm import tqdm

from data.archives import DamagedArchive
from data.config import DEFAULT_PACK_DIR
from data.known_sets import KNOWN_SETS
from data.prepare import PreparedSet, check_target, prepare

CHUNK_BYTES = 1 << 18
PLAIN_LINE_SECONDS = 10.0

_VALIDATORS = ("ETag", "Last-Modified")
_BROKEN_OFF = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError)

logger = logging.getLogger(__name__)


def download(
    name: str,
    *,
    root: str | Path = "datasets",
    force: bool = False,
    pack_dir: str | Path = DEFAULT_PACK_DIR,
    wait_seconds: float = 3.0,
) -> PreparedSet:
    """Fetch the archives of a set into `<root>/archives`, then prepare the set. Archives that exist are kept.

    Args:
        name, root, force, pack_dir: as in `prepare`.
        wait_seconds: as in `fetch`.

    Raises:
        ValueError: if the set has no address (the message says where to get it), or if an archive is damaged or
            refused. A damaged one is renamed first.
        FileExistsError: if the set exists and `force` is false.
        ConnectionError: if an archive could not be fetched. The bytes so far are kept for the next try.
        BlockingIOError: if another process is fetching the archive.
    """
    known = KNOWN_SETS.get(name)
    if known and not known.addresses:
        raise ValueError(f"{name} has no address: {known.source}; then: python -m data prepare {name} SOURCE")
    check_target(name, root, force=force)
    archives = []
    for url in known.addresses:
        archive = Path(root) / "archives" / Path(urllib.parse.urlsplit(url).path).name
        fetch(url, archive, wait_seconds=wait_seconds)
        archives.append(archive)
    try:
        made = prepare(name, archives, root=root, force=force, pack_dir=pack_dir)
    except DamagedArchive as error:
        # Renamed, not removed: the user may have put it there, or it may be a log-in page that explains the failure.
        aside = error.archive.with_name(error.archive.name + ".damaged")
        os.replace(error.archive, aside)
        advice = f"it was renamed to {aside.name}; run the command again to fetch a new copy"
        raise ValueError(f"{error.archive} {error.finding}; {advice}") from error
    made.notes.append(f"note: {', '.join(map(str, archives))} can be deleted now")
    return made


def fetch(
    url: str,
    target: str | Path,
    *,
    num_tries: int = 5,
    wait_seconds: float = 3.0,
    timeout_seconds: float = 60.0,
) -> None:
    """Download one file. Continues `<target>.part` if there is one. Does nothing if `target` exists.

    Args:
        url: the address.
        target: the file to write.
        num_tries: give up after this many tries without progress. A try that brings new bytes restarts the count at 1.
        wait_seconds: pause before the next try.
        timeout_seconds: a try ends if the server sends nothing for this long.

    Raises:
        ConnectionError: one line with the address, the reason, and how much is kept.
        BlockingIOError: if another process is fetching the same file.
        OSError: if the disk is full. The bytes so far are kept.
    """
    target = Path(target)
    if target.exists():
        logger.info("%s is there already", target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _alone(part):
        if target.exists():  # another process held the lock until it had finished the file
            return
        try:
            _fetch_in_tries(url, part, num_tries, wait_seconds, timeout_seconds)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OSError(f"could not download {url} (the disk is full){_kept(part, url)}") from error
            raise
        os.replace(part, target)
        _notes_file(part).unlink(missing_ok=True)


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Keep other processes from writing to `part`. If this process is killed, the system releases the lock."""
    lock_file = part.with_name(part.name + ".lock")
    try:
        with FileLock(lock_file, timeout=0):
            try:
                yield
            finally:
                with suppress(OSError):  # Windows cannot remove an open file
                    lock_file.unlink()
    except Timeout:
        raise BlockingIOError(f"another process is writing {part}; wait until it has ended, or stop it") from None


def _fetch_in_tries(url: str, part: Path, num_tries: int, wait_seconds: float, timeout_seconds: float) -> None:
    num_fruitless = 0
    while True:
        size_before = _size(part)
        try:
            _fetch_once(url, part, timeout_seconds)
            return
        except _BROKEN_OFF as error:
            num_fruitless = 1 if _size(part) > size_before else num_fruitless + 1
            if num_fruitless >= num_tries or _is_final(error):
                raise ConnectionError(_giving_up(url, part, error)) from error
            name = part.name.removesuffix(".part")
            logger.info("%s broke off at %.1f MB (%s); trying again", name, _size(part) / 1e6, _reason(error))
            time.sleep(wait_seconds)


def _fetch_once(url: str, part: Path, timeout_seconds: float) -> None:
    """One request. Returns when `part` is complete; raises one of `_BROKEN_OFF` otherwise."""
    validators = _validators_of(part, url)
    offset = _size(part) if _unchanged_if(validators) else 0
    # If-Range: if the file has changed, the server sends all of the new file (200) and not only its end (206).
    asked = {"Range": f"bytes={offset}-", "If-Range": _unchanged_if(validators)} if offset else {}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=asked), timeout=timeout_seconds)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise
        # There are no bytes after `offset`. Either the part is complete, or the file on the server is now another one.
        if _total(error.headers) == offset and _is_same_version(error.headers, validators):
            return
        part.unlink(missing_ok=True)
        raise ConnectionError("the part on disk does not belong to the file; starting over") from error
    with response:
        if response.status == 206 and _start(response.headers) != offset:
            raise ConnectionError("the server sent another range than it was asked for")
        if response.status == 206 and not _is_same_version(response.headers, validators):
            part.unlink(missing_ok=True)
            raise ConnectionError("the file on the server has changed; starting over")
        if response.status != 206:
            offset = 0  # the server sends the whole file: it has changed, or ranges are not supported
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length is not None else None
        with open(part, "ab" if offset else "wb") as file:
            if not offset:
                _remember_validators(part, url, response.headers)  # only now, when the part has no old bytes left
            _copy(response, file, offset, total, part.name.removesuffix(".part"))
    if total is not None and _size(part) != total:
        raise ConnectionError(f"the connection closed after {_size(part)} of {total} bytes")


def _notes_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remember_validators(part: Path, url: str, headers: http.client.HTTPMessage) -> None:
    """Record the version of the file that the part belongs to: the two headers by which HTTP tells versions apart."""
    notes = {"url": url} | {name: headers[name] for name in _VALIDATORS if name in headers}
    _notes_file(part).write_text(json.dumps(notes), encoding="utf-8")


def _validators_of(part: Path, url: str) -> dict[str, str]:
    """The headers recorded when the part was begun. Empty if there are none, or if they are of another address."""
    try:
        notes = json.loads(_notes_file(part).read_text(encoding="utf-8"))
        return {name: str(notes[name]) for name in _VALIDATORS if name in notes} if notes["url"] == url else {}
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # the file is missing, cut off or edited
        return {}


def _unchanged_if(validators: dict[str, str]) -> str | None:
    """The value of If-Range, or None. A weak ETag does not promise equal bytes, so RFC 9110, 13.1.5 forbids it here.

    Without such a value nobody can tell whether the file on the server is still the one that the part was begun with.
    """
    etag = validators.get("ETag")
    return etag if etag and not etag.startswith("W/") else validators.get("Last-Modified")


def _is_same_version(headers: http.client.HTTPMessage, validators: dict[str, str]) -> bool:
    """Whether an answer is for the part's version, if it says so. Needed because some servers ignore If-Range."""
    return all(headers.get(name, known) == known for name, known in validators.items())


def _copy(response: http.client.HTTPResponse, file: BinaryIO, offset: int, total: int | None, label: str) -> None:
    """Copy the response to the file. Shows a bar on a terminal; elsewhere logs a line now and then."""
    is_terminal = sys.stderr.isatty()
    last_line, done = time.monotonic(), offset
    with tqdm(total=total, initial=offset, desc=label, unit="B", unit_scale=True, disable=not is_terminal) as bar:
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            bar.update(len(chunk))
            if not is_terminal and time.monotonic() - last_line > PLAIN_LINE_SECONDS:
                last_line = time.monotonic()
                logger.info("%s: %.0f of %s MB", label, done / 1e6, "?" if total is None else f"{total / 1e6:.0f}")
    if not is_terminal:
        logger.info("%s: %.1f MB so far" if total != done else "%s: %.1f MB, complete", label, done / 1e6)


def _start(headers: http.client.HTTPMessage) -> int | None:
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _total(headers: http.client.HTTPMessage) -> int | None:
    found = re.match(r"bytes \*/(\d+)", headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_final(error: Exception) -> bool:
    """Whether the server would answer the same next time: 4xx, except 408 (time-out) and 429 (too many requests)."""
    return isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in (408, 429)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__


def _giving_up(url: str, part: Path, error: Exception) -> str:
    return f"could not download {url} ({_reason(error)}){_kept(part, url)}"


def _kept(part: Path, url: str) -> str:
    if not _size(part) or not _unchanged_if(_validators_of(part, url)):
        return ""
    return f"; {_size(part) / 1e6:.1f} MB are kept in {part}, run the command again to go on"
