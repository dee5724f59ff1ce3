"""Crops under conditions, probes, clustering and re-encoding, against closed forms and explicit constructions."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from data.color import luma
from data.jpeg import jpeg_roundtrip
from evaluation.encoder import study_scores
from evaluation.encoder.crops import CONDITIONS, Crops, Drawing, between, check_room, draw_crops
from evaluation.encoder.linear_probes import Probes, clustering, fit_probes, probe_scores, reencoded_quality
from evaluation.encoder.study import Plan, chance, check_images, open_probe_images
from evaluation.encoder.study_scores import measure, score_readings, score_rows, sections
from evaluation.scores.image_sets import ImageSet
from tests.synthetic import picture, write_pictures

SIDE_PX = 16


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """Two noisy pictures of 40x40 and 40x48 pixels: every window of them is unlike all others."""
    write_pictures(tmp_path / "set", ["a", "b"], size=40)
    for path in sorted((tmp_path / "set").iterdir()):
        shaded = np.asarray(Image.open(path)) // 2
        Image.fromarray(shaded + np.random.default_rng(0).integers(0, 128, shaded.shape, dtype=np.uint8)).save(path)
    return ImageSet("set", sorted((tmp_path / "set").iterdir()))


def clean_images(images: ImageSet, color_mode: str) -> list[np.ndarray]:
    opened = [np.asarray(Image.open(path)) for path in images.paths]
    return [luma(image) for image in opened] if color_mode == "gray" else opened


def places_of(crop: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Where a crop is found in an image, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape[:2], axis=(0, 1))
    wanted = crop if crop.ndim == 2 else crop.transpose(2, 0, 1)
    return [tuple(place) for place in np.argwhere((windows == wanted).all(axis=tuple(range(2, windows.ndim))))]


@pytest.mark.parametrize(("color_mode", "unit"), [("gray", 8), ("color", 16)])
def test_aligned_crops_are_of_the_coded_image_with_corners_on_the_grid(
    images: ImageSet, color_mode: str, unit: int
) -> None:
    drawing = Drawing((SIDE_PX,), crops_per_image=6)
    crops = draw_crops(images, color_mode, "aligned", [10, 80], drawing)[SIDE_PX]
    clean, corners = clean_images(images, color_mode), set()
    for pixels, quality, index in zip(*crops, strict=True):
        (corner,) = places_of(pixels, jpeg_roundtrip(clean[index], quality))
        corners.add(corner)
    assert all(top % unit == left % unit == 0 for top, left in corners) and len(corners) > 4


@pytest.mark.parametrize("condition", ["offgrid", "unseen"])
@pytest.mark.parametrize("color_mode", ["gray", "color"])
def test_offgrid_crops_are_of_the_coded_image_with_corners_off_the_grid(
    images: ImageSet, color_mode: str, condition: str
) -> None:
    crops = draw_crops(images, color_mode, condition, [20, 60], Drawing((33,), crops_per_image=40))[33]
    clean, corners = clean_images(images, color_mode), set()
    for pixels, quality, index in zip(*crops, strict=True):
        corners.update(places_of(pixels, jpeg_roundtrip(clean[index], quality)))
    # 33-pixel crops of 40x40 and 40x48 have corners in 0..7 and 0..15: two of 128 places are on the grid.
    assert not corners & {(0, 0), (0, 8)}
    assert {top for top, _ in corners} == set(range(8)) and {left for _, left in corners} == set(range(16))


@pytest.mark.parametrize("color_mode", ["gray", "color"])
def test_double_crops_are_of_an_image_coded_cut_and_coded_again(images: ImageSet, color_mode: str) -> None:
    drawing = Drawing((SIDE_PX,), second_quality=85)
    crops = draw_crops(images, color_mode, "double", [10, 40, 70], drawing)[SIDE_PX]
    clean, shifts = clean_images(images, color_mode), set()
    for pixels, quality, index in zip(*crops, strict=True):
        once = jpeg_roundtrip(clean[index], quality)
        for dy, dx in product(range(8), range(8)):
            if places_of(pixels, jpeg_roundtrip(np.ascontiguousarray(once[dy:, dx:]), 85)):
                shifts.add((dy, dx))
                break
        else:
            pytest.fail("no shift gives this crop")
    assert len(shifts) > 3


@pytest.mark.parametrize("color_mode", ["gray", "color"])
def test_resized_crops_are_of_the_coded_image_at_another_size(images: ImageSet, color_mode: str) -> None:
    crops = draw_crops(images, color_mode, "resized", [10, 60], Drawing((SIDE_PX,), scale=0.6))[SIDE_PX]
    clean = clean_images(images, color_mode)
    for pixels, quality, index in zip(*crops, strict=True):
        coded = Image.fromarray(jpeg_roundtrip(clean[index], quality))
        size = {40: 24, 48: 29}  # 48 * 0.6 = 28.8
        smaller = coded.resize((size[coded.width], size[coded.height]), Image.Resampling.BICUBIC)
        assert len(places_of(pixels, np.asarray(smaller))) == 1


def test_crops_come_image_by_image_quality_by_quality(images: ImageSet) -> None:
    drawn = draw_crops(images, "color", "offgrid", [30, 90], Drawing((16, 24), crops_per_image=2))
    assert {size: crops.pixels.shape for size, crops in drawn.items()} == {16: (8, 16, 16, 3), 24: (8, 24, 24, 3)}
    for crops in drawn.values():
        assert crops.pixels.dtype == np.uint8
        assert crops.qualities.tolist() == [30, 30, 90, 90] * 2 and crops.images.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_crop_follows_from_the_seed_whatever_else_is_asked_for(images: ImageSet, condition: str) -> None:
    alone = draw_crops(images, "gray", condition, [50], Drawing((16,)))[16]
    drawing = Drawing((24, 16), crops_per_image=2, workers=2)
    among = draw_crops(images, "gray", condition, [20, 50], drawing)[16]
    np.testing.assert_array_equal(alone.pixels, among.pixels[2::4])
    other = draw_crops(images, "gray", condition, [50], Drawing((16,), seed=1))[16]
    assert not np.array_equal(alone.pixels, other.pixels)


@pytest.mark.parametrize(
    ("condition", "fits", "too_small"),
    [
        ("aligned", (16, 16), (15, 40)),
        ("offgrid", (16, 17), (16, 16)),
        ("unseen", (17, 16), (16, 16)),
        ("double", (23, 23), (40, 22)),
        ("resized", (20, 20), (19, 40)),
    ],
)
def test_an_image_without_room_is_named(condition: str, fits: tuple[int, int], too_small: tuple[int, int]) -> None:
    check_room(Path("x.png"), fits, condition, 16, Drawing())
    with pytest.raises(ValueError, match=rf"x\.png is {too_small[1]}x{too_small[0]}, which .*'{condition}'.*16x16 pix"):
        check_room(Path("x.png"), too_small, condition, 16, Drawing())


def test_drawing_refuses_an_image_without_room(images: ImageSet) -> None:
    with pytest.raises(ValueError, match="a.png is 40x40"):
        draw_crops(images, "gray", "double", [50], Drawing((34,)))


@pytest.mark.parametrize(
    ("seen", "unseen"),
    [
        (range(10, 91, 10), [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]),
        ([80, 20, 40], [10, 30, 60, 100]),
        ([10, 90], [50]),
        ([50, 51], [49]),
        ([1, 3], [2, 4]),
        ([20], []),
    ],
)
def test_unseen_qualities_lie_between_the_seen_ones(seen: list[int], unseen: list[int]) -> None:
    assert between(seen) == unseen


QUALITIES = [10, 30, 50, 70, 90]


# In colour, some depends on the chroma of neighbours that are cut off.
@pytest.mark.parametrize(("color_mode", "least"), [("gray", 1.0), ("color", 0.9)])
def test_reencoding_reads_aligned_crops_and_nothing_off_the_grid(tmp_path: Path, color_mode: str, least: float) -> None:
    write_pictures(tmp_path, list("abcd"), size=96)
    images = ImageSet("set", sorted(tmp_path.iterdir()))
    aligned, offgrid = (
        draw_crops(images, color_mode, condition, QUALITIES, Drawing((64,)))[64] for condition in ("aligned", "offgrid")
    )
    read = reencoded_quality(aligned.pixels, QUALITIES, workers=2)
    assert np.mean(read == aligned.qualities) >= least
    assert np.mean(reencoded_quality(offgrid.pixels, QUALITIES) == offgrid.qualities) <= 0.3  # chance is 0.2


def test_reencoding_names_the_coarsest_of_equals() -> None:
    flat = np.full((1, 16, 16), 128, dtype=np.uint8)  # unchanged at any quality
    assert reencoded_quality(flat, [90, 40, 70]).tolist() == [40]


def labelled(num_images: int, qualities: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(qualities, num_images), np.repeat(np.arange(num_images), len(qualities))


def test_probes_read_separable_rows_without_error() -> None:
    qualities, images = labelled(10, QUALITIES)
    direction, noise = np.random.default_rng(0).normal(size=(1, 6)), np.random.default_rng(1).normal(size=(50, 6))
    rows = qualities[:, None] * direction + 0.01 * noise
    scores = probe_scores(fit_probes(rows[:25], qualities[:25], images[:25]), rows[25:], qualities[25:])
    assert scores["probe_accuracy"] == 1.0 and scores["quality_mae"] < 0.1


def test_probes_read_nothing_off_noise() -> None:
    qualities, images = labelled(200, QUALITIES)
    rows = np.random.default_rng(0).normal(size=(1000, 4))
    scores = probe_scores(fit_probes(rows[:500], qualities[:500], images[:500]), rows[500:], qualities[500:])
    # Chance is 0.2, and 24 for always answering 50; 500 rows leave a standard deviation of 0.018.
    assert scores["probe_accuracy"] == pytest.approx(0.2, abs=0.06)
    assert scores["quality_mae"] == pytest.approx(24, abs=1)


def test_ridge_estimates_stay_within_the_scale() -> None:
    qualities, images = labelled(6, QUALITIES)
    probes = fit_probes(qualities[:, None].astype(float), qualities, images)
    assert probe_scores(probes, np.array([[500.0], [-500.0]]), np.array([100, 1]))["quality_mae"] == 0


def test_ridge_strength_is_chosen_on_images_left_out() -> None:
    # Rows tell the image, and an image has one quality: rows of a known image are read exactly, others not at all.
    images = np.repeat(np.arange(10), 8)
    rows, qualities = np.random.default_rng(0).normal(size=(10, 12))[images], np.repeat(QUALITIES, 2)[images]
    assert fit_probes(rows, qualities, images).ridge[-1].alpha > 10
    # Were the rows of one image spread over the folds, hardly any strength would be best.
    assert fit_probes(rows, qualities, np.arange(80)).ridge[-1].alpha < 1


def test_clustering_scores_have_their_closed_form() -> None:
    rows, qualities = np.array([[0.0], [1.0], [4.0], [6.0]]), np.array([10, 10, 20, 20])
    # Distances within and to the other group: 1 and 5, 1 and 4, 2 and 3.5, 2 and 5.5.
    expected = (4 / 5 + 3 / 4 + 1.5 / 3.5 + 3.5 / 5.5) / 4
    # Means 0.5 and 5 about 2.75; squares within: 0.5 and 2.
    dispersion = (4 * 2.25**2 / 1) / (2.5 / 2)
    assert clustering(rows, qualities) == {
        "silhouette": pytest.approx(expected),
        "calinski_harabasz": pytest.approx(dispersion),
    }


def test_clusters_without_extent_are_infinitely_dense_unless_all_are_one() -> None:
    qualities = np.array([10, 10, 20, 20])
    assert clustering(qualities[:, None], qualities) == {"silhouette": 1.0, "calinski_harabasz": np.inf}
    assert clustering(np.ones((4, 1)), qualities) == {"silhouette": 0.0, "calinski_harabasz": 0.0}


def blank_crops(num_images: int) -> Crops:
    """The labels of a crop of every image at every quality; the pixels do not matter."""
    qualities, images = labelled(num_images, QUALITIES)
    return Crops(np.zeros((len(images), 1, 1), np.uint8), qualities, images)


def scores_of_rows(made: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> dict[str, float]:
    """Scores of representations made from (qualities, generator), probes fitted on others made likewise."""
    tested, probed = blank_crops(20), blank_crops(10)
    rows, fitted = (made(crops.qualities, np.random.default_rng(len(crops.images))) for crops in (tested, probed))
    return score_rows(torch.from_numpy(rows), fit_probes(fitted, probed.qualities, probed.images), tested)


def test_a_perfect_representation_gets_perfect_scores() -> None:
    scores = scores_of_rows(lambda q, rng: np.eye(5)[q // 20] + 0.001 * rng.normal(size=(len(q), 5)))
    assert (scores["knn_accuracy"], scores["knn_mae"], scores["probe_accuracy"]) == (1.0, 0.0, 1.0)
    assert scores["quality_mae"] < 0.1 and scores["silhouette"] > 0.99 and scores["content_ratio"] < 0.01
    assert scores["same_image_distance"] == pytest.approx(1, abs=0.01) and scores["num_crops"] == 100


def test_a_random_representation_gets_chance() -> None:
    scores = scores_of_rows(lambda q, rng: rng.normal(size=(len(q), 3)))
    # 100 rows: a standard deviation of 0.04 about 0.2. Always answering 50 is wrong by 24.
    assert scores["knn_accuracy"] < 0.36 and scores["probe_accuracy"] < 0.36 and scores["quality_mae"] > 20
    assert scores["silhouette"] < 0.1 and scores["content_ratio"] == pytest.approx(1, abs=0.1)


def test_readings_are_scored_as_they_are() -> None:
    crops = blank_crops(20)
    perfect = score_readings(crops.qualities, crops, seed=0)
    assert (perfect["knn_accuracy"], perfect["probe_accuracy"], perfect["quality_mae"]) == (1.0, 1.0, 0.0)
    assert perfect["content_ratio"] == 0.0 and perfect["same_image_distance"] == pytest.approx(40)
    constant = score_readings(np.full(100, 90), crops, seed=0)
    assert (constant["probe_accuracy"], constant["quality_mae"]) == (0.2, 40.0)
    assert constant["knn_accuracy"] == pytest.approx(0.2, abs=0.05) and np.isnan(constant["content_ratio"])


class Brightness(nn.Module):
    """Stands for an encoder; `read_brightness` does its work."""


def read_brightness(encoder: nn.Module, crops: Tensor) -> Tensor:
    return crops.float().mean(dim=(1, 2, 3))[:, None] * torch.tensor([1.0, 0.5])


def plan_of(*conditions: str, sizes_px: tuple[int, ...] = (16,), qualities: tuple[int, ...] = (10, 50, 90)) -> Plan:
    return Plan("gray", conditions, qualities, tuple(between(qualities)), Drawing(sizes_px))


@pytest.fixture
def bright_and_dark(tmp_path: Path) -> tuple[ImageSet, ImageSet]:
    """Images to test with luma above 150, and images to fit on below 100."""
    for name, offset in (("bright", 180), ("dark", 20)):
        (tmp_path / name).mkdir()
        for seed in range(3):
            shaded = picture(40, 48, seed=seed) // 8 + np.uint8(offset)
            Image.fromarray(shaded).save(tmp_path / name / f"{seed}.png")
    bright, dark = (ImageSet(name, sorted((tmp_path / name).iterdir())) for name in ("bright", "dark"))
    return bright, dark


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """What probes are fitted on (rows, qualities, images) and asked for (probes, rows, qualities)."""
    calls: dict[str, list] = {"fitted": [], "scored": []}

    def fit(rows: np.ndarray, qualities: np.ndarray, images: np.ndarray) -> Probes:
        calls["fitted"].append((rows, qualities, images))
        return Probes(("classifier", set(qualities)), ("ridge", set(qualities)))

    def score(probes: Probes, rows: np.ndarray, qualities: np.ndarray) -> dict[str, float]:
        calls["scored"].append((probes, rows, qualities))
        return {"probe_accuracy": 0.25, "quality_mae": 7.0}

    monkeypatch.setattr(study_scores, "fit_probes", fit)
    monkeypatch.setattr(study_scores, "probe_scores", score)
    return calls


def test_probes_see_the_probe_images_only(bright_and_dark: tuple, spied: dict) -> None:
    bright, dark = bright_and_dark
    plan = plan_of(*CONDITIONS, sizes_px=(16, 24))
    measure({"encoder": Brightness()}, read_brightness, [bright], dark, plan, name="x", with_reencode=False)
    assert len(spied["fitted"]) == len(spied["scored"]) == 5 * 2
    assert max(rows[:, 0].max() for rows, _, _ in spied["fitted"]) < 100
    assert min(rows[:, 0].min() for _, rows, _ in spied["scored"]) > 150


def test_unseen_takes_the_classifier_of_the_unseen_and_the_ridge_of_the_seen_qualities(
    bright_and_dark: tuple, spied: dict
) -> None:
    bright, dark = bright_and_dark
    plan = plan_of("offgrid", "unseen")
    result = measure({"encoder": Brightness()}, read_brightness, [bright], dark, plan, name="x", with_reencode=True)
    (offgrid, _, seen), (unseen, _, tested) = spied["scored"]
    assert offgrid == Probes(("classifier", {10, 50, 90}), ("ridge", {10, 50, 90})) and set(seen) == {10, 50, 90}
    assert unseen == Probes(("classifier", {30, 70}), ("ridge", {10, 50, 90})) and set(tested) == {30, 70}
    assert len(spied["fitted"]) == 2  # the ridge of `unseen` is that of `offgrid`
    values = result["results"]["bright"]["unseen"]
    assert values["encoder"]["num_crops"] == values["reencode"]["num_crops"] == 3 * 2
    assert values["encoder"]["quality_mae"] == 7.0
    assert result["protocol"]["chance"] == {"offgrid": chance((10, 50, 90)), "unseen": chance((30, 70))}


def test_results_and_tables_hold_every_size_set_condition_and_kind(bright_and_dark: tuple) -> None:
    plan = plan_of("aligned", "resized", sizes_px=(24, 16))
    result = measure({}, read_brightness, bright_and_dark, None, plan, name="x", with_reencode=True)
    assert list(result["crop_sizes"]) == ["24", "16"] and result["results"] == result["crop_sizes"]["24"]
    assert {name: list(values) for name, values in result["results"].items()} == {
        name: ["aligned", "resized"] for name in ("bright", "dark")
    }
    tables = sections(result)
    assert [table.title for table in tables] == [
        f"x, gray, {name}, {size}-pixel crops" for size in (24, 16) for name in ("bright", "dark")
    ]
    values = result["crop_sizes"]["16"]["dark"]["resized"]["reencode"]
    row = tables[3].rows[2]
    assert row[:2] == ["resized", "reencode"] and row[4:6] == [
        f"{values['probe_accuracy']:.3f}",
        f"{values['quality_mae']:.2f}",
    ]
    assert tables[0].notes[0] == "qualities 10, 50, 90; chance: accuracy 0.333, quality MAE 26.7"


def test_representations_that_are_no_numbers_are_refused(bright_and_dark: tuple) -> None:
    bright, dark = bright_and_dark
    with pytest.raises(ValueError, match="representations of 'untrained' are not finite"):
        measure(
            {"untrained": Brightness()},
            lambda encoder, crops: torch.full((len(crops), 2), torch.nan),
            [bright],
            dark,
            plan_of("aligned"),
            name="x",
            with_reencode=False,
        )


def test_chance_is_that_of_any_guess_and_of_the_middle() -> None:
    assert chance(range(10, 91, 10)) == {"accuracy": pytest.approx(1 / 9), "quality_mae": pytest.approx(200 / 9)}
    assert chance([10, 20]) == {"accuracy": 0.5, "quality_mae": 5.0}


def test_qualities_that_make_no_study_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more qualities are needed, to be told apart; got 40"):
        plan_of("aligned", qualities=(40,))
    with pytest.raises(ValueError, match="'unseen' needs two or more.* got 50 beside 10, 90; name some"):
        plan_of("unseen", qualities=(10, 90))
    plan_of("offgrid", qualities=(10, 90))
    with pytest.raises(ValueError, match="the unseen qualities 20 are among the other qualities"):
        Plan("gray", ("unseen",), (10, 20), (15, 20), Drawing())


def test_probe_images_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"to be fitted on: .*none does not exist"):
        open_probe_images(tmp_path / "none")
    (tmp_path / "few").mkdir()
    with pytest.raises(ValueError, match=r"to be fitted on: .*few holds no images"):
        open_probe_images(tmp_path / "few")
    write_pictures(tmp_path / "few", ["only"])
    with pytest.raises(ValueError, match="few holds one image.*another folder of probe images"):
        open_probe_images(tmp_path / "few")


def test_tested_images_among_the_probe_images_are_refused(tmp_path: Path, bright_and_dark: tuple) -> None:
    bright, dark = bright_and_dark
    check_images([bright], dark, plan_of("aligned"))
    check_images([bright], None, plan_of("aligned"))
    with pytest.raises(ValueError, match=r"bright/0\.png is tested and is also a probe image .*another folder"):
        check_images([bright], bright, plan_of("aligned"))
    # Another file and another name, the same pixels; and as luma the same as the colour image.
    for kind, pixels in (("color", np.asarray(Image.open(bright.paths[1]))), ("luma", None)):
        folder = tmp_path / kind
        folder.mkdir()
        saved = luma(np.asarray(Image.open(bright.paths[1]))) if pixels is None else pixels
        Image.fromarray(saved).save(folder / "copy.bmp")
        mixed = ImageSet(kind, [*dark.paths, folder / "copy.bmp"])
        with pytest.raises(ValueError, match=r"bright/1\.png is tested and is also a probe image \(.*copy\.bmp"):
            check_images([bright], mixed, plan_of("aligned"))


def test_unfit_images_are_refused_before_any_work(bright_and_dark: tuple) -> None:
    bright, dark = bright_and_dark
    with pytest.raises(ValueError, match="one has one image"):
        check_images([ImageSet("one", bright.paths[:1])], dark, plan_of("aligned"))
    for unfit in ((bright, dark), (dark, bright)):  # the probe images too
        with pytest.raises(ValueError, match=r"0\.png is 48x40, which leaves 38x32 for condition 'resized'"):
            check_images([unfit[0]], unfit[1], plan_of("aligned", "resized", sizes_px=(16, 33)))
