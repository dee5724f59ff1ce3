"""Degradations: what is drawn, labels that results can be told apart by, and published scores beside ours."""

import numpy as np
import pytest

from evaluation.scores.degradations import Jpeg, RandomJpeg, as_degradations
from evaluation.scores.double_jpeg import beside_published


def test_a_drawn_quality_depends_on_seed_set_and_image_alone() -> None:
    stems = [f"{number}" for number in range(3000)]
    drawn = {
        (seed, name): [RandomJpeg(10, 14, seed).qualities_of(name, stem)[0] for stem in stems]
        for seed in (0, 1)
        for name in ("live1", "icb")
    }
    for qualities in drawn.values():
        values, counts = np.unique(qualities, return_counts=True)
        assert list(values) == [10, 11, 12, 13, 14]
        assert (abs(counts - 600) < 5 * np.sqrt(3000 * 0.2 * 0.8)).all()  # five standard deviations
    for one, other in [((0, "live1"), (1, "live1")), ((0, "live1"), (0, "icb"))]:
        same = sum(a == b for a, b in zip(drawn[one], drawn[other], strict=True))
        assert abs(same - 600) < 5 * np.sqrt(3000 * 0.2 * 0.8)
    # As it was when this was written: later versions must draw the same.
    assert [RandomJpeg(10, 95, 0).qualities_of("live1", stem)[0] for stem in ("bikes", "building2")] == [72, 63]


def test_numbers_are_one_coding_each_and_labels_must_differ() -> None:
    twice = Jpeg((30, 50), (4, 4))
    assert as_degradations([10, twice, 10, Jpeg((10,))]) == [Jpeg((10,)), twice]
    assert [each.label for each in as_degradations([10, twice, RandomJpeg(1, 9, 0)])] == ["10", "30+50", "random"]
    with pytest.raises(ValueError, match=r"30\+50 is asked for in two ways"):
        as_degradations([twice, Jpeg((30, 50), (0, 4))])


def test_published_scores_stand_beside_ours_where_they_are_comparable() -> None:
    degradations = [Jpeg((10,)), Jpeg((50, 50), (4, 4)), Jpeg((70, 70), (4, 4))]
    scores = {each.label: {"psnr": 31.234, "jpeg": {"psnr": 29.0}} for each in degradations}
    result = {"method": "ours", "channels": "gray", "results": {"live1": scores, "mine": scores}}
    (section,) = beside_published([result], degradations)
    assert section.title == "JPEG twice, live1, gray: PSNR (dB)"
    assert section.rows == [
        ["method", "figures", "50+50"],
        ["OAPT", "printed", "33.88"],
        ["jpeg", "measured", "29.00"],
        ["ours", "measured", "31.23"],
    ]
    assert beside_published([result | {"channels": "color"}], degradations) == []
    assert beside_published([result], [Jpeg((50, 50), (0, 0))]) == []
