"""The miniature set of scikit-image's photos."""

from pathlib import Path

import pytest
import skimage.data

from data import bundled
from data.images import list_images, read_rgb
from data.jpeg import decode
from tests.program import run_data


def test_makes_three_disjoint_splits_and_damaged_copies_of_the_test_photos(tmp_path: Path, capsys) -> None:
    assert run_data("bundled", "--root", str(tmp_path)) == 0
    assert "bundled" in capsys.readouterr().out
    splits = {split: {path.name for path in list_images(tmp_path / "bundled" / split)} for split in bundled.PHOTOS}
    assert splits == {split: set(names) for split, names in bundled.PHOTOS.items()}
    assert not set.intersection(*splits.values())
    clean = read_rgb(Path(skimage.data.__file__).parent / "astronaut.png")
    strong, weak = (decode((tmp_path / "damaged" / f"astronaut_q{quality}.jpg").read_bytes()) for quality in (10, 30))
    errors = [abs(image.astype(int) - clean).mean() for image in (strong, weak)]
    assert errors[0] > errors[1] > 0


def test_says_which_photos_an_old_scikit_image_lacks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bundled, "PHOTOS", {"train": ("coffee.png", "no_such_photo.png")})
    with pytest.raises(FileNotFoundError, match=r"lacks no_such_photo\.png"):
        bundled.make_bundled(tmp_path)
    assert not (tmp_path / "bundled").exists()
