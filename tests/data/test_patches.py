"""Stage 2's training set and what stage 1's shares with it: patches of whole coded images, from a position alone."""

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data.augment import NUM_SYMMETRIES, symmetry
from data.color import luma
from data.config import DataConfig, expand_qualities
from data.jpeg import jpeg_roundtrip
from data.patches import Patches, RestorationPatches, open_training_stores
from data.splits import bsds500_stems
from data.store import PixelStore
from tests.patches import corners, noise, pack_images, settings, three_images, wholes
from tests.synthetic import write_pictures

Pack = Callable[..., PixelStore]


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    return partial(pack_images, tmp_path)


def flat(level: int) -> np.ndarray:
    return np.full((16, 16, 3), level, np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_degraded_is_the_clean_place_in_the_coded_whole_image(pack: Pack, channels: int) -> None:
    store = pack(*three_images())
    dataset = RestorationPatches([store], settings(channels=channels), seed=7)
    for epoch in range(3):
        for index in range(len(dataset)):
            sample = dataset[epoch, index]
            assert sample["degraded"].dtype == sample["clean"].dtype == torch.uint8
            places = [
                corners(sample["clean"], whole) & corners(sample["degraded"], jpeg_roundtrip(whole, sample["quality"]))
                for whole in wholes(store, channels=channels)
            ]
            assert sum(map(len, places)) == 1


@pytest.mark.parametrize(("share", "expected"), [(0.0, {False}), (1.0, {True}), (0.5, {False, True})])
def test_full_range_share_chooses_the_luma(pack: Pack, share: float, expected: set[bool]) -> None:
    store = pack(noise(20, 20))
    dataset = RestorationPatches([store], settings(full_range_share=share), seed=0)
    ranges = {full_range: list(wholes(store, channels=1, full_range=full_range)) for full_range in (False, True)}
    drawn = {
        full_range
        for clean in (dataset[epoch, 0]["clean"] for epoch in range(12))
        for full_range, planes in ranges.items()
        if any(corners(clean, plane) for plane in planes)
    }
    assert drawn == expected


def drawn_corners(dataset: Patches, count: int) -> Counter:
    (image,) = (np.asarray(store[index]) for store, index in dataset.images)
    turned = [symmetry(image, index) for index in range(NUM_SYMMETRIES)]
    found = Counter()
    for epoch in range(count):
        clean = dataset[epoch, 0]["clean"]
        ((place,),) = (places for view in turned if (places := corners(clean, view)))
        found[place] += 1
    return found


def test_aligned_patches_start_on_the_grid_at_every_place(pack: Pack) -> None:
    """In colour the grid is that of the 16x16 units of 4:2:0."""
    dataset = RestorationPatches([pack(noise(40, 40))], settings(channels=3, aligned_share=1.0), seed=0)
    assert set(drawn_corners(dataset, 60)) == {(0, 0), (0, 16), (16, 0), (16, 16)}


def test_unaligned_patches_start_anywhere(pack: Pack) -> None:
    dataset = RestorationPatches([pack(noise(19, 19))], settings(channels=3, aligned_share=0.0), seed=0)
    assert set(drawn_corners(dataset, 160)) == {(top, left) for top in range(4) for left in range(4)}


def test_aligned_share_is_a_share(pack: Pack) -> None:
    dataset = RestorationPatches([pack(noise(24, 24))], settings(channels=3, aligned_share=0.5), seed=0)
    found = drawn_corners(dataset, 400)
    num_on_grid = sum(count for (top, left), count in found.items() if top % 8 == left % 8 == 0)
    expected = 0.5 + 0.5 * 4 / 81  # of the 9 x 9 corners, 4 are on the grid by chance
    # Four standard deviations of a share of 400 draws.
    assert abs(num_on_grid / 400 - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5


def test_all_eight_symmetries_are_drawn(pack: Pack) -> None:
    store = pack(noise(16, 16))
    dataset = RestorationPatches([store], settings(channels=3), seed=0)
    turned = list(wholes(store, channels=3))
    drawn = {
        index
        for clean in (dataset[epoch, 0]["clean"] for epoch in range(60))
        for index, view in enumerate(turned)
        if corners(clean, view)
    }
    assert drawn == set(range(NUM_SYMMETRIES))


def test_a_sample_follows_from_seed_epoch_and_index_alone(pack: Pack) -> None:
    store, config = pack(*three_images()), settings(full_range_share=0.5)
    dataset = RestorationPatches([store], config, seed=5)
    asked = {position: dataset[position] for position in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]}
    again = RestorationPatches([store], config, seed=5)
    np.random.default_rng(0).random()
    torch.manual_seed(99)  # the global generators play no part
    for position in reversed(asked):
        torch.testing.assert_close(again[position], asked[position], rtol=0, atol=0)
    differing = [asked[1, 0], RestorationPatches([store], config, seed=6)[0, 0], asked[0, 1]]
    for other in differing:
        assert any(not torch.equal(torch.as_tensor(other[key]), torch.as_tensor(asked[0, 0][key])) for key in other)


def test_a_fingerprint_is_that_of_the_names_and_their_order(pack: Pack) -> None:
    def fingerprint(*stores: PixelStore) -> str:
        return Patches(stores, settings(), seed=0).fingerprint()

    whole = pack(*three_images())
    part = whole.first(2)
    assert fingerprint(whole) == fingerprint(whole)
    assert len({fingerprint(whole), fingerprint(part), fingerprint(whole, part), fingerprint(part, whole)}) == 4


@pytest.mark.parametrize("channels", [1, 3])
def test_the_stream_is_that_of_plain_draws_in_a_fixed_order(pack: Pack, channels: int) -> None:
    """Runs go on from checkpoints of earlier versions: order, symmetry, quality, range, place are drawn like this."""
    store, config = pack(*three_images()), settings(channels=channels, full_range_share=0.5, qualities=["5..95", 10])
    dataset, qualities = RestorationPatches([store], config, seed=4), [*range(5, 96), 10]
    for epoch, index in [(0, 0), (0, 1), (2, 1), (0, 2), (2, 2), (1, 0)]:  # back and forth between epochs
        image = store[np.random.default_rng([4, epoch]).permutation(3)[index]]
        rng = np.random.default_rng([4, epoch, index])
        turned = symmetry(image, int(rng.integers(8)))
        quality = int(rng.choice(qualities))
        full_range = bool(rng.random() < 0.5)
        step = (8 if channels == 1 else 16) if rng.random() < 0.5 else 1
        top, left = (int(rng.integers((side - 16) // step + 1)) * step for side in turned.shape[:2])
        plane = np.ascontiguousarray(turned) if channels == 3 else luma(turned, full_range=full_range)
        sample = dataset[epoch, index]
        assert sample["quality"] == quality
        for name, whole in (("clean", plane), ("degraded", jpeg_roundtrip(plane, quality))):
            patch = whole[top : top + 16, left : left + 16].reshape(16, 16, channels)
            np.testing.assert_array_equal(sample[name].permute(1, 2, 0), patch)


def test_each_epoch_visits_every_image_once_in_an_order_of_its_own(pack: Pack) -> None:
    levels = list(range(0, 250, 10))
    dataset = RestorationPatches([pack(*map(flat, levels))], settings(channels=3), seed=0)
    orders = [[int(dataset[epoch, index]["clean"][0, 0, 0]) for index in range(len(dataset))] for epoch in range(3)]
    assert all(sorted(order) == levels for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0] and levels not in orders


def test_images_of_all_stores_take_part(pack: Pack) -> None:
    store = pack(*map(flat, (10, 20, 30)))
    dataset = RestorationPatches([store.first(1), store], settings(channels=3), seed=0)
    drawn = Counter(int(dataset[0, index]["clean"][0, 0, 0]) for index in range(len(dataset)))
    assert drawn == {10: 2, 20: 1, 30: 1}


def test_a_quality_named_twice_is_drawn_twice_as_often(pack: Pack) -> None:
    dataset = RestorationPatches([pack(flat(99))], settings(qualities=[10, "10..10", 90]), seed=0)
    drawn = Counter(dataset[epoch, 0]["quality"] for epoch in range(600))
    assert set(drawn) == {10, 90}
    assert abs(drawn[10] / 600 - 2 / 3) < 4 * (2 / 9 / 600) ** 0.5  # four standard deviations


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ([10, 20, 20], [10, 20, 20]),
        (["5..8"], [5, 6, 7, 8]),
        (["10..90:10"], [10, 20, 30, 40, 50, 60, 70, 80, 90]),
        (["10..35:10", 1, "100"], [10, 20, 30, 1, 100]),
    ],
)
def test_qualities_are_numbers_and_ranges(spec: list[int | str], expected: list[int]) -> None:
    assert expand_qualities(spec) == expected


@pytest.mark.parametrize("entry", [0, 101, "90..10", "90..101", "0..10", "10..20:0", "ten", "10-20", 7.5])
def test_an_entry_that_is_no_quality_is_named(entry: int | str) -> None:
    with pytest.raises(ValueError, match=f"data.qualities: '{entry}' is no quality within 1..100"):
        expand_qualities([50, entry])


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"channels": 2}, r"data.channels must be 1 \(luma\) or 3 \(RGB\), got 2"),
        ({"patch_size_px": 0}, "data.patch_size_px must be at least 1, got 0"),
        ({"batch_size": 0}, "data.batch_size must be at least 1, got 0"),
        ({"aligned_share": 1.5}, "data.aligned_share must be within 0..1, got 1.5"),
        ({"full_range_share": -0.1}, "data.full_range_share must be within 0..1, got -0.1"),
        ({"num_workers": -1}, "data.num_workers must be 0 or more, got -1"),
        ({"train": []}, "data.train names no folder"),
        ({"qualities": []}, "data.qualities is empty"),
        ({"qualities": ["10..900"]}, "data.qualities: '10..900' is no quality"),
    ],
)
def test_settings_out_of_range_are_named(given: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        DataConfig(**given)


def test_an_image_smaller_than_the_patch_is_named(pack: Pack) -> None:
    store = pack(noise(16, 16), noise(20, 15))
    with pytest.raises(ValueError, match=r"1\.png is 15x20 pixels, smaller than the patch: lower data.patch_size_px"):
        RestorationPatches([store], settings(), seed=0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_bsds500_images_held_out_are_refused_for_training(tmp_path: Path, split: str) -> None:
    stem = min(bsds500_stems(split))
    for folder, name in (("photos", "mine"), ("renamed", stem)):
        (tmp_path / folder).mkdir()
        Image.fromarray(noise(16, 16)).save(tmp_path / folder / f"{name}.png")
    config = settings(train=["photos", "renamed"], pack_dir=str(tmp_path / "packs"))
    with pytest.raises(ValueError, match=rf"renamed/{stem}\.png belongs to the BSDS500 {split} split, not to train"):
        open_training_stores(config, tmp_path)


def test_training_stores_are_opened_in_the_order_named(tmp_path: Path) -> None:
    train_stem = min(bsds500_stems("train"))
    for folder, name in (("photos", "mine"), ("bsds500/train", train_stem)):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(noise(16, 16)).save(tmp_path / folder / f"{name}.png")
    config = settings(train=["photos", "bsds500/train"], pack_dir=str(tmp_path / "packs"))
    assert [store.names for store in open_training_stores(config, tmp_path)] == [["mine.png"], [f"{train_stem}.png"]]
    with pytest.raises(FileNotFoundError, match="div2k does not exist"):
        open_training_stores(settings(train=["div2k"]), tmp_path)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_image_is_replaced_by_the_next_and_nothing_else_changes(
    tmp_path: Path, num_workers: int, request: pytest.FixtureRequest
) -> None:
    log = logging.FileHandler(tmp_path / "log.txt")  # as a training has it; the workers inherit it
    logging.getLogger().addHandler(log)
    request.addfinalizer(lambda: logging.getLogger().removeHandler(log))
    whole = pack_images(tmp_path, *(noise(20, 20, seed=seed) for seed in range(5)))
    broken = copied_with_zeros(whole, 2, tmp_path)
    config = settings(on_error="skip")
    intact, dataset = (RestorationPatches([store], config, seed=1) for store in (whole, broken))
    positions = [(epoch, index) for epoch in range(4) for index in range(5)]
    loader = DataLoader(dataset, sampler=positions, batch_size=None, num_workers=num_workers)
    replaced = 0
    for position, sample in zip(positions, loader, strict=True):
        if intact.file_of(position) != "set/2.png":
            torch.testing.assert_close(sample, intact[position], rtol=0, atol=0)
        else:
            replaced += 1
            assert any(corners(sample["clean"], plane) for plane in wholes([whole[3]], channels=1))
    assert replaced == 4
    said = (tmp_path / "log.txt").read_text()
    assert said.count("left out of the training: the packed pixels of set/2.png have changed") == 1


def test_a_broken_image_ends_the_training_if_it_may_not_be_skipped(tmp_path: Path) -> None:
    dataset = RestorationPatches(
        [copied_with_zeros(pack_images(tmp_path, *(noise(20, 20, seed=seed) for seed in range(3))), 1, tmp_path)],
        settings(),
        seed=1,
    )
    for index in range(3):
        if dataset.file_of((0, index)) == "set/1.png":
            with pytest.raises(ValueError, match=r"of set/1\.png have changed .* or set data\.on_error to skip$"):
                dataset[0, index]
        else:
            dataset[0, index]


def test_a_set_without_any_image_that_can_be_read_is_refused(tmp_path: Path) -> None:
    store = copied_with_zeros(pack_images(tmp_path, noise(20, 20)), 0, tmp_path)
    with pytest.raises(ValueError, match=r"data\.train holds no image that can be read"):
        RestorationPatches([store], settings(on_error="skip"), seed=1)[0, 0]


def test_an_unreadable_file_is_left_out_of_a_training_set(tmp_path: Path) -> None:
    write_pictures(tmp_path / "photos", ["a", "b", "c"])
    (tmp_path / "photos" / "b.png").write_bytes(b"no image")
    config = settings(train=["photos"], pack_dir=str(tmp_path / "packed"), on_error="skip")
    dataset = RestorationPatches(open_training_stores(config, tmp_path), config, seed=1)
    assert len(dataset) == 3 and len([dataset[0, index] for index in range(3)]) == 3
    with pytest.raises(ValueError, match=r"b\.png is not an image that can be read"):
        open_training_stores(replace(config, on_error="raise"), tmp_path)


def copied_with_zeros(store: PixelStore, index: int, folder: Path) -> PixelStore:
    """The pack with the pixels of an image zeroed, as after a power cut; in a folder of the same name."""
    copy = folder / "damaged" / store.folder.name
    shutil.copytree(store.folder, copy)
    with open(copy / "pixels.bin", "r+b") as file:
        file.seek(store._offsets[index])
        file.write(bytes(store[index].size))
    return PixelStore(copy)
