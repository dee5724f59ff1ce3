"""Gain against quality, and PSNR against arithmetic: which points are drawn, and how they are told apart."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from evaluation.figures.cost import MEASURED, PRINTED, PRINTED_KNOWING, Point, cost_figure, printed_points
from evaluation.figures.gain import curves_of, gain_figure
from evaluation.scores.tables import paper_tables
from restoration.networks.arcnn import ARCNN
from restoration.networks.dncnn import DnCNN
from restoration.networks.rdn import RDN


def scores(gain: float | None, gains: list[float | None]) -> dict:
    return {"psnr": 30.0, "gain": gain, "jpeg": {}, "images": {str(i): {"gain": one} for i, one in enumerate(gains)}}


def result(method: str, cells: dict, *, set_name: str = "live1", channels: str = "gray") -> dict:
    return {"method": method, "channels": channels, "results": {set_name: cells}}


def test_a_curve_has_rising_qualities_finite_gains_and_the_share_of_images_that_lose() -> None:
    cells = {"40": scores(1.0, [2.0, 0.0]), "5": scores(-0.5, [-1.0, 0.0]), "100": scores(None, [None, 1.0])}
    kept = {"90": {"psnr": 40.0, "gain": 0.1, "jpeg": {}, "num_images": 4, "num_worse": 1}}
    curve, slim = curves_of([result("net", cells), result("other", kept)])
    assert curve == ("net", [5, 40], [-0.5, 1.0], [0.5, 0.0])
    assert slim == ("other", [90], [0.1], [0.25])


def test_names_say_what_differs() -> None:
    cells = {"40": scores(1.0, [2.0])}
    one, two = result("a", cells), result("b", cells, set_name="classic5", channels="color")
    assert [curve.name for curve in curves_of([one, two])] == ["a, LIVE1, luma", "b, Classic5, colour"]


def test_curves_differ_in_colour_marker_and_dashes() -> None:
    cells = {"40": scores(1.0, [2.0]), "50": scores(math.nan, [2.0]), "60": scores(2.0, [-1.0])}
    above, below = gain_figure(curves_of([result(f"net{index}", cells) for index in range(7)])).axes
    lines = [line for line in above.lines if line.get_label().startswith("net")]
    for look in ("get_color", "get_marker"):
        assert len({getattr(line, look)() for line in lines}) == 7
    assert len({line.get_linestyle() for line in lines[:4]}) == 4
    np.testing.assert_array_equal(lines[0].get_data(), [[40, 60], [1, 2]])
    np.testing.assert_array_equal(below.lines[0].get_data(), [[40, 60], [0, 1]])


def test_printed_points_have_their_psnr_from_the_tables() -> None:
    points = {point.name: point for point in printed_points("gray", "classic5", 10)}
    assert points["the paper"] == ("the paper", 568.9, 30.16, PRINTED)
    assert points["ARCNN"] == ("ARCNN", 6.98, 29.03, PRINTED_KNOWING)
    assert points["SwinIR"].psnr_db == 30.27 and "QGAC" not in points  # its arithmetic is not known
    assert {point.name: point.psnr_db for point in printed_points("gray", "live1", 15)} == {
        "FBCNN": 31.15, "the paper": 31.12,
    }  # fmt: skip
    assert printed_points("color", "live1", 10)[0][:3] == ("FBCNN", 177.4, 27.77)
    assert printed_points("gray", "elsewhere", 10) == []


def test_every_known_arithmetic_is_of_a_printed_system_and_says_where_it_is_from() -> None:
    tables = paper_tables()
    rows = {name for table in tables.values() for name in table.get("rows", {})}
    for name, known in tables["arithmetic"].items():
        assert name in rows and known["source"] and {"is_blind", "gray"} <= known.keys()


@pytest.mark.parametrize(("name", "network_class"), [("ARCNN", ARCNN), ("DnCNN", DnCNN), ("RDN", RDN)])
def test_arithmetic_of_plain_networks_is_that_of_their_layers(name: str, network_class: type) -> None:
    with torch.device("meta"):  # shapes without numbers
        weights = [tensor for tensor in network_class(1).parameters() if tensor.ndim == 4]
    gmac = sum(tensor.numel() for tensor in weights) * 256**2 / 1e9  # every layer sees the whole image
    assert paper_tables()["arithmetic"][name]["gray"] == pytest.approx(gmac, rel=1e-3)


def test_systems_are_marked_by_kind_and_no_name_covers_another() -> None:
    names = ["first_network", "second_network", "third_network", "fourth_network"]
    kinds = [MEASURED, PRINTED, PRINTED, PRINTED_KNOWING]
    points = [Point(name, 100 * 1.5**i, 30, kind) for i, (name, kind) in enumerate(zip(names, kinds, strict=True))]
    figure = cost_figure([*points, Point("far", 1, 28, MEASURED)], 27.5, "LIVE1")
    axes = figure.axes[0]
    assert [len(line.get_xdata()) for line in axes.lines[:3]] == [2, 2, 1]
    assert len({line.get_marker() for line in axes.lines[:3]}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [MEASURED, PRINTED, PRINTED_KNOWING]
    texts = [text for text in axes.texts if text.get_text() in names]
    assert len(texts) == 4
    for first, second in combinations(texts, 2):
        assert not first.get_window_extent().overlaps(second.get_window_extent())
