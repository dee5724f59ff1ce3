"""Other features for the decoder: a toy restorer that shows what it was given, and real networks left as they were."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from cqe.encoder import QualityEncoder
from data.jpeg import jpeg_roundtrip
from evaluation.scores import guidance
from evaluation.scores.guidance import GuidedRestorer, evaluate_features
from evaluation.scores.image_sets import ImageSet, open_sets
from evaluation.scores.metrics import METRICS, score
from evaluation.scores.protocol import evaluate, restored_by
from restoration.networks.fast import FastRestorer
from restoration.networks.restorer import Restorer
from restoration.tiling import restore_image
from tests.synthetic import picture

SIZES = {"a": (24, 40), "b": (32, 32), "c": (24, 40)}  # heights and widths; b is the one without an equal
KINDS = list(guidance.FEATURE_SETS)


class Pyramid(nn.Module):
    """An encoder whose features are the image itself and its averages over 2x2, 4x4 and 8x8 pixels."""

    feature_channels = (1, 1, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return x.mean(dim=(2, 3)), [x, *(F.avg_pool2d(x, side) for side in (2, 4, 8))]


class Echo(Restorer):
    """Shows one of the encoder's features, enlarged: the output says what the decoder was given, and nothing else."""

    def __init__(self, channels: int = 1, *, level: int = 0) -> None:
        super().__init__(Pyramid(), channels)
        self.level = level

    def residual(self, padded: Tensor, features: list[Tensor]) -> Tensor:
        return F.interpolate(features[self.level], size=padded.shape[-2:]) - padded


def real_network(channels: int) -> FastRestorer:
    """A small network of random weights, whose features show in its output."""
    encoder = QualityEncoder(channels, width=8, remove_local_mean=True)
    network = FastRestorer(encoder, channels, widths=(4, 6, 8), blocks_down=(0, 0, 0), blocks_up=(1, 1, 1))
    nn.init.normal_(network.tail.weight, std=0.3)
    return network.eval()


def save_set(folder: Path, channels: int = 1, sizes: dict = SIZES) -> dict[str, np.ndarray]:
    """Pictures, gray or RGB, written as a set; by stem."""
    folder.mkdir()
    images = {}
    for seed, (stem, size) in enumerate(sizes.items()):
        images[stem] = picture(*size, seed=seed)[..., slice(None) if channels == 3 else 0]
        Image.fromarray(images[stem]).save(folder / f"{stem}.png")
    return images


@pytest.fixture
def images(tmp_path: Path) -> dict[str, np.ndarray]:
    return save_set(tmp_path / "mine")


@pytest.fixture
def sets(tmp_path: Path, images: dict) -> list[ImageSet]:
    return open_sets([str(tmp_path / "mine")], tmp_path)


def measure(restorer: nn.Module, sets: list[ImageSet], qualities: list[int], **options) -> dict:
    return evaluate_features(restorer, restore_image, sets, qualities, "gray", method="toy", **options)


def test_the_decoder_is_given_what_each_name_says(sets: list[ImageSet], images: dict) -> None:
    results = measure(Echo(), sets, [10, 60], wrong_qualities=[10, 90], seed=3)["results"]["mine"]
    wrong, other = {10: 90, 60: 10}, {"a": images["c"], "c": images["a"]}
    # The only 32x32 picture gets the next one, cut at the right and mirrored below, and then coded.
    other["b"] = np.vstack([images["c"], images["c"][:-9:-1]])[:, :32]
    for stem, clean in images.items():
        for quality in (10, 60):
            coded = jpeg_roundtrip(clean, quality)
            order = np.random.default_rng(3).permutation(clean.size)
            expected = {
                "own": coded,
                "other_quality": jpeg_roundtrip(clean, wrong[quality]),
                "other_image": jpeg_roundtrip(other[stem], quality),
                "shuffled": coded.ravel()[order].reshape(clean.shape),
                "zero": np.zeros_like(clean),
            }
            for name in KINDS:
                found = results[str(quality)][name]["images"][stem]
                del found["gain"]
                assert found == score(expected[name], clean), (stem, quality, name)


