"""Results as tables: measured scores alone, and measured rows below the printed rows of the paper."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import yaml

from evaluation.report import NO_VALUE, Section
from evaluation.scores.metrics import METRICS, headings

BUILT_TABLES = (1, 3, 4)  # the tables over sets and qualities, with metrics that are measured here
PAPERS_OWN = "the paper"  # its tables say "Ours"


def summarize(result: dict) -> Section:
    """A table of a result of `protocol.evaluate`, with a row for each set and quality.

    The metrics are those of the result. A note gives the mean gain of each set over all its qualities, and the image
    with the lowest gain.
    """
    metrics = metrics_of(result)
    rows = [["set", "quality", "JPEG", result["method"], "gain (dB)", "lowest gain (dB)", "images"]]
    for set_name, qualities in result["results"].items():
        for quality, scores in qualities.items():
            cells = [_measured_cell(values, metrics) for values in (scores["jpeg"], scores)]
            gains = [f"{scores['gain']:+.2f}", f"{scores['worst_gain']:+.2f}"]
            rows.append([set_name, quality, *cells, *gains, str(len(scores["images"]))])
    title = f"{result['method']}, {result['channels']}: {headings(metrics)}"
    notes = [_gains(*item) for item in result["results"].items()]
    return Section(title, rows, [*notes, f"protocol: {result['protocol']}"])


def metrics_of(result: dict) -> list[str]:
    """The metrics of a result, in order."""
    qualities = next(iter(result["results"].values()))
    return list(next(iter(qualities.values()))["jpeg"])  # this entry holds only metrics


def paper_table(number: int) -> dict:
    """A table as the paper prints it: {"metrics", "channels", "rows": {method: {set: {quality: [scores]}}}, "notes"}.

    The scores of a cell are in the order of "metrics".

    Raises:
        ValueError: if the paper has no such table.
    """
    tables = _paper_tables()
    if f"table{number}" not in tables:
        raise ValueError(f"the paper has tables 1 to {len(tables)}, got {number}")
    return tables[f"table{number}"]


def sets_and_qualities(number: int) -> tuple[list[str], list[int]]:
    """The sets and JPEG qualities of one of the built tables, in the paper's order."""
    cells = next(iter(paper_table(number)["rows"].values()))
    return list(cells), list(next(iter(cells.values())))


def compare(number: int, measured: Sequence[dict]) -> list[Section]:
    """The rows of the paper and, below them, the measured rows. There is a section for each measured set.

    The metrics are those of the printed table. If a result lacks one, its place shows `NO_VALUE`.

    Args:
        number: one of `BUILT_TABLES`.
        measured: results for the table's color mode, on all or some of its sets and qualities.
    """
    table = paper_table(number)
    metrics = table["metrics"]
    sets, qualities = sets_and_qualities(number)
    sections = []
    for set_name in (name for name in sets if any(name in result["results"] for result in measured)):
        rows = [["method", "figures", *(f"Q{quality}" for quality in qualities)]]
        for method, cells in table["rows"].items():
            printed = cells.get(set_name, {})
            rows.append(
                [
                    PAPERS_OWN if method == "Ours" else method,
                    "printed",
                    *(_printed_cell(printed.get(quality), metrics) for quality in qualities),
                ]
            )
        for result in measured:
            found = result["results"].get(set_name, {})
            cells = (_measured_cell(found.get(str(quality)), metrics) for quality in qualities)
            rows.append([result["method"], "measured", *cells])
        title = f"Table {number}, {set_name}, {table['channels']}: {headings(metrics)}"
        sections.append(Section(title, rows, [note for note in table.get("notes", []) if set_name in note]))
    return sections


def check_jpeg(result: dict, number: int) -> tuple[int, list[str]]:
    """Compare a measured JPEG row with the printed one, to the printed digit.

    Returns:
        The number of compared scores, and a line for each that differs.
    """
    table = paper_table(number)
    num_compared, differences = 0, []
    for set_name, cells in table["rows"]["JPEG"].items():
        for quality, cell in cells.items():
            scores = result["results"].get(set_name, {}).get(str(quality), {})
            for metric, printed in zip(table["metrics"], cell, strict=True):
                if metric not in scores:
                    continue
                num_compared += 1
                if not agrees(scores[metric], printed, metric):
                    measured = f"measured {scores[metric]:.4f}, printed {printed}"
                    differences.append(f"{set_name} Q{quality} {metric}: {measured}")
    return num_compared, differences


def agrees(value: float, printed: float, metric: str) -> bool:
    """Whether a value rounds to a printed score: at the metric's decimals, or at more if the printed score has more."""
    return abs(value - printed) <= 0.5 * 10 ** -_printed_decimals(printed, metric) + 1e-9  # a tie may round either way


@cache
def _paper_tables() -> dict:
    return yaml.safe_load(Path(__file__).with_name("paper_tables.yaml").read_text(encoding="utf-8"))


def _gains(set_name: str, qualities: dict[str, dict]) -> str:
    """A line on the gains of a set's images over their JPEGs, over all qualities."""
    gain_of = {
        (stem, quality): of_image["gain"]
        for quality, scores in qualities.items()
        for stem, of_image in scores["images"].items()
    }
    mean = sum(gain_of.values()) / len(gain_of)
    num_worse = sum(gain < 0 for gain in gain_of.values())
    stem, quality = min(gain_of, key=gain_of.get)
    return (
        f"{set_name}: PSNR gain over the JPEG, all qualities: mean {mean:+.3f} dB; lowest "
        f"{gain_of[stem, quality]:+.3f} dB ({stem} at Q{quality}); below zero: {num_worse} of {len(gain_of)}"
    )


def _printed_decimals(printed: float, metric: str) -> int:
    """Decimals of a printed score: the metric's, or more if the paper prints more."""
    return max(METRICS[metric].decimals, len(str(printed).partition(".")[2]))


def _printed_cell(scores: Sequence[float] | None, metrics: Sequence[str]) -> str:
    if scores is None:
        return NO_VALUE
    named = zip(metrics, scores, strict=True)
    return " / ".join(f"{score:.{_printed_decimals(score, metric)}f}" for metric, score in named)


def _measured_cell(scores: Mapping[str, float] | None, metrics: Sequence[str]) -> str:
    if scores is None:
        return NO_VALUE
    return " / ".join(
        f"{scores[metric]:.{METRICS[metric].decimals}f}" if metric in scores else NO_VALUE for metric in metrics
    )
