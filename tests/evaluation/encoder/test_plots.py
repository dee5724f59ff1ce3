"""Fig. 2 and Fig. 5: Grad-CAM against closed forms, what is drawn, and what TensorBoard's projector gets to read."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from google.protobuf import text_format
from matplotlib.axes import Axes
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor, nn

from cqe.encoder import QualityEncoder
from data.color import luma, to_tensor
from data.jpeg import jpeg_roundtrip
from evaluation import plot_files
from evaluation.encoder import gradcam, plots
from evaluation.encoder.crops import Drawing, draw_crops
from evaluation.encoder.gradcam import Column, columns_of, explain, mean_magnitudes, quality_prototypes, upper_limit
from evaluation.encoder.plots import COLOURS, MARKERS, maps_figure, tsne_figure
from evaluation.encoder.tsne import (
    PHOTO,
    PHOTO_CROPS,
    SEEN,
    UNSEEN,
    Panel,
    describe,
    embed_panels,
    tsne,
    write_projector,
)
from evaluation.plot_files import save_figure
from evaluation.scores.image_sets import ImageSet
from tests.synthetic import picture, write_pictures

SIZE_PX = 16


class Linear(nn.Module):
    """E3 is a fixed matrix times each pixel, the representation its spatial mean."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix, requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        e3 = torch.einsum("kc,nchw->nkhw", self.matrix, x)
        return e3.mean(dim=(2, 3)), [x, x, x, e3]


