"""Results as tables: measured scores alone, and measured rows below the printed rows of the paper."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from evaluation.report import NO_VALUE, Score, Scores, Section
from evaluation.scores.metrics import SHOWN, headings

JPEG_TABLES = (1, 3, 4)  # the tables that print a row of the JPEG itself
OURS = "Ours"  # the paper's own method in its tables
PAPERS_OWN = "the paper"  # and in ours


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
    """The metrics of a result, in order. Raises ValueError if it holds no scores."""
    scores = [scores for qualities in result["results"].values() for scores in qualities.values()]
    if not scores or not all(result["results"].values()):
        raise ValueError("it holds no scores")
    return list(scores[0]["jpeg"])  # this entry holds only metrics


@cache
def paper_tables() -> dict:
    """All of `paper_tables.yaml`: the paper's tables, rows of other papers, and the arithmetic of published systems."""
    return yaml.safe_load(Path(__file__).with_name("paper_tables.yaml").read_text(encoding="utf-8"))


def paper_table(number: int) -> dict:
    """A table as the paper prints it: {"metrics", "channels", "rows": {method: {set: {quality: [scores]}}}, "notes"}.

    The scores of a cell are in the order of "metrics".

    Raises:
        ValueError: if the paper has no such table.
    """
    tables = paper_tables()
    if f"table{number}" not in tables:
        numbered = [name for name in tables if name.startswith("table")]
        raise ValueError(f"the paper has tables 1 to {len(numbered)}, got {number}")
    return tables[f"table{number}"]


def sets_and_qualities(number: int) -> tuple[list[str], list[int]]:
    """The sets and JPEG qualities of a table, in the paper's order."""
    table = paper_table(number)
    cells = next(iter(table["rows"].values()))
    if "dataset" in table:  # Table 5 has one set
        return [table["dataset"]], list(cells)
    return list(cells), list(next(iter(cells.values())))


def compare(
    number: int,
    measured: Sequence[dict],
    missing: Mapping[str, str] | None = None,
    lacking: Sequence[str] = (),
) -> list[Section]:
    """The rows of the paper and, below them, the measured rows. There is a section for each measured set.

    The metrics are those of the printed table. If a result lacks one, its place shows `NO_VALUE`. Below a measured row
    is its difference to the printed row of the same system; a system that the paper does not list is compared with the
    paper's own. The best and second best scores of a column are marked.

    Args:
        number: of the table, 1 to 4.
        measured: results for the table's color mode, on all or some of its sets and qualities.
        missing: sets that could not be measured, and why. Each gets a section too, with a note.
        lacking: notes on metrics that could not be measured.
    """
    table, missing = paper_table(number), missing or {}
    sets, qualities = sets_and_qualities(number)
    sections = []
    for set_name in (name for name in sets if name in missing or any(name in result["results"] for result in measured)):
        printed = {
            method: {quality: dict(zip(table["metrics"], cell, strict=True)) for quality, cell in cells.items()}
            for method, cells in ((method, of_sets.get(set_name, {})) for method, of_sets in table["rows"].items())
        }
        rows = [_Row(PAPERS_OWN if method == OURS else method, "printed", cells) for method, cells in printed.items()]
        rows = [row._replace(decimals=_printed_decimals) for row in rows]
        differences = {}
        for result in measured:
            found = result["results"].get(set_name, {})
            cells = {quality: found[str(quality)] for quality in qualities if str(quality) in found}
            if cells and (other := counterpart(result["method"], printed)):
                differences[len(rows)] = _difference_row(other, cells, printed[other], table["metrics"], qualities)
            rows.append(_Row(result["method"], "measured", cells))
        heading = ["method", "figures", *(f"Q{quality}" for quality in qualities)]
        shown = [heading]
        ranks = [_ranks(rows, quality, table["metrics"]) for quality in qualities]
        for index, row in enumerate(rows):
            cells = (
                row.cell(quality, table["metrics"], rank[index]) for quality, rank in zip(qualities, ranks, strict=True)
            )
            shown += [[row.name, row.kind, *cells], *([differences[index]] if index in differences else [])]
        notes = [f"{set_name}: not measured, {missing[set_name]}"] if set_name in missing else list(lacking)
        notes += [note for note in table.get("notes", []) if set_name in note]
        title = f"Table {number}, {set_name}, {table['channels']}: {headings(table['metrics'])}"
        sections.append(Section(title, shown, notes))
    return sections


