"""Stage 2's patches with a history: uncoded, by other encoders, coded twice. Each is a patch of a whole image."""

import io
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, JpegImagePlugin

from data.color import luma
from data.config import HistoriesConfig
from data.jpeg import encode, jpeg_roundtrip
from data.patches import RestorationPatches
from data.quantization import foreign_tables, libjpeg_tables
from data.recompression import Coding
from data.store import PixelStore
from restoration.config import RestorerConfig
from tests.patches import corners, pack_images, settings, three_images, wholes

EVERYTHING = HistoriesConfig(0.2, full_chroma_share=0.5, foreign_tables_share=0.5, double_share=0.5)


@pytest.fixture
def store(tmp_path: Path) -> PixelStore:
    return pack_images(tmp_path, *three_images())


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[list[Coding]]:
    """The codings of every sample that is made."""
    made, plain = [], RestorationPatches._codings
    monkeypatch.setattr(RestorationPatches, "_codings", lambda *given: made.append(plain(*given)) or made[-1])
    return made


def slowly(whole: np.ndarray, codings: list[Coding]) -> tuple[np.ndarray, np.ndarray]:
    """The whole image after the codings, and the whole clean image: cut and coded one after the other."""
    coded = clean = whole
    for quality, full_chroma, tables, (rows, columns) in codings:
        clean, coded = clean[rows:, columns:], np.ascontiguousarray(coded[rows:, columns:])
        coded = jpeg_roundtrip(coded, quality, full_chroma=full_chroma, tables=tables)
    return coded, clean


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 33])
def test_a_patch_is_that_of_the_whole_image_with_the_same_history(
    store: PixelStore, spied: list, channels: int, size: int
) -> None:
    histories = EVERYTHING if channels == 3 else HistoriesConfig(0.2, foreign_tables_share=0.5, double_share=0.5)
    dataset = RestorationPatches([store], settings(channels=channels, patch_size_px=size), histories, seed=7)
    views, seen = list(wholes(store, channels=channels)), set()
    for epoch in range(12):
        for index in range(len(dataset)):
            sample, codings = dataset[epoch, index], spied[-1]
            pairs = [slowly(view, codings) for view in views]
            places = [corners(sample["clean"], clean) & corners(sample["degraded"], coded) for coded, clean in pairs]
            assert sum(map(len, places)) == 1
            seen |= {(len(codings), coding.full_chroma, coding.tables is not None) for coding in codings or [Coding(1)]}
    assert len(seen) == (9 if channels == 3 else 5)  # uncoded; once or twice, by every encoder


