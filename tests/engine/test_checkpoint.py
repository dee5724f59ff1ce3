"""Checkpoints: whole or not at all, and nothing in a file is ever run."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from engine.checkpoint import FORMAT_VERSION, DamagedFile, load_checkpoint, load_tensors, save_checkpoint
from restoration.weights import load_restorer

STATE = {"stage": "cqe", "module": {"w": torch.arange(3.0)}, "progress": {"step": 4}, "average": None}


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "checkpoint.pt", STATE)
    return tmp_path / "checkpoint.pt"


def test_what_is_saved_comes_back(path: Path) -> None:
    state = load_checkpoint(path, stage="cqe")
    assert state.keys() == STATE.keys() | {"format_version"} and state["progress"] == STATE["progress"]
    torch.testing.assert_close(state["module"], STATE["module"], rtol=0, atol=0)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fail(working: Path, content: bytes) -> None:
        with open(working, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(
        OSError, match=r"checkpoint\.pt was not written: No space left on device \(.* MB are free in .*\); make room"
    ):
        save_checkpoint(path, STATE)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_file_that_does_not_fit_into_memory_is_not_called_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(OSError, match=r"checkpoint\.pt does not fit into memory; end other programs") as raised:
        load_checkpoint(path, stage="cqe")
    assert not isinstance(raised.value, DamagedFile)


def test_a_changed_byte_is_found(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(STATE["module"]["w"].numpy().tobytes())
    content[place + 5] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # torch itself reads it without a word
    with pytest.raises(DamagedFile, match=r"checkpoint\.pt cannot be read, .*has changed since it was written"):
        load_checkpoint(path, stage="cqe")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(
        DamagedFile, match=r"checkpoint\.pt (cannot be read, it is truncated|holds more than)"
    ) as caught:
        load_checkpoint(path, stage="cqe")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"hello world", b"{}", b"\x80\x02}q\x00.", b"\x00" * 64, b"PK\x03\x04" + b"\x00" * 40]
)
def test_a_foreign_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    for read in (lambda path: load_checkpoint(path, stage="cqe"), load_restorer):
        with pytest.raises(ValueError, match=r"x\.pth ") as caught:
            read(tmp_path / "x.pth")
        assert "\n" not in str(caught.value)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    torch.save(STATE | {"format_version": FORMAT_VERSION, "config": Bomb(trap)}, tmp_path / "new.pth")
    legacy = {"_use_new_zipfile_serialization": False}
    torch.save({"module": Bomb(trap)}, tmp_path / "legacy.pth", **legacy)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(trap), protocol=2))
    for name in ("new.pth", "legacy.pth", "plain.pth"):
        for read in (lambda path: load_checkpoint(path, stage="cqe"), load_restorer):
            with pytest.raises(ValueError, match=r"\.pth holds more than tensors .* nothing in it was run"):
                read(tmp_path / name)
    assert not trap.exists()
    pickle.loads((tmp_path / "plain.pth").read_bytes())
    assert trap.exists()  # the trap works where a file is unpickled


def test_another_stage_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint of stage 'cqe', but this script trains stage 'restorer'"):
        load_checkpoint(path, stage="restorer")


def test_another_format_is_refused(tmp_path: Path) -> None:
    torch.save(STATE | {"format_version": 99}, tmp_path / "new.pt")
    with pytest.raises(ValueError, match=f"format 99, this code reads {FORMAT_VERSION}"):
        load_checkpoint(tmp_path / "new.pt", stage="cqe")
    torch.save(STATE, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no training checkpoint of this project"):
        load_checkpoint(tmp_path / "other.pt", stage="cqe")
    torch.save({"format_version": FORMAT_VERSION}, tmp_path / "stageless.pt")
    with pytest.raises(ValueError, match="checkpoint of stage 'None'"):
        load_checkpoint(tmp_path / "stageless.pt", stage="cqe")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint at {path}"):
            load_tensors(path)
