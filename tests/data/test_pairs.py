"""Stage 1's training set: of which image and quality patches are, what happened to them since, and what decides it."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.config import DataConfig, PairsConfig
from data.jpeg import jpeg_roundtrip
from data.pairs import ContrastivePatches
from data.patches import Patches
from data.store import PixelStore
from tests.patches import all_patches, corners, noise, pack_images, patch_bytes, settings, three_images, wholes

Pack = Callable[..., PixelStore]
SIZE = 8  # of the patches that are looked for among all histories there can be
REACH = SIZE + 32  # side of the region around such a patch


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    return partial(pack_images, tmp_path)


def pairs_of(store: PixelStore, config: DataConfig, *, seed: int = 0, **given: object) -> ContrastivePatches:
    return ContrastivePatches([store], config, PairsConfig(**given), seed=seed)


def drawn_patches(dataset: ContrastivePatches, num_epochs: int) -> Iterator[Tensor]:
    """Queries and keys in turn."""
    for epoch in range(num_epochs):
        sample = dataset[epoch, 0]
        yield from (*sample["query"], *sample["key"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("num_qualities", [1, 3])
def test_pairs_of_a_sample_are_of_one_image_and_each_of_its_own_quality(
    pack: Pack, channels: int, num_qualities: int
) -> None:
    store = pack(*three_images())
    dataset = pairs_of(store, settings(channels=channels), seed=7, qualities_per_image=num_qualities)
    views = list(wholes(store, channels=channels))
    found = Counter()
    for epoch, index in product(range(3), range(3)):
        sample = dataset[epoch, index]
        assert sample["query"].shape == sample["key"].shape == (num_qualities, channels, 16, 16)
        assert sample["query"].dtype == sample["key"].dtype == torch.uint8
        qualities = sample["quality"].tolist()
        assert sample["quality"].dtype == torch.int64 and len(set(qualities)) == num_qualities
        (view,) = (
            number
            for number, view in enumerate(views)
            if all(
                corners(query, coded) and corners(key, coded)
                for query, key, quality in zip(sample["query"], sample["key"], qualities, strict=True)
                for coded in [jpeg_roundtrip(view, quality)]
            )
        )
        found[epoch, view // 8] += 1
    assert set(found.values()) == {1} and len(found) == 9  # each image once an epoch


def test_patches_of_a_sample_lie_apart_and_qualities_change(pack: Pack) -> None:
    dataset = pairs_of(pack(*three_images()), settings(), seed=7, qualities_per_image=2)
    samples = [dataset[epoch, index] for epoch, index in product(range(4), range(3))]
    assert not any(torch.equal(sample["query"], sample["key"]) for sample in samples)
    assert len({tuple(sample["quality"].tolist()) for sample in samples}) > 8


def test_an_image_may_have_all_qualities_there_are(pack: Pack) -> None:
    dataset = pairs_of(pack(noise(16, 16)), settings(qualities=[10, 10, 30, 50]), qualities_per_image=3)
    orders = Counter(tuple(dataset[epoch, 0]["quality"].tolist()) for epoch in range(60))
    assert all(sorted(order) == [10, 30, 50] for order in orders) and len(orders) == 6


class PairsAsPrinted(Patches):
    """The paper's pairs, without more qualities or histories, drawn in the order of the first recipes' streams."""

    def __getitem__(self, position: tuple[int, int]) -> dict:
        image, quality, rng = self._start(*position)
        is_full_range = self._draw_range(rng)
        query, key = (self._patch(image, quality, is_full_range, rng)[0] for _ in range(2))
        return {"query": query[None], "key": key[None], "quality": torch.tensor([quality])}


def test_without_histories_the_stream_is_the_one_it_always_was(pack: Pack) -> None:
    store, config = pack(*three_images()), settings(full_range_share=0.5)
    printed = PairsAsPrinted([store], config, seed=3)
    for given in ({}, {"second_qualities": [50], "scales": [0.5, 0.6]}):
        dataset = pairs_of(store, config, seed=3, **given)
        for position in product(range(2), range(3)):
            torch.testing.assert_close(dataset[position], printed[position], rtol=0, atol=0)


def test_a_sample_follows_from_seed_epoch_and_index_alone(pack: Pack) -> None:
    store, config = pack(*three_images()), settings(full_range_share=0.5)
    make = partial(pairs_of, store, config, qualities_per_image=2, double_share=0.4, resized_share=0.3)
    dataset, again = make(seed=5), make(seed=5)
    asked = {position: dataset[position] for position in product(range(3), range(3))}
    torch.manual_seed(99)  # the global generators play no part
    np.random.seed(99)  # noqa: NPY002
    for position in reversed(asked):
        torch.testing.assert_close(again[position], asked[position], rtol=0, atol=0)
    for other in (asked[1, 0], asked[0, 1], make(seed=6)[0, 0]):
        assert not torch.equal(other["query"], asked[0, 0]["query"])


def doubled(region: np.ndarray, first: int, second: int, shift: tuple[int, int]) -> np.ndarray:
    """Coded, cut, coded again."""
    once = jpeg_roundtrip(region, first)[shift[0] :, shift[1] :]
    return jpeg_roundtrip(np.ascontiguousarray(once), second)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_doubled_patch_is_of_a_region_coded_cut_and_coded_again(pack: Pack, channels: int) -> None:
    image = noise(REACH, REACH)  # all of it is the region
    config = settings(channels=channels, patch_size_px=SIZE, qualities=[30])
    dataset = pairs_of(pack(image), config, double_share=1.0, second_qualities=[80])
    patches = [patch_bytes(patch) for patch in drawn_patches(dataset, 30)]
    wanted, found = set(patches), {}
    for view, shift in product(wholes([image], channels=channels), product(range(8), repeat=2)):
        for patch in wanted.intersection(all_patches(doubled(view, 30, 80, shift), SIZE)):
            found[patch] = shift
    assert found.keys() == wanted
    shifts = [found[patch] for patch in patches]
    rows, columns = (set(values) for values in zip(*shifts, strict=True))
    assert rows == columns == set(range(8))  # 60 draws of 8
    assert sum(query != key for query, key in zip(shifts[::2], shifts[1::2], strict=True)) > 25  # each by itself


@pytest.mark.parametrize("channels", [1, 3])
def test_a_resized_patch_is_of_a_region_coded_and_made_smaller(pack: Pack, channels: int) -> None:
    image = noise(REACH, REACH)  # all of it is the region, at any scale
    config = settings(channels=channels, patch_size_px=SIZE, qualities=[30])
    dataset = pairs_of(pack(image), config, resized_share=1.0, scales=[0.6, 0.9])
    patches = [patch_bytes(patch) for patch in drawn_patches(dataset, 30)]
    wanted, found = set(patches), {}
    for view, side in product(wholes([image], channels=channels), range(SIZE, REACH + 1)):
        smaller = Image.fromarray(jpeg_roundtrip(view, 30)).resize((side, side), Image.Resampling.BICUBIC)
        for patch in wanted.intersection(all_patches(np.asarray(smaller), SIZE)):
            found[patch] = side
    assert found.keys() == wanted
    sides = [found[patch] for patch in patches]
    assert 24 <= min(sides) < 27 and 33 < max(sides) <= 36  # 0.6 and 0.9 of 40
    assert sum(query != key for query, key in zip(sides[::2], sides[1::2], strict=True)) > 20  # each by itself


def test_a_region_starts_on_the_grid_and_is_large_enough_for_its_scale(pack: Pack) -> None:
    """Scale 1/2 halves 48 pixels: the patch's two times 8, and 32 for it to lie anywhere."""
    image = noise(70, 48)  # room for the region at 0 and 16
    config = settings(channels=3, patch_size_px=SIZE, qualities=[30])
    dataset = pairs_of(pack(image), config, resized_share=1.0, scales=[0.5, 0.5])
    wanted, found = {patch_bytes(patch) for patch in drawn_patches(dataset, 20)}, {}
    for view, start in product(wholes([image], channels=3), (0, 16)):
        region = view[start : start + 48] if view.shape[0] > 48 else view[:, start : start + 48]
        halved = Image.fromarray(jpeg_roundtrip(np.copy(region), 30)).resize((24, 24), Image.Resampling.BICUBIC)
        for patch in wanted.intersection(all_patches(np.asarray(halved), SIZE)):
            found[patch] = start
    assert found.keys() == wanted and set(found.values()) == {0, 16}


