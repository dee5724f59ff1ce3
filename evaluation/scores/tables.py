"""Results as tables: what was measured, and what was measured beside the rows that the paper prints."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml

from evaluation.report import NO_VALUE, Section
from evaluation.scores.metrics import METRICS

BUILT_TABLES = (1, 3, 4)  # those of PSNR / SSIM / PSNR-B over sets and qualities
DECIMALS = {"psnr": 2, "ssim": 3, "psnrb": 2}
PAPERS_OWN = "the paper"  # what its tables call "Ours"


def summarize(result: dict) -> Section:
    """A row for each set and quality of an evaluation's result (see `scores.protocol.evaluate`), as cards show it.

    A note says what a set gains over all its qualities, and which image gains least.
    """
    rows = [["set", "quality", "JPEG", result["method"], "gain (dB)", "lowest gain (dB)", "images"]]
    for set_name, qualities in result["results"].items():
        for quality, scores in qualities.items():
            figures = [_cell([of[metric] for metric in METRICS]) for of in (scores["jpeg"], scores)]
            gains = [f"{scores['gain']:+.2f}", f"{scores['worst_gain']:+.2f}"]
            rows.append([set_name, quality, *figures, *gains, str(len(scores["images"]))])
    title = f"{result['method']}, {result['channels']}: PSNR (dB) / SSIM / PSNR-B (dB)"
    notes = [_gains(*item) for item in result["results"].items()]
    return Section(title, rows, [*notes, f"protocol: {result['protocol']}"])


def paper_table(number: int) -> dict:
    """A table as the paper prints it: {"metrics", "channels", "rows": {method: {set: {quality: [figures]}}}, "notes"}.

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
    """The paper's rows and, below them, the measured ones; a section for each set that was measured.

    Args:
        number: one of `BUILT_TABLES`.
        measured: results over the table's sets (or some of them) and qualities, of the table's channels.
    """
    table = paper_table(number)
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
                    *(_cell(printed.get(quality), is_printed=True) for quality in qualities),
                ]
            )
        for result in measured:
            found = result["results"].get(set_name, {})
            figures = ([found[str(q)][metric] for metric in METRICS] if str(q) in found else None for q in qualities)
            rows.append([result["method"], "measured", *map(_cell, figures)])
        title = f"Table {number}, {set_name}, {table['channels']}: PSNR (dB) / SSIM / PSNR-B (dB)"
        sections.append(Section(title, rows, [note for note in table.get("notes", []) if set_name in note]))
    return sections


def check_jpeg(result: dict, number: int) -> tuple[int, list[str]]:
    """Hold a measured JPEG row against the paper's, to the digit that is printed.

    Returns:
        How many figures were compared, and a line for each that differs.
    """
    num_compared, differences = 0, []
    for set_name, cells in paper_table(number)["rows"]["JPEG"].items():
        for quality, printed in cells.items():
            scores = result["results"].get(set_name, {}).get(str(quality))
            for metric, figure in zip(METRICS, printed, strict=True) if scores else ():
                num_compared += 1
                value = scores[metric]
                if not agrees(value, figure, metric):
                    differences.append(f"{set_name} Q{quality} {metric}: measured {value:.4f}, printed {figure}")
    return num_compared, differences


def agrees(value: float, printed: float, metric: str) -> bool:
    """Whether a value rounds to a printed figure, at the metric's decimals or as many more as the figure has."""
    return abs(value - printed) <= 0.5 * 10 ** -_printed_decimals(printed, metric) + 1e-9  # a tie may round either way


@cache
def _paper_tables() -> dict:
    return yaml.safe_load(Path(__file__).with_name("paper_tables.yaml").read_text(encoding="utf-8"))


def _gains(set_name: str, qualities: dict[str, dict]) -> str:
    """The line on what a set's images gain over their JPEGs, at all qualities together."""
    gain_of = {
        (stem, quality): figures["gain"]
        for quality, scores in qualities.items()
        for stem, figures in scores["images"].items()
    }
    mean = sum(gain_of.values()) / len(gain_of)
    num_worse = sum(gain < 0 for gain in gain_of.values())
    stem, quality = min(gain_of, key=gain_of.get)
    return (
        f"{set_name}: PSNR gain over the JPEG, all qualities: mean {mean:+.3f} dB; lowest "
        f"{gain_of[stem, quality]:+.3f} dB ({stem} at Q{quality}); below zero: {num_worse} of {len(gain_of)}"
    )


def _printed_decimals(figure: float, metric: str) -> int:
    """Decimals of a printed figure: the metric's, or as many more as the figure has."""
    return max(DECIMALS[metric], len(str(figure).partition(".")[2]))


def _cell(figures: Sequence[float] | None, *, is_printed: bool = False) -> str:
    if figures is None:
        return NO_VALUE
    named = zip(METRICS, figures, strict=True)
    return " / ".join(
        f"{x:.{_printed_decimals(x, metric) if is_printed else DECIMALS[metric]}f}" for metric, x in named
    )