def counterpart(method: str, printed: Iterable[str]) -> str | None:
    """The printed row that a measured system is compared with: the one that its name begins with, else the paper's own.

    None for the JPEG in a table without a row for it.
    """
    name = re.sub(r"[^a-z0-9]", "", method.lower())
    same = [row for row in printed if row != OURS and name.startswith(row.lower())]
    return max(same, key=len) if same else None if name == "jpeg" else OURS


def check_jpeg(result: dict, number: int) -> tuple[int, list[str]]:
    """Compare a measured JPEG row with the printed one, to the printed digit.

    Returns:
        The number of compared scores, and a line for each that differs.
    """
    table = paper_table(number)
    num_compared, differences = 0, []
    for set_name, cells in table["rows"].get("JPEG", {}).items():
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
    at = f"Q{quality}" if quality[0].isdigit() else f"{quality} quality"
    return (
        f"{set_name}: PSNR gain over the JPEG, all qualities: mean {mean:+.3f} dB; lowest "
        f"{gain_of[stem, quality]:+.3f} dB ({stem} at {at}); below zero: {num_worse} of {len(gain_of)}"
    )


def _printed_decimals(printed: float, metric: str) -> int:
    """Decimals of a printed score: the metric's, or more if the paper prints more."""
    return max(SHOWN[metric].decimals, len(str(printed).partition(".")[2]))


def _decimals(value: float, metric: str) -> int:
    """Decimals of a measured score."""
    return SHOWN[metric].decimals


class _Row(NamedTuple):
    """One system's scores on a set: {quality: {metric: score}}."""

    name: str
    kind: str  # "printed" or "measured"
    cells: Mapping[int, Mapping[str, float]]
    decimals: Callable[[float, str], int] = _decimals

    def text(self, quality: int, metric: str) -> str:
        score = self.cells.get(quality, {}).get(metric)
        return NO_VALUE if score is None else f"{score:.{self.decimals(score, metric)}f}"

    def cell(self, quality: int, metrics: Sequence[str], ranks: Mapping[str, int]) -> str:
        if quality not in self.cells:
            return NO_VALUE
        return Scores(Score(metric, self.text(quality, metric), ranks.get(metric, 0)) for metric in metrics)


def _ranks(rows: Sequence[_Row], quality: int, metrics: Sequence[str]) -> list[dict[str, int]]:
    """For each row, the rank of its scores: 1 best, 2 second best, as far as the shown digits tell them apart."""
    ranks: list[dict[str, int]] = [{} for _ in rows]
    for metric in metrics:
        places = SHOWN[metric].decimals
        shown = [
            round(float(text), places) if text != NO_VALUE else None
            for text in (row.text(quality, metric) for row in rows)
        ]
        known = sorted({value for value in shown if value is not None}, reverse=not SHOWN[metric].is_smaller_better)
        for index, value in enumerate(shown):
            if value in known[:2] and len(known) > 1:
                ranks[index][metric] = known.index(value) + 1
    return ranks


def _difference_row(
    other: str,
    cells: Mapping[int, Mapping[str, float]],
    printed: Mapping[int, Mapping[str, float]],
    metrics: Sequence[str],
    qualities: Sequence[int],
) -> list[str]:
    """Measured minus printed scores, each as it is shown in its own row."""

    def difference(quality: int, metric: str) -> str:
        pair = (cells.get(quality, {}).get(metric), printed.get(quality, {}).get(metric))
        if None in pair:
            return NO_VALUE
        decimals = SHOWN[metric].decimals
        return f"{round(round(pair[0], decimals) - pair[1], decimals) + 0.0:+.{decimals}f}"  # + 0.0: never "-0.00"

    name = PAPERS_OWN if other == OURS else other
    row = [
        Scores(Score(metric, difference(quality, metric)) for metric in metrics) if quality in cells else NO_VALUE
        for quality in qualities
    ]
    return [f"minus {name}", "difference", *row]


def _measured_cell(scores: Mapping[str, float], metrics: Sequence[str]) -> Scores:
    return Scores(Score(metric, f"{scores[metric]:.{SHOWN[metric].decimals}f}") for metric in metrics)
