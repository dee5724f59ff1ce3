"""Fine images come back as they were, by every way to restore: arrays, photos, evaluation."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from cqe.quality import QualityProbe, Reading
from engine.weight_files import read_weight_file
from restoration import load, restore_array
from restoration.fineness import FineLimits, Fineness, fineness_of
from restoration.photos import Photo, restore_photo
from restoration.tiling import restore_image
from restoration.weights import copy_calibrated, open_weights, store_half
from tests.networks import save_tiny, tiny_restorer
from tests.synthetic import picture


class Reads:
    """A stand-in for a reader. Remembers what it was shown."""

    def __init__(self, quality: float) -> None:
        self.quality = quality
        self.seen: list[tuple[int, ...]] = []

    def read(self, image: np.ndarray) -> Reading:
        self.seen.append(image.shape)
        return Reading(self.quality, 1.0)


def probe_that_reads(quality: float) -> QualityProbe:
    """A probe for `tiny_restorer`'s encoder that gives one quality, whatever it is shown."""
    probe = QualityProbe(32)
    probe.bias.fill_(quality)
    return probe


@pytest.mark.parametrize("shape", [(40, 56), (40, 56, 3), (300, 200)])
@pytest.mark.parametrize(("reading", "is_left"), [(92.4, False), (92.5, True), (100, True)])
def test_an_image_read_at_the_limit_is_left_alone(shape: tuple[int, ...], reading: float, is_left: bool) -> None:
    image = picture(*shape[:2]) if len(shape) == 3 else np.ascontiguousarray(picture(*shape)[..., 1])
    restorer = tiny_restorer(3 if image.ndim == 3 else 1, tail_std=1).eval()
    restorer.fineness = Fineness(FineLimits(92.5, 0.0), Reads(reading))
    for restored in (
        restore_image(restorer, image, tile_px=128),
        restore_photo(restorer, Photo(image, None, {}), tile_px=128).pixels,
        restore_array(restorer, image),
    ):
        assert np.array_equal(restored, image) == is_left
    assert restorer.fineness.reader.seen == [image.shape] * 3  # the whole image, once, and no tile


def test_a_restored_image_is_never_the_array_that_was_given() -> None:
    image, restorer = picture()[..., 0].copy(), tiny_restorer().eval()
    restorer.fineness = Fineness(FineLimits(50), Reads(99))
    assert restore_image(restorer, image) is not image


@pytest.mark.parametrize("change", [0.0, 3.0, 9999.0])
def test_the_limit_on_the_change_is_the_networks_own(change: float) -> None:
    image, restorer = picture()[..., 0].copy(), tiny_restorer(tail_std=0.3).eval()
    restorer.fineness = Fineness(FineLimits(change=0))
    largest = np.abs(restore_image(restorer, image).astype(int) - image).max()
    restorer.fineness = Fineness(FineLimits(change=change))
    assert largest > 3 and np.array_equal(restore_image(restorer, image), image) == (change > 100)


def test_limits_go_with_the_file_and_its_copies(tmp_path: Path) -> None:
    restorer = tiny_restorer(tail_std=1)
    old = save_tiny(tmp_path / "old.safetensors", restorer, probe=probe_that_reads(91))
    assert fineness_of(load(old)).limits == FineLimits(None, 1.7)
    copy_calibrated(read_weight_file(old), tmp_path / "new.safetensors", FineLimits(90.5, 0.8))
    store_half(tmp_path / "new.safetensors", tmp_path / "half.safetensors")
    for name in ("new", "half"):
        assert fineness_of(load(tmp_path / f"{name}.safetensors")).limits == FineLimits(90.5, 0.8)
    before, after = load_file(old), load_file(tmp_path / "new.safetensors")
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)
    image = picture()[..., 0].copy()
    assert np.array_equal(restore_array(load(tmp_path / "new.safetensors"), image), image)
    assert not np.array_equal(restore_array(load(old), image), image)


def test_a_quality_limit_has_no_effect_without_a_probe(tmp_path: Path) -> None:
    save_tiny(tmp_path / "old.safetensors", tiny_restorer(tail_std=1))
    copy_calibrated(read_weight_file(tmp_path / "old.safetensors"), tmp_path / "new.safetensors", FineLimits(1, 0))
    image = picture()[..., 0].copy()
    assert not np.array_equal(restore_array(load(tmp_path / "new.safetensors"), image), image)


@pytest.mark.parametrize("stored", [{"quality": "90"}, {"change": None}, {"change": -1}, {"change": True}, {"best": 1}])
def test_limits_that_cannot_be_are_an_error_of_the_file(tmp_path: Path, stored: dict) -> None:
    limits = FineLimits()
    save_tiny(tmp_path / "old.safetensors")

    class Stored(FineLimits):
        def _asdict(self) -> dict:
            return stored

    copy_calibrated(read_weight_file(tmp_path / "old.safetensors"), tmp_path / "new.safetensors", Stored(*limits))
    with pytest.raises(ValueError, match=r"new.safetensors describes a network that this version cannot build"):
        open_weights(tmp_path / "new.safetensors")
