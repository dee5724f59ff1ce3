"""The cache of scores: what is measured again, and what is not."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from evaluation.scores import cache
from evaluation.scores.image_sets import ImageSet
from tests.synthetic import write_pictures

SYSTEM = {"method": "mine", "weights_sha256": "ab"}


class Counted:
    """A measurement that counts what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[int]]] = []

    def __call__(self, image_set: ImageSet, qualities: Sequence[int]) -> dict:
        self.asked.append((image_set.name, list(qualities)))
        return {str(quality): {"psnr": 30 + quality / 3, "gain": math.inf} for quality in qualities}


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    write_pictures(tmp_path / "set", ["a", "b"])
    return ImageSet("set", sorted((tmp_path / "set").glob("*.png")))


def test_a_second_call_measures_nothing_and_gives_the_same_scores_to_the_last_digit(
    images: ImageSet, tmp_path: Path
) -> None:
    measure = Counted()
    first = cache.cached(tmp_path / "cache", SYSTEM, [images], [10, 20], measure)
    assert first == {
        "set": {"10": {"psnr": 30 + 10 / 3, "gain": math.inf}, "20": {"psnr": 30 + 20 / 3, "gain": math.inf}}
    }
    assert cache.cached(tmp_path / "cache", SYSTEM, [images], [10, 20], measure) == first
    assert measure.asked == [("set", [10, 20])]
    assert list(cache.cached(tmp_path / "cache", SYSTEM, [images], [30, 20], measure)["set"]) == ["30", "20"]
    assert measure.asked[1:] == [("set", [30])]


def test_whatever_scores_depend_on_is_measured_anew(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Counted()

    def again(**changed: str) -> bool:
        before = len(measure.asked)
        cache.cached(tmp_path / "cache", SYSTEM | changed, [images], [10], measure)
        return len(measure.asked) > before

    assert again() and not again()
    assert again(weights_sha256="cd") and again(torch="0.1") and again(protocol="other")
    images.paths[1].write_bytes(images.paths[0].read_bytes())
    assert again() and not again()
    monkeypatch.setattr(cache, "code_digest", lambda: "other")
    assert again()


def test_a_file_that_is_cut_off_is_measured_again(images: ImageSet, tmp_path: Path) -> None:
    measure = Counted()
    first = cache.cached(tmp_path / "cache", SYSTEM, [images], [10], measure)
    (path,) = (tmp_path / "cache").glob("*.json")
    for content in ("", path.read_text()[:-5], "[]", "{}"):
        path.write_text(content)
        assert cache.cached(tmp_path / "cache", SYSTEM, [images], [10], measure) == first
    assert len(measure.asked) == 5


def test_a_folder_that_cannot_be_written_to_stops_before_anything_is_measured(images: ImageSet, tmp_path: Path) -> None:
    measure = Counted()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written"):
        cache.cached(tmp_path / "file", SYSTEM, [images], [10], measure)
    assert not measure.asked


def test_the_code_that_scores_depend_on_is_in_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all((cache.ROOT / folder).is_dir() for folder in cache.SOURCES)
    assert {"engine", "commands"} <= set(cache.SOURCES)  # they read weight files, and choose device and precision
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    digests = set()
    for text in ("a = 1", "a = 2"):
        (tmp_path / "data" / "a.py").write_text(text)
        cache.code_digest.cache_clear()
        digests.add(cache.code_digest())
    cache.code_digest.cache_clear()
    assert len(digests) == 2
