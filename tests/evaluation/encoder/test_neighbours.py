"""Reading a quality off nearest neighbours: only other images count, crops are of coded whole images; content check."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from cqe.quality import raw_rows
from data.color import luma, to_image
from data.jpeg import jpeg_roundtrip
from data.store import PixelStore, open_store
from evaluation.encoder.neighbours import (
    content_check,
    knn_quality,
    knn_quality_of_readings,
    quality_crops,
    represent,
)


@pytest.fixture
def store(tmp_path: Path) -> PixelStore:
    (tmp_path / "set").mkdir()
    for index, shape in enumerate([(40, 51, 3), (37, 33, 3), (24, 24, 3)]):
        image = np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "set" / f"{index}.png")
    return open_store(tmp_path / "set", tmp_path / "packs")


def labelled(num_images: int, qualities: list[int]) -> tuple[Tensor, Tensor]:
    """One row of every image at every quality: the labels (N,), the image of each row (N,)."""
    return torch.tensor(qualities).repeat(num_images), torch.arange(num_images).repeat_interleave(len(qualities))


def one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels.unique(return_inverse=True)[1]).float()


def test_separable_clusters_are_read_without_error() -> None:
    qualities, images = labelled(6, [10, 40, 90])
    rows = F.normalize(one_hot(qualities) + 0.05 * torch.randn(18, 3), dim=1)
    assert knn_quality(rows, qualities, images) == {"knn_accuracy": 1.0, "knn_mae": 0.0}


def test_neighbours_of_the_same_image_would_help_but_do_not_count() -> None:
    # Each image is a tight cluster of one quality: its own crops would give 1.0, other images have another quality.
    images = torch.arange(2).repeat_interleave(6)
    qualities = torch.tensor([20, 50]).repeat_interleave(6)
    assert knn_quality(one_hot(images), qualities, images) == {"knn_accuracy": 0.0, "knn_mae": 30.0}


def test_neighbours_of_the_same_image_would_mislead_but_do_not_count() -> None:
    # What an image shows weighs ten times as much as its quality: the nearest rows are those of the same image.
    qualities, images = labelled(6, [10, 20, 30, 40, 50, 60])
    rows = F.normalize(torch.cat([10 * one_hot(images), one_hot(qualities)], dim=1), dim=1)
    assert knn_quality(rows, qualities, images) == {"knn_accuracy": 1.0, "knn_mae": 0.0}


def test_error_is_of_the_neighbours_mean_and_the_vote_of_their_mode() -> None:
    # Three images on an arc; each row has two neighbours, the two others. Ties go to the lower quality.
    angles = torch.tensor([0.0, 0.1, 0.3])
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    qualities, images = torch.tensor([10, 30, 10]), torch.arange(3)
    # Means 20, 10, 20 against 10, 30, 10; votes 10, 10, 10.
    measured = knn_quality(rows, qualities, images, num_neighbours=2)
    assert measured == {"knn_accuracy": pytest.approx(2 / 3), "knn_mae": pytest.approx((10 + 20 + 10) / 3)}
    # One neighbour: rows 1, 0, 1 against 10, 30, 10.
    measured = knn_quality(rows, qualities, images, num_neighbours=1)
    assert measured == {"knn_accuracy": 0.0, "knn_mae": pytest.approx(20.0)}


def test_scores_agree_with_a_slow_loop() -> None:
    qualities, images = labelled(7, [10, 20, 30, 40])
    rows = F.normalize(one_hot(qualities) + torch.randn(28, 4), dim=1)
    hits, errors = [], []
    for row, quality, image in zip(rows, qualities.tolist(), images.tolist(), strict=True):
        others = [index for index in range(28) if images[index] != image]
        nearest = sorted(others, key=lambda index: -float(row @ rows[index]))[:5]
        voters = [int(qualities[index]) for index in nearest]
        hits.append(max(sorted(set(voters)), key=voters.count) == quality)
        errors.append(abs(sum(voters) / 5 - quality))
    assert 0 < sum(hits) < 28
    measured = knn_quality(rows, qualities, images)
    assert measured == {"knn_accuracy": pytest.approx(sum(hits) / 28), "knn_mae": pytest.approx(sum(errors) / 28)}


def test_rows_of_the_same_image_do_not_fill_up_missing_neighbours() -> None:
    # Two images of two crops: five neighbours are asked for, two of the other image are there, of the other quality.
    qualities, images = torch.tensor([20, 20, 50, 50]), torch.tensor([0, 0, 1, 1])
    assert knn_quality(one_hot(images), qualities, images) == {"knn_accuracy": 0.0, "knn_mae": 30.0}


def test_a_single_image_is_refused() -> None:
    qualities, images = labelled(1, [10, 20, 30, 40, 50, 60])
    with pytest.raises(ValueError, match="all crops are of one: validate on two images or more"):
        knn_quality(one_hot(qualities), qualities, images)


def test_readings_are_neighbours_by_their_difference() -> None:
    # Two other images each; the readings' nearest are 12 and 31, 11 and 31, 12 and 11.
    readings, qualities = torch.tensor([11.0, 12.0, 31.0]), torch.tensor([10, 20, 30])
    measured = knn_quality_of_readings(readings, qualities, torch.arange(3), num_neighbours=1)
    assert measured == {"knn_accuracy": 0.0, "knn_mae": pytest.approx((10 + 10 + 10) / 3)}
    qualities, images = labelled(6, [10, 40, 90])
    assert knn_quality_of_readings(qualities, qualities, images) == {"knn_accuracy": 1.0, "knn_mae": 0.0}


def test_equal_readings_favour_no_quality() -> None:
    # All equal: the neighbours are five rows by chance. In the order given they would be of one image, or one quality.
    qualities, images = labelled(40, [10, 20, 30, 40, 50, 60, 70, 80, 90])
    errors = []
    for seed in range(30):
        measured = knn_quality_of_readings(torch.zeros(360), qualities, images, seed=seed)
        assert measured["knn_accuracy"] == pytest.approx(1 / 9, abs=0.02)
        errors.append(measured["knn_mae"])
    # The error of a mean of five random qualities: 24.7 over all draws, more or less by the draw's offset from 50.
    assert sum(errors) / 30 == pytest.approx(expected_error_of_five(), abs=1.0) and max(errors) - min(errors) > 1
    assert knn_quality_of_readings(torch.zeros(360), qualities, images, seed=1)["knn_mae"] == errors[1]


def expected_error_of_five() -> float:
    """Mean difference of a quality of 10..90 and the mean of five others, by drawing many."""
    rng = np.random.default_rng(0)
    drawn, truth = rng.integers(1, 10, (200_000, 5)).mean(axis=1) * 10, rng.integers(1, 10, 200_000) * 10
    return float(np.abs(drawn - truth).mean())


def test_content_check_agrees_with_a_slow_loop() -> None:
    qualities, images = labelled(4, [10, 20, 30])
    rows = torch.randn(12, 2)
    pairs: dict[str, list[float]] = {"same_image_distance": [], "same_quality_distance": []}
    for a, b in combinations(range(12), 2):
        if images[a] == images[b]:
            pairs["same_image_distance"].append(float((rows[a] - rows[b]).norm()))
        elif qualities[a] == qualities[b]:
            pairs["same_quality_distance"].append(float((rows[a] - rows[b]).norm()))
    assert {name: len(distances) for name, distances in pairs.items()} == dict.fromkeys(pairs, 12) | {
        "same_quality_distance": 18
    }
    expected = {name: sum(distances) / len(distances) for name, distances in pairs.items()}
    expected["content_ratio"] = expected["same_quality_distance"] / expected["same_image_distance"]
    assert content_check(torch.cdist(rows, rows), qualities, images) == pytest.approx(expected, rel=1e-5)


def test_content_ratio_is_0_for_quality_alone_and_infinite_for_content_alone() -> None:
    qualities, images = labelled(4, [10, 20, 30])
    for labels, ratio in ((qualities, 0.0), (images, torch.inf)):
        rows = one_hot(labels)
        assert content_check(1 - rows @ rows.T, qualities, images)["content_ratio"] == ratio


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_of_the_coded_whole_images(store: PixelStore, channels: int) -> None:
    crops, qualities, images = quality_crops(store, [10, 50, 95], channels=channels, crop_size_px=16)
    assert crops.shape == (9, channels, 16, 16)
    assert qualities.tolist() == [10, 50, 95] * 3 and images.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    places = []
    for crop, quality, index in zip(crops, qualities.tolist(), images.tolist(), strict=True):
        clean = store[index] if channels == 3 else luma(store[index])
        coded, wanted = jpeg_roundtrip(np.ascontiguousarray(clean), quality), to_image(crop)
        windows = ((top, left) for top in range(coded.shape[0] - 15) for left in range(coded.shape[1] - 15))
        found = [place for place in windows if np.array_equal(coded_at(coded, place), wanted)]
        assert len(found) == 1
        places += found
    assert len(set(places)) > 6 and any(top % 8 or left % 8 for top, left in places)


def coded_at(coded: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    return coded[place[0] : place[0] + 16, place[1] : place[1] + 16]


def test_crops_follow_from_the_seed(store: PixelStore) -> None:
    first, again, other = (quality_crops(store, [30], channels=1, crop_size_px=16, seed=seed)[0] for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)


def test_an_image_smaller_than_the_crop_is_named(store: PixelStore) -> None:
    with pytest.raises(ValueError, match=r"2\.png is smaller than the 32-pixel crops"):
        quality_crops(store, [30], channels=1, crop_size_px=32)


class Moments(nn.Module):
    """(N, 1, H, W) -> mean and standard deviation, (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.gain * torch.stack([x.mean(dim=(1, 2, 3)), x.std(dim=(1, 2, 3))], dim=1), []


def test_representations_have_unit_length_whatever_the_batches() -> None:
    crops = torch.rand(7, 1, 8, 8)
    rows = represent(Moments(), crops, batch_size=7)
    expected = torch.tensor([[crop.mean().item(), crop.std().item()] for crop in crops])
    torch.testing.assert_close(rows, expected / expected.square().sum(dim=1, keepdim=True).sqrt())
    for batch_size in (1, 3):
        torch.testing.assert_close(represent(Moments(), crops, batch_size=batch_size), rows)
    assert not rows.requires_grad


def test_bytes_are_encoded_as_the_numbers_they_stand_for() -> None:
    pixels = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    rows = raw_rows(Moments(), pixels, batch_size=2)
    torch.testing.assert_close(rows, Moments()(pixels.float() / 255)[0].detach())
    torch.testing.assert_close(represent(Moments(), pixels), F.normalize(rows, dim=1))
