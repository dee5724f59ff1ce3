"""Packed pixels: decoded once, mapped into memory, packed anew when a file changes, never left half-made."""

import errno
import json
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import store as packing
from data.images import read_rgb
from data.store import LOCK_NAME, BrokenImage, PixelStore, open_store

SHAPES = {"a.png": (7, 9, 3), "b.png": (4, 4), "c.png": (12, 5, 3)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, shape in SHAPES.items():
        save(folder / name, *shape)
    return folder


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "packs"


def save(path: Path, *shape: int, seed: int = 0) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(image).save(path)
    return image


def content(packs: Path) -> list[str]:
    """The names in the folder of packs, without the lock."""
    return [name for name in os.listdir(packs) if name != LOCK_NAME]


def assert_holds(store: PixelStore, folder: Path) -> None:
    assert len(store) == len(store.names) == len(store.shapes) > 0
    for index, name in enumerate(store.names):
        expected = read_rgb(folder / name)
        assert store.shapes[index] == expected.shape[:2]
        np.testing.assert_array_equal(store[index], expected)


def test_a_pack_holds_every_image_as_rgb_in_the_order_of_names(photos: Path, packs: Path) -> None:
    store = open_store(photos, packs)
    assert store.names == list(SHAPES)
    assert_holds(store, photos)


def test_images_are_read_only_views_of_a_memory_map(photos: Path, packs: Path) -> None:
    store = open_store(photos, packs)
    image = store[1]
    assert isinstance(image, np.memmap) and np.shares_memory(image, store[1])
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 0


def test_packing_happens_once(photos: Path, packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_store(photos, packs)
    monkeypatch.setattr(packing, "read_rgb", lambda path: pytest.fail(f"{path} was decoded again"))
    assert open_store(photos, packs).folder == first.folder
    assert content(packs) == [first.folder.name]


@pytest.mark.parametrize("change", ["pixels", "time", "added", "removed"])
def test_a_changed_folder_is_packed_anew(photos: Path, packs: Path, change: str) -> None:
    before = open_store(photos, packs)
    if change == "pixels":
        save(photos / "a.png", 9, 9, 3, seed=1)
    elif change == "time":  # same name, same size: the time alone tells
        stamp = (photos / "a.png").stat().st_mtime_ns + 1
        os.utime(photos / "a.png", ns=(stamp, stamp))
    elif change == "added":
        save(photos / "d.png", 3, 3)
    else:
        (photos / "b.png").unlink()
    after = open_store(photos, packs)
    assert after.folder != before.folder
    assert_holds(after, photos)


def test_folders_of_one_name_have_packs_of_their_own(photos: Path, packs: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "photos"
    other.mkdir(parents=True)
    image = save(other / "a.png", 7, 9, 3, seed=3)
    open_store(photos, packs)
    np.testing.assert_array_equal(open_store(other, packs)[0], image)
    assert_holds(open_store(photos, packs), photos)


def test_a_truncated_image_is_named_and_nothing_is_left(photos: Path, packs: Path) -> None:
    whole = (photos / "c.png").read_bytes()
    (photos / "c.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"c\.png is damaged or cut off"):
        open_store(photos, packs)
    assert content(packs) == []
    (photos / "c.png").write_bytes(whole)
    assert_holds(open_store(photos, packs), photos)


@pytest.mark.parametrize("end", ["finishes", "is killed"])
def test_one_process_packs_and_another_waits_for_it(
    photos: Path, packs: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    started, start = os.pipe()

    def slowly(path: Path) -> np.ndarray:
        os.write(start, b"x")
        time.sleep(0.2 if end == "finishes" else 60)
        return read_rgb(path)

    if (child := os.fork()) == 0:
        monkeypatch.setattr(packing, "read_rgb", slowly)
        open_store(photos, packs)
        os._exit(0)
    os.read(started, 1)
    if end == "is killed":
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert any(name.startswith(".packing-") for name in os.listdir(packs))  # what it left
    else:
        monkeypatch.setattr(packing, "read_rgb", lambda path: pytest.fail(f"{path} was packed twice"))
    store = open_store(photos, packs)
    if end == "finishes":
        assert os.waitpid(child, 0)[1] == 0
    assert content(packs) == [store.folder.name]
    monkeypatch.undo()
    assert_holds(store, photos)


def test_what_another_machine_is_writing_stays(photos: Path, packs: Path) -> None:
    mine, others = (packs / f".packing-{socket.gethostname()}{middle}-a1b2c3d4" for middle in ("", "-1"))
    for folder in (mine, others):
        folder.mkdir(parents=True)
    open_store(photos, packs)
    assert others.exists() and not mine.exists()


def test_where_no_lock_holds_the_first_of_two_wins_and_both_read_it(
    photos: Path, packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        packing, "_packing_alone", lambda folder: nullcontext(folder.mkdir(parents=True, exist_ok=True))
    )
    winners = []

    def read_while_another_packs(path: Path) -> np.ndarray:
        if not winners:
            monkeypatch.setattr(packing, "read_rgb", read_rgb)
            winners.append(open_store(photos, packs))
        return read_rgb(path)

    monkeypatch.setattr(packing, "read_rgb", read_while_another_packs)
    store = open_store(photos, packs)
    assert content(packs) == [winners[0].folder.name]
    assert_holds(store, photos)
    assert_holds(winners[0], photos)


def test_a_full_disk_is_named_and_nothing_is_left(photos: Path, packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> np.ndarray:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packing, "read_rgb", full)
    with pytest.raises(OSError, match=r"photos-\w+ was not written: No space left on device \(.* free in .*packs\)"):
        open_store(photos, packs)
    assert content(packs) == []


def test_changed_pixels_are_found_where_they_are_read(photos: Path, packs: Path) -> None:
    store = open_store(photos, packs)
    with open(store.folder / "pixels.bin", "r+b") as file:
        file.seek(store._offsets[1] + 5)
        file.write(b"\0\1\2")
    assert store[0].size and store[2].size
    with pytest.raises(
        BrokenImage,
        match=rf"packed pixels of photos/b\.png have changed .*; remove .*{store.folder.name}, it is",
    ):
        store[1]


def test_a_pack_of_an_older_version_is_read_unchecked(photos: Path, packs: Path) -> None:
    folder = open_store(photos, packs).folder
    index = json.loads((folder / "index.json").read_text())
    del index["crc32"], index["unreadable"]
    (folder / "index.json").write_text(json.dumps(index))
    assert_holds(open_store(photos, packs), photos)


def test_an_unreadable_file_can_be_skipped_and_keeps_its_place(photos: Path, packs: Path) -> None:
    (photos / "b.png").write_bytes(b"no image")
    store = open_store(photos, packs, skips_unreadable=True)
    assert store.names == list(SHAPES) and store.shapes[1] == (0, 0)
    for index in (0, 2):
        np.testing.assert_array_equal(store[index], read_rgb(photos / store.names[index]))
    with pytest.raises(BrokenImage, match=r"b\.png is not an image that can be read; replace or remove the file$"):
        store[1]
    with pytest.raises(ValueError, match=r"b\.png is not an image that can be read"):  # the same pack, not skipping
        open_store(photos, packs)
    for name in ("a.png", "c.png"):
        (photos / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"photos holds no image that can be read: .*a\.png is not an image"):
        open_store(photos, packs, skips_unreadable=True)


def test_a_store_goes_to_workers_without_its_pixels(photos: Path, packs: Path) -> None:
    save(photos / "large.png", 200, 200, 3)
    store = open_store(photos, packs)
    assert store[3].size == 120_000  # the map is open
    sent = pickle.dumps(store)
    assert len(sent) < 5_000
    assert_holds(pickle.loads(sent), photos)


def test_first_keeps_the_first_images_and_leaves_the_whole_alone(photos: Path, packs: Path) -> None:
    store = open_store(photos, packs)
    part = store.first(2)
    assert part.names == ["a.png", "b.png"]
    assert_holds(part, photos)
    assert len(store) == len(store.first(None)) == len(store.first(99)) == 3
    assert_holds(store, photos)


@pytest.mark.parametrize(
    "damage",
    [
        lambda pack: os.truncate(pack / "pixels.bin", 100),
        lambda pack: os.truncate(pack / "index.json", 10),
        lambda pack: (pack / "pixels.bin").unlink(),
    ],
    ids=["pixels cut off", "index cut off", "no pixels"],
)
def test_a_damaged_pack_is_named(photos: Path, packs: Path, damage: Callable[[Path], None]) -> None:
    pack = open_store(photos, packs).folder
    damage(pack)
    with pytest.raises(ValueError, match=f"{pack.name} are damaged or cut off; remove this folder, it is made again$"):
        open_store(photos, packs)
