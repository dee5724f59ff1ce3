"""`python -m data download` against a server on this machine that can break off, ignore ranges, or refuse."""

import dataclasses
import errno
import hashlib
import http.client
import io
import json
import logging
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from data import download as downloading
from data.download import download, fetch
from data.images import list_images
from data.known_sets import KNOWN_SETS
from data.splits import BSDS500_SPLITS, bsds500_stems
from tests.places import ROOT
from tests.program import run_data

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


class Server(ThreadingHTTPServer):
    """Serves `files`; each request is logged as (path, Range header)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/file.bin": CONTENT}
        self.requests: list[tuple[str, str | None]] = []
        self.num_breaks = 0  # so many of the next answers stop early
        self.break_after_bytes = 100_000
        self.supports_ranges = True
        self.sends_length = True
        self.validators = ("ETag",)  # sent with every answer, but for 416
        self.knows_if_range = True
        self.statuses: list[int] = []  # answers to give first, instead of the file

    def url(self, path: str = "/file.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def version(self, validator: str, content: bytes = CONTENT) -> str:
        digest = hashlib.sha256(content).digest()
        if validator == "Last-Modified":
            return f"Mon, 01 Jan 2024 00:{digest[0] % 60:02d}:{digest[1] % 60:02d} GMT"
        return f'{"W/" if validator == "weak ETag" else ""}"{digest.hex()[:8]}"'

    def begin(self, target: Path, part: bytes, validator: str = "ETag") -> None:
        """Leave what a run leaves that broke off after `part` of the present CONTENT."""
        target.with_name(f"{target.name}.part").write_bytes(part)
        notes = {"url": self.url(), validator.removeprefix("weak "): self.version(validator)}
        target.with_name(f"{target.name}.part.json").write_text(json.dumps(notes))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        content = server.files.get(self.path)
        if server.statuses or content is None:
            self.send_error(server.statuses.pop(0) if server.statuses else 404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.supports_ranges else 0
        condition = self.headers.get("If-Range")
        if (
            condition
            and server.knows_if_range
            and condition
            not in (server.version(each, content) for each in server.validators if not each.startswith("weak"))
        ):
            start = 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for validator in server.validators:
            self.send_header(validator.removeprefix("weak "), server.version(validator, content))
        if server.sends_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if server.num_breaks > 0:
            server.num_breaks -= 1
            end = start + server.break_after_bytes
        self.wfile.write(content[start:end])

    def log_message(self, *arguments: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_file_arrives_whole_and_only_under_its_name(server: Server, tmp_path: Path) -> None:
    fetch(server.url(), tmp_path / "inner/file.bin")
    assert (tmp_path / "inner/file.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "inner").iterdir()] == ["file.bin"]
    fetch(server.url(), tmp_path / "inner/file.bin")
    assert len(server.requests) == 1  # a file that is there is not fetched again


def test_breaks_are_mended_by_going_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.num_breaks = 2
    fetch(server.url(), tmp_path / "file.bin", num_tries=2, wait_seconds=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_later_run_goes_on_from_the_part_on_disk(server: Server, tmp_path: Path) -> None:
    server.num_breaks = 1
    with pytest.raises(ConnectionError, match=r"could not download .*file.bin \(.* 100000 of 300000 bytes\); 0.1 MB"):
        fetch(server.url(), tmp_path / "file.bin", num_tries=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.bin.part", "file.bin.part.json"]
    fetch(server.url(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=100000-"
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("knows_if_range", [True, False])
def test_a_file_that_changed_on_the_server_is_not_mixed_with_the_old_one(
    server: Server, tmp_path: Path, validator: str, knows_if_range: bool
) -> None:
    server.validators, server.knows_if_range = (validator,), knows_if_range
    server.num_breaks = 1
    with pytest.raises(ConnectionError):
        fetch(server.url(), tmp_path / "file.bin", num_tries=1)
    server.files["/file.bin"] = changed = CONTENT[::-1]
    fetch(server.url(), tmp_path / "file.bin", num_tries=2, wait_seconds=0)
    assert (tmp_path / "file.bin").read_bytes() == changed
    assert server.requests[1][1] == "bytes=100000-"  # it did try to go on
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("validators", [(), ("weak ETag",)], ids=["none", "weak"])
def test_a_part_of_an_unknown_version_is_begun_again(
    server: Server, tmp_path: Path, validators: tuple[str, ...]
) -> None:
    server.validators, server.num_breaks = validators, 1
    with pytest.raises(ConnectionError, match=r"\(the connection closed after 100000 of 300000 bytes\)$"):
        fetch(server.url(), tmp_path / "file.bin", num_tries=1)
    fetch(server.url(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, None]


@pytest.mark.parametrize(
    "notes", [None, "", "[]", '{"ETag": "x"}', '{"url": "http://elsewhere/file.bin", "ETag": "x"}']
)
def test_a_part_without_sound_notes_on_its_version_is_begun_again(
    server: Server, tmp_path: Path, notes: str | None
) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    if notes is not None:
        (tmp_path / "file.bin.part.json").write_text(notes)
    fetch(server.url(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [("/file.bin", None)]


@pytest.mark.ddp
def test_a_second_download_of_the_same_file_is_refused_while_the_first_lives(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"of the other process")
    code = "import sys; from pathlib import Path; from data.download import _alone\n"
    code += "with _alone(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "file.bin.part")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(
            BlockingIOError, match="another process is writing .*file.bin.part; wait until it has ended"
        ):
            fetch(server.url(), tmp_path / "file.bin")
        assert (tmp_path / "file.bin.part").read_bytes() == b"of the other process"
        assert server.requests == []
        other.kill()  # SIGKILL: it cannot tidy up
    assert (tmp_path / "file.bin.part.lock").exists()
    fetch(server.url(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_a_full_disk_is_one_line_and_what_came_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_some(response: http.client.HTTPResponse, file: BinaryIO, *rest: object) -> None:
        file.write(response.read(150_000))
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match=r"file.bin \(the disk is full\); 0.1 MB are kept"),
    ):
        patch.setattr(downloading, "_copy", write_some)
        fetch(server.url(), tmp_path / "file.bin")
    fetch(server.url(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=150000-"


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.supports_ranges = False
    server.begin(tmp_path / "file.bin", b"x" * 1000)
    fetch(server.url(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_that_is_complete_already_only_gets_its_name(server: Server, tmp_path: Path) -> None:
    server.begin(tmp_path / "file.bin", CONTENT)
    fetch(server.url(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [("/file.bin", "bytes=300000-")]


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    server.begin(tmp_path / "file.bin", CONTENT + b"more")
    fetch(server.url(), tmp_path / "file.bin", wait_seconds=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_server_that_gives_no_length_is_believed(server: Server, tmp_path: Path) -> None:
    server.sends_length = False
    fetch(server.url(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_server_errors_are_tried_again_and_a_missing_file_is_not(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 500]
    fetch(server.url(), tmp_path / "file.bin", wait_seconds=0)
    assert len(server.requests) == 3
    with pytest.raises(ConnectionError, match=r"could not download http://.*/gone.zip \(HTTP 404 Not Found\)$"):
        fetch(server.url("/gone.zip"), tmp_path / "gone.zip", wait_seconds=0)
    assert len(server.requests) == 4


def test_it_gives_up_when_nothing_new_arrives(server: Server, tmp_path: Path) -> None:
    server.num_breaks, server.break_after_bytes = 99, 0
    server.begin(tmp_path / "file.bin", CONTENT[:5000])
    with pytest.raises(ConnectionError, match="are kept in .*file.bin.part, run the command again to go on") as error:
        fetch(server.url(), tmp_path / "file.bin", num_tries=3, wait_seconds=0)
    assert "\n" not in str(error.value)
    assert len(server.requests) == 3


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with Server() as closed:
        url = closed.url()
    with pytest.raises(ConnectionError, match="could not download http://127.0.0.1.*refused") as error:
        fetch(url, tmp_path / "file.bin", num_tries=2, wait_seconds=0)
    assert "\n" not in str(error.value)


def test_progress_is_plain_lines_off_a_terminal(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "PLAIN_LINE_SECONDS", -1.0)
    monkeypatch.setattr(downloading, "CHUNK_BYTES", 100_000)
    with caplog.at_level(logging.INFO):
        fetch(server.url(), tmp_path / "file.bin")
    assert "file.bin: 0 of 0 MB" in caplog.messages[0]
    assert caplog.messages[-1] == "file.bin: 0.3 MB, complete"


def bsds500_archive() -> bytes:
    buffer, generator = io.BytesIO(), np.random.default_rng(1)
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for split in BSDS500_SPLITS:
            for stem in sorted(bsds500_stems(split)):
                image = io.BytesIO()
                Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(image, "jpeg")
                member = tarfile.TarInfo(f"BSR/BSDS500/data/images/{split}/{stem}.jpg")
                member.size = len(image.getvalue())
                archive.addfile(member, io.BytesIO(image.getvalue()))
    return buffer.getvalue()


def publish_at(monkeypatch: pytest.MonkeyPatch, name: str, *addresses: str) -> None:
    """Let a set be found at these addresses instead of its owner's."""
    monkeypatch.setitem(KNOWN_SETS, name, dataclasses.replace(KNOWN_SETS[name], addresses=addresses))