def test_another_image_is_brought_to_size_before_it_is_coded(tmp_path: Path) -> None:
    images = save_set(tmp_path / "mine", sizes={"a": (24, 40), "b": (20, 28)})
    by_kind = measure(Echo(), open_sets([str(tmp_path / "mine")], tmp_path), [10])["results"]["mine"]["10"]
    mirrored = np.vstack([images["b"], images["b"][:-5:-1]])
    mirrored = np.hstack([mirrored, mirrored[:, :-13:-1]])
    expected = score(jpeg_roundtrip(mirrored, 10), images["a"])
    assert expected.items() <= by_kind["other_image"]["images"]["a"].items()


def test_scores_are_means_in_the_layout_that_is_promised(sets: list[ImageSet]) -> None:
    result = measure(Echo(), sets, [20, 40], wrong_qualities=[10, 90], seed=5)
    assert (result["method"], result["channels"]) == ("toy", "gray") and "PSNR peak 255" in result["protocol"]
    assert result["features"] == {"wrong_quality": {"20": 90, "40": 90}, "seed": 5}
    assert list(result["results"]) == ["mine"] and list(result["results"]["mine"]) == ["20", "40"]
    for by_kind in result["results"]["mine"].values():
        assert list(by_kind) == KINDS
        for scores in by_kind.values():
            for metric in METRICS:
                assert scores[metric] == pytest.approx(np.mean([s[metric] for s in scores["images"].values()]))


@pytest.mark.parametrize("color_mode", ["gray", "color"])
def test_own_features_give_the_networks_ordinary_score(tmp_path: Path, color_mode: str) -> None:
    num_channels = {"gray": 1, "color": 3}[color_mode]
    save_set(tmp_path / "mine", num_channels, {"a": (27, 41), "b": (32, 19)})  # padded to multiples of 8
    sets = open_sets([str(tmp_path / "mine")], tmp_path)
    network = real_network(num_channels).to(memory_format=torch.channels_last)
    ordinary = evaluate(restored_by(partial(restore_image, network)), sets, [10, 30], color_mode, method="toy")
    result = evaluate_features(network, restore_image, sets, [10, 30], color_mode, method="toy")
    for quality, scores in ordinary["results"]["mine"].items():
        by_kind = result["results"]["mine"][quality]
        assert by_kind["own"] == scores
        assert len({by_kind[name]["psnr"] for name in KINDS}) == len(KINDS)  # each substitution is felt


class Nudge(Restorer):
    """Changes each image by one amount, in grey levels of root mean square: one that just is, or is not, worth it."""

    def __init__(self, channels: int, amount: float) -> None:
        super().__init__(Pyramid(), channels)
        self.amount = amount / 255

    def residual(self, padded: Tensor, features: list[Tensor]) -> Tensor:
        return self.amount * (1 - 2 * (torch.arange(padded.shape[-1]) % 2)).expand_as(padded)


@pytest.mark.parametrize("color_mode", ["gray", "color"])
@pytest.mark.parametrize("amount", [1.6, 1.8, 2.0, 2.3, 2.5])  # the limit is 1.7, times the root of two 2.4
def test_own_features_are_left_alone_where_the_network_leaves_alone(
    tmp_path: Path, color_mode: str, amount: float
) -> None:
    num_channels = {"gray": 1, "color": 3}[color_mode]
    save_set(tmp_path / "mine", num_channels, {"a": (72, 41), "b": (32, 100)})
    sets, qualities = open_sets([str(tmp_path / "mine")], tmp_path), [10, 40, 80, 95]
    network = Nudge(num_channels, amount)
    ordinary = evaluate(restored_by(partial(restore_image, network)), sets, qualities, color_mode, method="toy")
    result = evaluate_features(network, restore_image, sets, qualities, color_mode, method="toy")
    for quality, scores in ordinary["results"]["mine"].items():
        assert result["results"]["mine"][quality]["own"] == scores
        assert (scores["gain"] == 0) == (amount < 1.7)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_every_scale_is_replaced(level: int) -> None:
    image, guide = torch.rand(2, 1, 1, 24, 32)
    enlarged = F.interpolate(F.avg_pool2d(guide, 2**level), scale_factor=2**level)
    output = GuidedRestorer(Echo(level=level), guidance.unchanged)(image, guide)
    torch.testing.assert_close(output, enlarged, rtol=0, atol=1e-6)
    output = GuidedRestorer(Echo(level=level), guidance.zeroed)(image, guide)
    torch.testing.assert_close(output, torch.zeros(1, 1, 24, 32), rtol=0, atol=1e-6)