def test_a_sample_with_a_history_follows_from_its_position_alone(store: PixelStore) -> None:
    build = partial(RestorationPatches, [store], settings(channels=3), EVERYTHING, seed=5)
    positions = [(epoch, index) for epoch in range(8) for index in range(3)]
    dataset, again = build(), build()
    asked = [dataset[position] for position in positions]
    for position, sample in reversed(list(zip(positions, asked, strict=True))):
        torch.testing.assert_close(again[position], sample, rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_shares_are_shares(store: PixelStore, spied: list, share: float) -> None:
    """Of all patches, of the coded patches, of the codings."""
    config, num_epochs = settings(channels=3), 200
    for name in ("clean_share", "double_share", "full_chroma_share", "foreign_tables_share"):
        dataset = RestorationPatches([store], config, HistoriesConfig(**{name: share}), seed=0)
        spied.clear()
        for epoch in range(num_epochs):
            dataset[epoch, 0]
        counts = {
            "clean_share": sum(not codings for codings in spied),
            "double_share": sum(len(codings) == 2 for codings in spied),
            "full_chroma_share": sum(coding.full_chroma for codings in spied for coding in codings),
            "foreign_tables_share": sum(coding.tables is not None for codings in spied for coding in codings),
        }
        # Four standard deviations of a share of 200 draws; a share of 0 or 1 is exact.
        assert abs(counts.pop(name) - num_epochs * share) <= 4 * (num_epochs * share * (1 - share)) ** 0.5
        assert not any(counts.values())


@pytest.mark.parametrize(("channels", "period"), [(1, 8), (3, 16)])  # in colour, chroma blocks are 16 pixels wide
def test_the_second_coding_has_qualities_and_shifts_of_its_own(
    channels: int, period: int, store: PixelStore, spied: list
) -> None:
    histories = HistoriesConfig(double_share=1, second_qualities=[90, 92])
    dataset = RestorationPatches([store], settings(qualities=[10], channels=channels), histories, seed=0)
    for epoch in range(300 if channels == 1 else 2000):
        dataset[epoch, 0]
    assert {(first.quality, first.shift, second.quality) for first, second in spied} == {
        (10, (0, 0), 90),
        (10, (0, 0), 92),
    }
    assert {second.shift for _, second in spied} == set(itertools.product(range(period), repeat=2))


def test_an_image_of_the_size_of_a_patch_is_coded_twice_without_a_shift(tmp_path: Path, spied: list) -> None:
    store = pack_images(tmp_path, three_images()[2][:16, :16])
    dataset = RestorationPatches([store], settings(), HistoriesConfig(double_share=1), seed=0)
    assert dataset[0, 0]["degraded"].shape == (1, 16, 16)
    assert [coding.shift for coding in spied[0]] == [(0, 0), (0, 0)]


def written(data: bytes) -> JpegImagePlugin.JpegImageFile:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("channels", [1, 3])
def test_given_tables_are_the_ones_in_the_file(channels: int) -> None:
    image = three_images()[0] if channels == 3 else luma(three_images()[0])
    tables = [list(range(1, 65)), list(range(192, 256))]
    for quality in (1, 50, 100):
        found = written(encode(image, quality, tables=tables)).quantization
        assert found[0] == tables[0] and (channels == 1 or found[1] == tables[1])


@pytest.mark.parametrize(("full_chroma", "sampling"), [(False, 2), (True, 0)])  # Pillow's numbers of 4:2:0 and 4:4:4
def test_full_chroma_is_written_as_such(full_chroma: bool, sampling: int) -> None:
    data = encode(three_images()[0], 50, full_chroma=full_chroma)
    assert JpegImagePlugin.get_sampling(written(data)) == sampling


@pytest.mark.parametrize("quality", [1, 10, 50, 90, 100])
def test_libjpegs_tables_are_those_of_its_files(quality: int) -> None:
    found = written(encode(three_images()[0], quality)).quantization
    assert [list(table) for table in libjpeg_tables(quality)] == [found[0], found[1]]


@pytest.mark.parametrize("quality", [5, 30, 60, 85])
def test_foreign_tables_are_as_coarse_as_libjpegs_but_others(quality: int) -> None:
    """In geometric mean. The level of a table is drawn with a spread of 0.2; its mean over 400 draws has 0.01."""
    rng, expected = np.random.default_rng(0), np.log(libjpeg_tables(quality)).mean(axis=1)
    drawn = np.array([foreign_tables(quality, rng) for _ in range(400)])  # (400, 2, 64)
    assert drawn.min() >= 1 and drawn.max() <= 255 and drawn.shape == (400, 2, 64)
    assert len(np.unique(drawn[:, 0], axis=0)) > 390  # at low quality, some flat ones are 255 throughout
    levels = np.log(drawn).mean(axis=2)
    assert abs(levels[:, 0].mean() - expected[0]) < 0.1  # steps end at 255, and small ones are rounded
    assert 0.1 < levels[:, 0].std() < 0.3
    spreads = np.log(drawn[:, 0]).std(axis=1)  # 0 if a table is flat
    assert spreads.min() < np.log(libjpeg_tables(quality)[0]).std() < spreads.max()


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: HistoriesConfig(clean_share=1.5), "histories.clean_share must be within 0..1, got 1.5"),
        (lambda: HistoriesConfig(full_chroma_share=-1), "histories.full_chroma_share must be within 0..1, got -1"),
        (lambda: HistoriesConfig(foreign_tables_share=2), "histories.foreign_tables_share must be within 0..1, got 2"),
        (lambda: HistoriesConfig(double_share=-0.1), "histories.double_share must be within 0..1, got -0.1"),
        (
            lambda: HistoriesConfig(second_qualities=["x"]),
            "histories.second_qualities: 'x' is no quality within 1..100",
        ),
        (
            lambda: RestorerConfig(trainer=None, encoder="e", histories=HistoriesConfig(full_chroma_share=0.5)),
            r"histories.full_chroma_share is 0.5, but luma \(data.channels 1\) has no chroma; set it to 0",
        ),
    ],
)
def test_settings_that_cannot_be_are_named(build: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build()
