"""BSDS500's file lists: their sizes, and the refusal of images from another split."""

from pathlib import Path

import pytest

from data.splits import BSDS500_SPLITS, bsds500_split, bsds500_stems, refuse_other_split


def test_splits_have_the_published_sizes_and_share_nothing() -> None:
    assert [len(bsds500_stems(split)) for split in BSDS500_SPLITS] == [200, 100, 200]
    assert len(frozenset.union(*map(bsds500_stems, BSDS500_SPLITS))) == 500


def test_known_images_are_where_berkeley_put_them() -> None:
    assert bsds500_split("100075") == "train"
    assert bsds500_split("101085") == "val"
    assert bsds500_split("100007") == "test"
    assert bsds500_split("lena") is None


def test_a_training_image_offered_for_testing_is_named() -> None:
    paths = [Path("test/100007.jpg"), Path("test/100075.jpg"), Path("test/100080.jpg")]
    with pytest.raises(
        ValueError,
        match=r"100075\.jpg belongs to the BSDS500 train split, not to test \(and 1 more\); use the folder",
    ):
        refuse_other_split(paths, "test")


def test_the_right_split_and_other_images_pass() -> None:
    refuse_other_split(["a/100075.jpg", "b/100080.png", "photo.jpg"], "train")
    refuse_other_split([], "val")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'valid'"):
        refuse_other_split([], "valid")