def test_bsds500_is_fetched_resumed_prepared_and_packed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/BSR_bsds500.tgz"] = bsds500_archive()
    server.num_breaks, server.break_after_bytes = 1, 10_000
    publish_at(monkeypatch, "bsds500", server.url("/BSR_bsds500.tgz"))
    root = tmp_path / "datasets"
    made = download("bsds500", root=root, pack_dir=tmp_path / "packed", wait_seconds=0)
    assert made.counts == {"train": 200, "val": 100, "test": 200}
    assert len(list_images(root / "bsds500/test")) == 200
    assert len(list((tmp_path / "packed").glob("[!.]*"))) == 1
    assert "BSR_bsds500.tgz can be deleted now" in made.notes[-1]
    assert [wanted for _, wanted in server.requests] == [None, "bytes=10000-"]


def test_a_bad_archive_or_an_existing_set_makes_no_set(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no images")
    server.files["/train.zip"] = server.files["/valid.zip"] = buffer.getvalue()
    publish_at(monkeypatch, "div2k", server.url("/train.zip"), server.url("/valid.zip"))
    root = tmp_path / "datasets"
    assert run_data("download", "div2k", "--root", str(root)) == 2
    assert "train.zip + " in (said := capsys.readouterr().err) and "holds no images" in said
    assert sorted(path.name for path in root.iterdir()) == ["archives"]
    (root / "div2k").mkdir()
    assert run_data("download", "div2k", "--root", str(root)) == 2
    assert "div2k is there already; give --force to replace it" in capsys.readouterr().err
    assert len(server.requests) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "page"])
