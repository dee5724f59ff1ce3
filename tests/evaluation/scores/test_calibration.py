"""The limits of fine images: chosen by trying all, measured as evaluation measures."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cqe.quality import Reading
from evaluation.report import as_text
from evaluation.scores.calibration import Outcome, choose, gains_section, measure
from evaluation.scores.image_sets import open_sets
from evaluation.scores.protocol import evaluate, restored_by
from restoration.fineness import FineLimits, Fineness
from restoration.tiling import restore_image
from tests.synthetic import picture, save


def gains_with(outcomes: list[Outcome], limits: FineLimits) -> dict[tuple[str, int], float]:
    """The mean gain of each set and quality, one outcome at a time."""
    found = {}
    for outcome in outcomes:
        is_left = outcome.change < limits.change or (limits.quality is not None and outcome.reading >= limits.quality)
        found.setdefault((outcome.set_name, outcome.quality), []).append(0.0 if is_left else outcome.gain)
    return {key: sum(gains) / len(gains) for key, gains in found.items()}


def drawn(seed: int, *, has_readings: bool = True) -> list[Outcome]:
    """Readings about the quality; gains that fall with it and turn to losses; changes that fall with it."""
    rng = np.random.default_rng(seed)
    outcomes = []
    for set_name, quality, image in product(("val", "photos"), (50, 85, 88, 90, 92, 95, 100), "abcdef"):
        reading = quality + rng.normal(0, 1.5) if has_readings else np.nan
        change = max(0.06 * (100 - quality) + rng.normal(0.5, 0.2), 0)
        outcomes.append(Outcome(set_name, image, quality, reading, change, 0.1 * (91 - quality) + rng.normal(0, 0.1)))
    return outcomes


@pytest.mark.parametrize("has_readings", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_no_pair_of_limits_is_better(seed: int, has_readings: bool) -> None:
    outcomes = drawn(seed, has_readings=has_readings)
    limits = choose(outcomes)
    gains = gains_with(outcomes, limits)
    assert min(gains.values()) >= 0 and (limits.quality is not None) == has_readings
    mean = np.mean(list(gains.values()))
    for quality in np.arange(80, 95.1, 0.5) if has_readings else [None]:
        for change in np.arange(0, 1.75 if has_readings else 4.05, 0.2):
            others = gains_with(outcomes, FineLimits(quality, change)).values()
            assert min(others) < 0 or np.mean(list(others)) <= mean + 0.001


def test_limits_that_leave_more_alone_are_taken_where_nothing_is_lost() -> None:
    """Between 86 and 94 every limit does the same good; so does every change under that of the only image restored."""
    outcomes = [Outcome("val", "a", 85, 86.04, 1.55, 1.0), Outcome("val", "a", 95, 94.5, 3.0, -1.0)]
    limits = choose(outcomes)
    assert limits.change == 1.5 and 86.04 < limits.quality <= 94.5


def test_a_loss_may_be_allowed_where_one_image_would_decide() -> None:
    outcomes = [Outcome("val", "a", 88, 88.55, 3, 1.0), Outcome("val", "b", 100, 87.0, 3, -9.0)]
    outcomes += [Outcome("val", "c", 100, 99, 0, 0.0)] * 99
    assert choose(outcomes).quality <= 87 and choose(outcomes, max_loss_db=0.089).quality <= 87
    assert choose(outcomes, max_loss_db=0.091).quality > 88.55


def test_an_image_without_error_may_not_be_changed() -> None:
    outcomes = [Outcome("val", "a", 90, 90, 3, 0.1), Outcome("val", "a", 100, 90.55, 3, -np.inf)]
    assert 90 < choose(outcomes).quality <= 90.5


def test_a_network_that_only_harms_is_refused() -> None:
    with pytest.raises(
        ValueError, match="no limits keep the mean loss at 0 dB or less at every quality; train the network"
    ):
        choose([Outcome("val", "a", 10, 12.0, 9.0, -0.5)])


def test_the_table_counts_and_averages_what_the_limits_leave() -> None:
    outcomes = [
        Outcome("val", "a", 85, 84, 2.0, 0.5),
        Outcome("val", "a", 85, 93, 2.0, -9.0),
        Outcome("val", "a", 100, 99, 1, -np.inf),
    ]
    section = gains_section(outcomes, FineLimits(92.5, 1.0), "title")
    assert section.rows[1:] == [
        ["val", "85", "+0.250", "+0.00", "2", "1"],
        ["val", "100", "+0.000", "+0.00", "1", "1"],
    ]
    assert "is read at quality 92.5 or above, or would change by less than 1 grey levels" in as_text(section)


class Sharper(nn.Module):
    """Moves each pixel away from its neighbours' mean."""

    channels = 1

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * (x - nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False))


class ByContrast:
    """A stand-in for a reader: the same number for the same image, from 60 to 96."""

    def read(self, image: np.ndarray) -> Reading:
        return Reading(60 + int(image.sum(dtype=np.int64) % 37), 1.0)


def test_limits_have_the_effect_in_evaluate_that_was_measured(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path / "mine" / f"{index}.png", picture(40, 48, seed=index))
    sets, qualities, network = open_sets([str(tmp_path / "mine")], tmp_path), [10, 60, 95], Sharper()
    outcomes = list(measure(network, ByContrast(), sets, qualities, "gray"))
    assert [outcome[:3] for outcome in outcomes] == list(product(["mine"], "0123", qualities))
    readings = [outcome.reading for outcome in outcomes if outcome.reading < 95]
    changes = [outcome.change for outcome in outcomes if outcome.reading < 95]
    limits = FineLimits(float(np.median(readings)), float(np.median(changes)))
    network.fineness = Fineness(limits, ByContrast())
    produce = restored_by(lambda image: restore_image(network, image))
    found = evaluate(produce, sets, qualities, "gray", method="toy")["results"]["mine"]
    expected = gains_with(outcomes, limits)
    assert 0 in expected.values() or len(set(expected.values())) == 3
    for quality in qualities:
        assert found[str(quality)]["gain"] == pytest.approx(expected["mine", quality], abs=1e-9)


def test_without_a_probe_readings_are_not_numbers(tmp_path: Path) -> None:
    save(tmp_path / "mine" / "a.png", picture(40, 48))
    sets = open_sets([str(tmp_path / "mine")], tmp_path)
    (outcome,) = measure(Sharper(), None, sets, [50], "gray")
    assert np.isnan(outcome.reading) and outcome.change > 0
    assert torch.is_grad_enabled()
