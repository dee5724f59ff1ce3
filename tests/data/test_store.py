"""Packed pixels: decoded once, mapped into memory, packed anew when a file changes, never left half-made."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import store as packing
from data.images import read_rgb
from data.store import PixelStore, open_store

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
    assert [path.name for path in packs.iterdir()] == [first.folder.name]


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
    assert list(packs.iterdir()) == []
    (photos / "c.png").write_bytes(whole)
    assert_holds(open_store(photos, packs), photos)


def test_the_first_of_two_packing_at_once_wins_and_both_read_it(
    photos: Path, packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    winners = []

    def read_while_another_packs(path: Path) -> np.ndarray:
        if not winners:
            monkeypatch.setattr(packing, "read_rgb", read_rgb)
            winners.append(open_store(photos, packs))
        return read_rgb(path)

    monkeypatch.setattr(packing, "read_rgb", read_while_another_packs)
    store = open_store(photos, packs)
    assert [path.name for path in packs.iterdir()] == [winners[0].folder.name]
    assert_holds(store, photos)
    assert_holds(winners[0], photos)


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