@pytest.mark.parametrize("was_there", [True, False])
def test_a_damaged_archive_is_set_aside_and_fetched_again(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
    was_there: bool,
) -> None:
    sound = bsds500_archive()
    changed = bytearray(sound)
    changed[-6] ^= 1  # in gzip's checksum: every image can be read
    bad = {"cut": sound[:-1000], "changed": bytes(changed), "page": b"<html>Log in first</html>"}[damage]
    publish_at(monkeypatch, "bsds500", server.url("/BSR_bsds500.tgz"))
    root = tmp_path / "datasets"
    archives = root / "archives"
    command = ["download", "bsds500", "--root", str(root), "--pack-dir", str(tmp_path / "packed")]
    if was_there:
        archives.mkdir(parents=True)
        (archives / "BSR_bsds500.tgz").write_bytes(bad)
    else:
        server.files["/BSR_bsds500.tgz"] = bad
    assert run_data(*command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "BSR_bsds500.tgz is " in said
    assert "; it was renamed to BSR_bsds500.tgz.damaged; run the command again to fetch a new copy" in said
    assert [path.name for path in archives.iterdir()] == ["BSR_bsds500.tgz.damaged"]
    assert (archives / "BSR_bsds500.tgz.damaged").read_bytes() == bad
    server.files["/BSR_bsds500.tgz"] = sound
    assert run_data(*command) == 0


@pytest.mark.parametrize("name", ["classic5", "live1", "icb", "twitter", "photos"])
def test_sets_without_an_address_say_who_hands_them_out(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_data("download", name, "--root", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert f"{name} has no address: " in error and f"python -m data prepare {name} SOURCE" in error
    assert error.count("\n") == 1


def test_an_unknown_name_is_refused_before_any_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_data("download", "div3k", "--root", str(tmp_path)) == 2
    assert "unknown set 'div3k'; the sets are" in capsys.readouterr().err