def test_tiles_of_the_image_meet_the_same_tiles_of_the_guide() -> None:
    image, guide = (picture(150, 230, seed=seed) for seed in (0, 1))
    network = GuidedRestorer(Echo(3), guidance.unchanged)
    restored = restore_image(network, image, guide=guide, tile_px=96, overlap_px=64)
    np.testing.assert_array_equal(restored, guide)


def test_shuffling_moves_all_channels_of_a_scale_alike_and_changes_no_value() -> None:
    features = [torch.rand(2, 3, 8, 12), torch.rand(2, 5, 4, 6), torch.rand(2, 5, 4, 6)]
    representation = torch.rand(2, 5)
    kept, moved = guidance.shuffled(representation, features, seed=1)
    assert kept is representation
    places = torch.arange(24.0).view(1, 1, 4, 6)
    orders = guidance.shuffled(representation, [features[0], places, places], seed=1)[1]
    assert not torch.equal(orders[1], orders[2])  # an order for each scale
    for before, after, order in zip(features[1:], moved[1:], orders[1:], strict=True):
        assert sorted(order.flatten().tolist()) == list(range(24)) and not torch.equal(order, places)
        torch.testing.assert_close(after.flatten(2), before.flatten(2)[..., order.flatten().long()], rtol=0, atol=0)


def test_the_seed_decides_the_shuffling() -> None:
    features = [torch.rand(1, 2, 16, 16)]
    first, again, other = (guidance.shuffled(torch.zeros(1, 2), features, seed=seed)[1][0] for seed in (4, 4, 5))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_encoder_answers_for_itself_again_afterwards_and_after_an_error() -> None:
    network, (x, guide) = real_network(1), torch.rand(2, 1, 1, 24, 24)

    def fail(*answer: object) -> None:
        raise RuntimeError("no features")

    with torch.no_grad():
        before = network(x)
        changed = GuidedRestorer(network, guidance.zeroed)(x, guide)
        assert not torch.equal(changed, before) and torch.equal(network(x), before)
        with pytest.raises(RuntimeError, match="no features"):
            GuidedRestorer(network, fail)(x, guide)
        with pytest.raises(ValueError, match=r"expected images of shape \(N, 1, H, W\), got \(1, 2, 24, 24\)"):
            GuidedRestorer(network, guidance.unchanged)(torch.cat([x, x], dim=1), guide)
        assert torch.equal(network(x), before)


def test_a_network_reads_the_features_and_not_the_representation() -> None:
    network, (x, guide) = real_network(1), torch.rand(2, 1, 1, 24, 24)
    with torch.no_grad():
        own = GuidedRestorer(network, guidance.unchanged)(x, guide)
        other = GuidedRestorer(network, lambda representation, features: (0 * representation, features))(x, guide)
    assert torch.equal(own, other)