def test_shares_are_shares_and_each_patch_of_a_pair_has_its_own_history(pack: Pack) -> None:
    double_share, resized_share = 0.2, 0.5
    image = noise(24, 24)
    config = settings(channels=3, qualities=[30])
    shares = {"double_share": double_share, "resized_share": resized_share}
    dataset = pairs_of(pack(image), config, **shares, second_qualities=[90])
    once = {patch for view in wholes([image], channels=3) for patch in all_patches(jpeg_roundtrip(view, 30), 16)}
    doubles = {
        patch
        for view, shift in product(wholes([image], channels=3), product(range(8), repeat=2))
        for patch in all_patches(doubled(view, 30, 90, shift), 16)
    }
    kinds = []
    for patch in map(patch_bytes, drawn_patches(dataset, 200)):
        kinds.append("once" if patch in once else "double" if patch in doubles else "resized")
    counts = Counter(kinds)
    for kind, share in (("double", double_share), ("resized", resized_share)):
        # Four standard deviations of a share of 400 draws.
        assert abs(counts[kind] / 400 - share) <= 4 * (share * (1 - share) / 400) ** 0.5, counts
    both = Counter(zip(kinds[::2], kinds[1::2], strict=True))
    expected = 1 - sum(share**2 for share in (double_share, resized_share, 1 - double_share - resized_share))
    different = sum(count for (query, key), count in both.items() if query != key) / 200
    assert abs(different - expected) <= 4 * (expected * (1 - expected) / 200) ** 0.5