class Moments(nn.Module):
    """(N, 1, H, W) -> (N, 3): mean, roughness along rows, roughness along columns."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        rough = (x.diff(dim=dim).abs().mean(dim=(1, 2, 3)) for dim in (2, 3))
        return self.gain * torch.stack([x.mean(dim=(1, 2, 3)), *rough], dim=1), []


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    write_pictures(tmp_path / "set", ["a", "b", "c"], size=40)
    return ImageSet("set", sorted((tmp_path / "set").iterdir()))


def panels_with_photos() -> list[Panel]:
    """Two panels of 3 crops at each of 10 qualities; the second has 2 photos as well."""
    panels, generator = [], np.random.default_rng(0)
    for letter, qualities, num_photos in (("a", UNSEEN, 0), ("d", SEEN, 2)):
        labels = np.append(np.repeat(qualities, 3), np.full(num_photos, PHOTO))
        names = [f"image {index}" for index in range(len(labels))]
        pixels = torch.from_numpy(generator.integers(0, 256, (len(labels), 1, 40, 40), dtype=np.uint8))
        angles = 2 * np.pi * labels / 110  # the clusters on a circle
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1) + 0.02 * generator.normal(size=(len(labels), 2))
        panels.append(Panel(letter, "title", "offgrid", names, labels, pixels, torch.rand(len(labels), 4), points))
    return panels


# Grad-CAM and feature maps.


def test_gradcam_of_a_linear_encoder_is_its_closed_form() -> None:
    matrix, x, prototype = torch.randn(5, 2).double(), torch.rand(1, 2, 6, 9).double(), torch.randn(5).double()
    with torch.no_grad():  # as callers may have it
        _, cam, value = explain(Linear(matrix), x, gradcam.resemblance(prototype))
    r, p = (matrix @ x[0].mean(dim=(1, 2))).numpy(), (prototype / prototype.norm()).numpy()
    cosine = r @ p / np.linalg.norm(r)
    gradient = (p - cosine * r / np.linalg.norm(r)) / np.linalg.norm(r)  # of the cosine, in r; in E3: over 6 * 9 places
    signed = np.einsum("k,khw->hw", gradient / 54 / 54, np.einsum("kc,chw->khw", matrix.numpy(), x[0].numpy()) * 54)
    np.testing.assert_allclose(cam.numpy(), np.maximum(signed, 0), rtol=1e-10, atol=1e-16)
    assert value == pytest.approx(cosine) and (cam > 0).any() and (cam == 0).any()
    assert abs(signed.mean()) < 1e-12 * np.abs(signed).max()  # what the module's docstring says of the cosine


@pytest.mark.parametrize("score", ["linear", "length"])
def test_gradcam_of_the_encoder_weighs_its_last_feature_maps(score: str) -> None:
    encoder = QualityEncoder(1, width=8).eval().requires_grad_(False)
    x, direction = torch.rand(1, 1, 40, 27), torch.randn(32)
    functions = {"linear": lambda r: (r @ direction).sum(), "length": torch.linalg.vector_norm}
    features, cam, value = explain(encoder, x, functions[score])
    r, expected = encoder(x)
    gradient = direction if score == "linear" else r[0] / r.norm()
    for found, wanted in zip(features, expected, strict=True):
        torch.testing.assert_close(found, wanted)
        assert not found.requires_grad
    num_places = expected[3].shape[2] * expected[3].shape[3]
    torch.testing.assert_close(cam, F.relu(torch.einsum("k,khw->hw", gradient, expected[3][0]) / num_places))
    assert value == pytest.approx(functions[score](r).item()) and cam.shape == (5, 4)


def test_feature_maps_are_mean_magnitudes_on_a_scale_from_zero() -> None:
    features = [torch.tensor([[[[1.0, -2.0]], [[-3.0, 0.0]]]]), torch.tensor([[[[-5.0]]]])]
    first, second = mean_magnitudes(features)
    np.testing.assert_array_equal(first, [[2, 1]])
    np.testing.assert_array_equal(second, [[5]])
    # 0..1000 over two maps: 0.2% of 1001 places, two of them, are above 998.
    assert upper_limit([np.arange(600.0), np.arange(600.0, 1001.0).reshape(-1, 1)]) == pytest.approx(998)
    assert upper_limit([np.zeros((3, 3))]) == 1


@pytest.mark.parametrize("has_prototypes", [True, False])
def test_columns_are_the_middle_of_the_image_coded_whole(has_prototypes: bool) -> None:
    encoder, clean = QualityEncoder(1, width=8, remove_local_mean=True).eval(), luma(picture(80, 91))
    prototypes = {10: torch.rand(32), 70: torch.rand(32)} if has_prototypes else None
    for column in columns_of(encoder, clean, [10, 70], size_px=65, prototypes=prototypes):
        np.testing.assert_array_equal(column.image, jpeg_roundtrip(clean, column.quality)[7:72, 13:78])
        with torch.no_grad():
            r, features = encoder(to_tensor(column.image)[None])
        expected = F.cosine_similarity(r, prototypes[column.quality][None]) if prototypes else r.norm()
        assert column.score == pytest.approx(expected.item(), abs=1e-6)
        assert [values.shape for values in column.maps] == [(65, 65), (33, 33), (17, 17), (9, 9)]
        np.testing.assert_allclose(column.maps[3], features[3][0].abs().mean(dim=0), rtol=1e-5)
        assert column.cam.shape == (65, 65) and column.cam.min() >= 0


def test_small_images_have_no_feature_maps() -> None:
    with pytest.raises(ValueError, match="the image is 63x64; feature maps need sides of at least 64 pixels"):
        columns_of(Moments(), np.zeros((64, 63), np.uint8), [10], size_px=512)
    with pytest.raises(ValueError, match="the size must be at least 64 pixels, got 32"):
        columns_of(Moments(), np.zeros((64, 64), np.uint8), [10], size_px=32)


def test_prototypes_are_mean_unit_representations(images: ImageSet) -> None:
    encoder, drawing = Moments(), Drawing((SIZE_PX,))
    crops = draw_crops(images, "gray", "offgrid", [20, 80], drawing)[SIZE_PX]
    found = quality_prototypes(encoder, images, [20, 80], "gray", drawing)
    for quality in (20, 80):
        rows = [encoder(to_tensor(crop)[None])[0][0] for crop in crops.pixels[crops.qualities == quality]]
        assert len(rows) == 3
        torch.testing.assert_close(found[quality], sum(row / row.norm() for row in rows).detach() / 3)


def test_a_row_of_feature_maps_has_one_scale_and_gradcam_one_each() -> None:
    def column(quality: int) -> Column:
        maps = [quality * np.random.default_rng(k).random((64 >> k, 48 >> k)) for k in range(4)]
        return Column(quality, np.full((64, 48), quality, np.uint8), maps, maps[0] / 7, 0.5)

    columns = [column(10), column(30), column(90)]
    figure = maps_figure(columns)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["quality 10", "quality 30", "quality 90"]
    label, shown = "", {}  # row label -> pictures of that row, from left to right
    for axes in figure.axes:
        if axes.images:
            label = axes.get_ylabel() or label
            shown.setdefault(label, []).append(axes.images[0])
    assert list(shown) == ["JPEG", "$E_0$, 48x64", "$E_1$, 24x32", "$E_2$, 12x16", "$E_3$, 6x8", "Grad-CAM of $E_3$"]
    assert all(len(row) == 3 for row in shown.values())
    for index, (label, row) in enumerate(shown.items()):
        limit = {"J": 255, "G": 1}.get(label[0]) or upper_limit([column.maps[index - 1] for column in columns])
        assert [picture.get_clim() for picture in row] == [(0, pytest.approx(limit))] * 3
        assert {picture.get_cmap().name for picture in row} == {"gray"}
    assert [picture.get_array().max() for picture in shown["Grad-CAM of $E_3$"]] == [pytest.approx(1)] * 3
    labels = [axes.get_ylabel() for axes in figure.axes if not axes.images]
    assert labels == ["", *["mean |feature|"] * 4, "part of its maximum"]
    assert gradcam.describe(columns)["scales"]["E2"] == [0, upper_limit([column.maps[2] for column in columns])]


# t-SNE.


def test_tsne_keeps_tight_clusters_together_and_follows_the_seed() -> None:
    labels = torch.arange(4).repeat_interleave(12)
    rows = F.normalize(F.one_hot(labels).float() + 0.05 * torch.randn(48, 4), dim=1)
    points = torch.from_numpy(tsne(rows, perplexity=8, seed=0))
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)
    assert points.shape == (48, 2) and (labels[distances.argmin(dim=1)] == labels).all()
    np.testing.assert_array_equal(tsne(rows, perplexity=8, seed=0), points)


def test_panels_are_what_the_figure_says(images: ImageSet) -> None:
    photos = ImageSet("photos", images.paths[:2])
    drawing = Drawing((SIZE_PX,))
    panels = embed_panels(Moments(), images, photos, "gray", drawing=drawing, perplexity=5)
    assert [(panel.letter, panel.condition) for panel in panels] == [
        ("a", "offgrid"), ("b", "aligned"), ("c", "unseen"), ("d", "offgrid"),
    ]  # fmt: skip
    for panel, qualities in zip(panels, (SEEN, SEEN, UNSEEN, SEEN), strict=True):
        assert panel.qualities[:30].tolist() == list(qualities) * 3
        assert panel.names[:30] == ["a"] * 10 + ["b"] * 10 + ["c"] * 10
        assert panel.points.shape == (len(panel.names), 2) and np.isfinite(panel.points).all()
        crops = draw_crops(images, "gray", panel.condition, qualities, drawing)[SIZE_PX]
        np.testing.assert_array_equal(panel.pixels[:30, 0], crops.pixels)
        with torch.no_grad():
            expected = F.normalize(Moments()(panel.pixels / 255)[0], dim=1)
        torch.testing.assert_close(panel.rows, expected)
    last = panels[3]
    assert last.qualities[30:].tolist() == [PHOTO] * 2 * PHOTO_CROPS
    assert last.names[30:] == ["a.png"] * PHOTO_CROPS + ["b.png"] * PHOTO_CROPS
    for name, crop in zip(last.names[30:], last.pixels[30:, 0].numpy(), strict=True):
        photo = np.asarray(Image.open(images.paths[0].with_name(name)))  # as it is, not coded again
        photo = luma(photo, full_range=True)  # what a photo's own JPEG coded; its steps are 219/255 of that in 16..235
        windows = np.lib.stride_tricks.sliding_window_view(photo, crop.shape)
        assert (windows == crop).all(axis=(2, 3)).any()


def test_unfit_perplexity_and_photos_are_named(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the perplexity must be below the number of crops, 30 \(3 image"):
        embed_panels(Moments(), images, None, "gray", drawing=Drawing((SIZE_PX,)), perplexity=30)
    write_pictures(tmp_path / "photos", ["small"], size=SIZE_PX - 1)
    photos = ImageSet("photos", [tmp_path / "photos" / "small.png"])
    with pytest.raises(ValueError, match=r"small\.png is 15x15.*smaller crops"):
        embed_panels(Moments(), images, photos, "gray", drawing=Drawing((SIZE_PX,)), perplexity=5)


def test_every_quality_has_a_marker_a_brightness_and_its_number() -> None:
    panels = panels_with_photos()
    first, second, legends = tsne_figure(panels).axes
    for axes, panel, qualities in ((first, panels[0], UNSEEN), (second, panels[1], SEEN)):
        clusters = {line.get_label(): line for line in axes.lines}
        numbers = {text.get_text(): text for text in axes.texts}
        assert list(clusters)[:10] == [f"Q{quality}" for quality in qualities]
        assert list(numbers) == [str(quality) for quality in qualities]
        for rank, quality in enumerate(qualities):
            line, points = clusters[f"Q{quality}"], panel.points[panel.qualities == quality]
            np.testing.assert_array_equal(line.get_xydata(), points)
            assert line.get_marker() == MARKERS[rank] and line.get_markerfacecolor() == COLOURS(quality / 100)
            assert numbers[str(quality)].get_position() == tuple(np.median(points, axis=0))
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("t-SNE 1", "t-SNE 2")
    assert len(set(MARKERS)) == len(SEEN) == len(UNSEEN)
    photos = second.lines[-1]
    assert photos.get_markerfacecolor() == "none" and len(photos.get_xdata()) == 2
    assert legend_texts(legends) == [
        ["JPEG quality, (a):", *map(str, UNSEEN)], ["JPEG quality, (d):", *map(str, SEEN), "photo"],
    ]  # fmt: skip


def test_numbers_that_cover_each_other_are_moved_apart() -> None:
    extent, (wide, high) = np.array([200.0, 50.0]), plots.NUMBER_SIZE
    places = np.array([[0, 0], [1, 1], [100, 0], [100 + 201 * wide, 0], [0, 40]])
    moved = plots.moved_apart(places, extent)
    # The first two are 1 apart in height and need 50 * high = 2: half a unit each. The others have room.
    np.testing.assert_allclose(moved[:2, 1], [0.5 - 25 * high, 0.5 + 25 * high])
    np.testing.assert_array_equal(moved[2:], places[2:])
    np.testing.assert_array_equal(moved[:, 0], places[:, 0])
    crowd = plots.moved_apart(np.zeros((6, 2)), extent)[:, 1]
    assert np.diff(np.sort(crowd)).min() > 0.99 * 50 * high


def legend_texts(axes: Axes) -> list[list[str]]:
    legends = [artist for artist in axes.artists if hasattr(artist, "legend_handles")]
    return [[text.get_text() for text in legend.get_texts()] for legend in legends]


def test_brightness_grows_with_quality_in_gray_print() -> None:
    luminance = [float(np.dot(COLOURS(quality / 100)[:3], (0.299, 0.587, 0.114))) for quality in range(0, 101, 5)]
    assert np.all(np.diff(luminance) > 0.02)


def test_points_are_described_with_null_for_an_unknown_quality() -> None:
    described = describe(panels_with_photos())
    assert [(len(panel["points"]), panel["panel"]) for panel in described] == [(30, "a"), (32, "d")]
    assert described[1]["points"][31]["quality"] is None and described[0]["points"][3]["quality"] == 15
    point = panels_with_photos()[0].points[3]
    assert [described[0]["points"][3][key] for key in ("x", "y")] == list(point)


# Files.


def test_figures_are_written_whole_and_alike_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_files, "DOTS_PER_INCH", 40)
    panels = panels_with_photos()[:1]
    paths = save_figure(tsne_figure(panels), tmp_path / "first") + save_figure(tsne_figure(panels), tmp_path / "again")
    assert sorted(tmp_path.iterdir()) == sorted(paths)  # and no part of a file
    with Image.open(tmp_path / "first.png") as image:
        assert image.format == "PNG" and image.size == (140, 156)  # 3.5 x 3.9 inches
    first, again = ((tmp_path / f"{name}.svg").read_text() for name in ("first", "again"))
    assert first == again and first.rstrip().endswith("</svg>") and "<dc:date>" not in first


def test_projector_reads_back_what_was_embedded(tmp_path: Path) -> None:
    panels = panels_with_photos()
    (tmp_path / "board").mkdir()  # an empty folder may be there
    write_projector(tmp_path / "board", panels)
    assert [path.name for path in tmp_path.iterdir()] == ["board"]
    config = text_format.Parse((tmp_path / "board" / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [entry.tensor_name for entry in config.embeddings] == ["a_offgrid:00000", "d_offgrid_photos:00000"]
    for entry, panel in zip(config.embeddings, panels, strict=True):
        rows = np.loadtxt(tmp_path / "board" / entry.tensor_path, delimiter="\t")
        np.testing.assert_allclose(rows, panel.rows, rtol=1e-6)
        header, *labels = (tmp_path / "board" / entry.metadata_path).read_text().splitlines()
        assert header == "quality\timage" and len(labels) == len(rows)
        assert labels[4] == f"{panel.qualities[4]}\timage 4"
        with Image.open(tmp_path / "board" / entry.sprite.image_path) as sprite:
            first = np.asarray(sprite)[:32, :32]
            assert sprite.size == (6 * 32, 6 * 32) and list(entry.sprite.single_image_dim) == [32, 32]
        # Through [0, 1] and back, rounded down.
        assert np.abs(first.astype(int) - panel.pixels[0, 0, 4:36, 4:36, None].numpy()).max() <= 1
    assert labels[-1] == "photo\timage 31"
    assert any(path.name.startswith("events.out.tfevents") for path in (tmp_path / "board").iterdir())


def test_projector_may_be_written_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "board").mkdir()
    monkeypatch.chdir(tmp_path / "board")
    write_projector(".", panels_with_photos())
    assert (tmp_path / "board" / "projector_config.pbtxt").is_file()


def test_projector_leaves_a_folder_in_use_alone(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    for name in ("used", "used/notes.txt"):
        with pytest.raises(ValueError, match="is not an empty folder; name a new one"):
            write_projector(tmp_path / name, panels_with_photos())
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "notes.txt"]