def test_the_next_image_is_the_next_of_the_same_size_around_the_end(tmp_path: Path) -> None:
    shapes = {"a": (16, 24), "b": (24, 16), "c": (16, 24), "d": (16, 24), "e": (20, 20)}
    for stem, shape in shapes.items():
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / f"{stem}.png")
    chosen = guidance.next_images(open_sets([str(tmp_path)], tmp_path), "gray")
    next_of = {stem: path.stem for (_, stem), path in chosen.items()}
    assert next_of == {"a": "c", "c": "d", "d": "a", "b": "c", "e": "a"}  # b and e have no equal


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_cut_or_mirrored_at_its_far_sides(channels: int) -> None:
    image = picture(20, 30)[..., :channels].squeeze()
    np.testing.assert_array_equal(guidance.brought_to(image, (12, 16)), image[:12, :16])
    grown = guidance.brought_to(image, (33, 75))
    assert grown.shape == (33, 75, *image.shape[2:])
    for row, column in ((5, 7), (20, 29), (32, 30), (21, 59), (0, 60), (19, 74)):
        # 0 1 .. n-1 n-1 .. 1 0 0 1 ..: a walk to and fro
        source = [min(i % (2 * n), 2 * n - 1 - i % (2 * n)) for i, n in ((row, 20), (column, 30))]
        np.testing.assert_array_equal(grown[row, column], image[tuple(source)])


@pytest.mark.parametrize(
    ("quality", "wrong", "expected"), [(10, [10, 90], 90), (60, [10, 90], 10), (50, [10, 90], 10), (90, [20], 20)]
)
def test_the_wrong_quality_is_the_farthest(quality: int, wrong: list[int], expected: int) -> None:
    assert guidance.farthest(quality, wrong) == expected


def test_what_cannot_be_measured_is_refused_before_any_work(sets: list[ImageSet], tmp_path: Path) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("the network ran")

    check: Callable = partial(evaluate_features, Echo(), never, method="toy")
    with pytest.raises(ValueError, match="the only wrong quality, 40, .* add another"):
        check(sets, [10, 40], "gray", wrong_qualities=[40])
    with pytest.raises(ValueError, match="at least 0, got -1"):
        check(sets, [10], "gray", seed=-1)
    with pytest.raises(ValueError, match="a.png is a gray image"):
        check(sets, [10], "color")
    with pytest.raises(ValueError, match=r"mine holds one image \(a.png\); .* need a second"):
        check([ImageSet("mine", sets[0].paths[:1])], [10], "gray")


def test_the_table_shows_each_score_and_its_distance_from_the_own_one() -> None:
    psnr = {"own": 30.0, "other_quality": 28.766, "other_image": 29.9, "shuffled": 30.012, "zero": 12.5}
    by_quality = {q: {name: {"psnr": value + int(q)} for name, value in psnr.items()} for q in ("0", "1")}
    choices = {"wrong_quality": {"0": 90, "1": 10}, "seed": 0}
    result = {"method": "toy", "channels": "gray", "features": choices, "results": {"x": by_quality, "y": by_quality}}
    sections = guidance.summarize(result)
    assert [section.title.split(",")[1].strip() for section in sections] == ["x", "y"]
    assert sections[0].rows == [
        ["features", "Q0", "Q1"],
        ["own", "30.00", "31.00"],
        ["own image at another quality", "28.77 (-1.23)", "29.77 (-1.23)"],
        ["another image", "29.90 (-0.10)", "30.90 (-0.10)"],
        ["own, positions shuffled", "30.01 (+0.01)", "31.01 (+0.01)"],
        ["zero", "12.50 (-17.50)", "13.50 (-17.50)"],
    ]
    assert "Q90 for Q0, Q10 for Q1" in sections[0].notes[0]


def test_the_score_of_a_perfect_guide_is_infinite(tmp_path: Path) -> None:
    """Flat images survive JPEG: own and wrong quality are exact, and zero is as far off as the grey level is high."""
    (tmp_path / "flat").mkdir()
    for stem, level in (("a", 128), ("b", 64)):
        Image.fromarray(np.full((16, 16), level, np.uint8)).save(tmp_path / "flat" / f"{stem}.png")
    by_kind = measure(Echo(), open_sets([str(tmp_path / "flat")], tmp_path), [50])["results"]["flat"]["50"]
    assert by_kind["own"]["psnr"] == by_kind["shuffled"]["psnr"] == math.inf
    assert by_kind["zero"]["images"]["a"]["psnr"] == pytest.approx(20 * math.log10(255 / 128))
    assert by_kind["other_image"]["images"]["a"]["psnr"] == pytest.approx(20 * math.log10(255 / 64))