@pytest.mark.parametrize("shares", [{"double_share": 1.0}, {"resized_share": 1.0}], ids=["double", "resized"])
@pytest.mark.parametrize("channels", [1, 3])
def test_patches_have_their_size_however_small_the_image_is(pack: Pack, shares: dict, channels: int) -> None:
    sides = [16, 17, 20, 23, 24, 31, 47, 49, 80]
    store = pack(*(noise(side, other) for side in sides for other in (side, 80)))
    dataset = pairs_of(store, settings(channels=channels), **shares, scales=[0.5, 0.95], qualities_per_image=2)
    for position in product(range(2), range(len(dataset))):
        sample = dataset[position]
        assert sample["query"].shape == sample["key"].shape == (2, channels, 16, 16)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_patch_s_size_is_neither_cut_nor_made_smaller(pack: Pack, channels: int) -> None:
    image = noise(16, 16)
    store, config = pack(image), settings(channels=channels, qualities=[30])
    views = list(wholes([image], channels=channels))
    once = {jpeg_roundtrip(view, 30).tobytes() for view in views}
    twice = {doubled(view, 30, second, (0, 0)).tobytes() for view, second in product(views, (70, 80))}
    for shares, expected in (({"resized_share": 1.0}, once), ({"double_share": 1.0}, twice)):
        dataset = pairs_of(store, config, **shares, second_qualities=[70, 80])
        assert {patch_bytes(patch) for patch in drawn_patches(dataset, 100)} == expected


@pytest.mark.parametrize(
    "shares", [{}, {"double_share": 1.0}, {"resized_share": 1.0}], ids=["once", "double", "resized"]
)
@pytest.mark.parametrize(("share", "expected"), [(0.0, {False}), (1.0, {True}), (0.5, {False, True})])
def test_all_patches_of_a_sample_are_of_one_range(pack: Pack, shares: dict, share: float, expected: set[bool]) -> None:
    image = noise(16, 16)  # the patch's size: at one place, unshifted, at its own scale
    config = settings(qualities=[30, 50], full_range_share=share)
    dataset = pairs_of(pack(image), config, **shares, second_qualities=[80], qualities_per_image=2)
    ranges = {}
    for full_range, quality in product((False, True), (30, 50)):
        for plane in wholes([image], channels=1, full_range=full_range):
            coded = doubled(plane, quality, 80, (0, 0)) if "double_share" in shares else jpeg_roundtrip(plane, quality)
            ranges[quality, coded.tobytes()] = full_range
    drawn = []
    for epoch in range(20):
        sample = dataset[epoch, 0]
        patches = (
            (quality, patch_bytes(patch))
            for name in ("query", "key")
            for quality, patch in zip(sample["quality"].tolist(), sample[name], strict=True)
        )
        (full_range,) = {ranges[patch] for patch in patches}
        drawn.append(full_range)
    assert set(drawn) == expected


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"qualities_per_image": 0}, "pairs.qualities_per_image must be at least 1, got 0"),
        ({"double_share": -0.1}, "pairs.double_share and .* 0 or more and at most 1 together, got -0.1 and 0.0"),
        ({"resized_share": -0.1}, "pairs.double_share and .* 0 or more and at most 1 together, got 0.0 and -0.1"),
        ({"double_share": 0.6, "resized_share": 0.5}, "at most 1 together, got 0.6 and 0.5"),
        ({"double_share": math.nan}, "at most 1 together, got nan and 0.0"),
        ({"resized_share": math.nan}, "at most 1 together, got 0.0 and nan"),
        ({"scales": [0.9, 0.7]}, r"pairs.scales must be two numbers in order, within 0.5..1, got \[0.9, 0.7\]"),
        ({"scales": [0.4, 0.7]}, r"pairs.scales must be two numbers .* got \[0.4, 0.7\]"),
        ({"scales": [0.7, 1.1]}, r"pairs.scales must be two numbers .* got \[0.7, 1.1\]"),
        ({"scales": [0.7]}, r"pairs.scales must be two numbers .* got \[0.7\]"),
        ({"second_qualities": []}, "pairs.second_qualities is empty"),
        ({"second_qualities": ["90..101"]}, "pairs.second_qualities: '90..101' is no quality within 1..100"),
    ],
)
def test_settings_out_of_range_are_named(given: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        PairsConfig(**given)


def test_more_qualities_of_an_image_than_there_are_is_refused(pack: Pack) -> None:
    store = pack(noise(16, 16))
    with pytest.raises(ValueError, match="pairs.qualities_per_image is 3, but data.qualities has only 2 different"):
        pairs_of(store, settings(qualities=[10, 20, "10..10"]), qualities_per_image=3)
