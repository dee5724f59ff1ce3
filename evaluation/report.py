"""Tables for the terminal, as Markdown, LaTeX and CSV, and results as JSON."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

NO_VALUE = "-"
LATEX_SPECIAL = str.maketrans({character: f"\\{character}" for character in "&%$#_{}"})


class Score(NamedTuple):
    """One of the scores in a cell. `rank` is 1 for the best of the rows, 2 for the second best, 0 for all others."""

    metric: str
    text: str
    rank: int = 0


class Scores(str):
    """The text of a cell with several scores, `29.44 / 0.801 / 29.14`, which knows the scores."""

    scores: tuple[Score, ...]

    def __new__(cls, scores: Iterable[Score]) -> "Scores":
        scores = tuple(scores)
        cell = super().__new__(cls, " / ".join(score.text for score in scores))
        cell.scores = scores
        return cell


Rows = list[list[str]]  # the first row is the header; a cell with scores is a `Scores`


class Section(NamedTuple):
    """A table with its title, and lines to print below it."""

    title: str
    rows: Rows
    notes: list[str]


def as_text(section: Section) -> str:
    """The section for the terminal. Columns are aligned: words to the left, numbers to the right."""
    is_ranked = any(
        score.rank for row in section.rows for cell in row if isinstance(cell, Scores) for score in cell.scores
    )
    notes = [*section.notes, *["* best, ~ second best"] * is_ranked]
    section = _marked(section, {1: "{}*", 2: "{}~"})
    widths = [max(map(len, column)) for column in zip(*section.rows, strict=True)]
    is_words = [
        not any(cell.lstrip("+-")[:1].isdigit() for cell in column[1:]) for column in zip(*section.rows, strict=True)
    ]
    lines = [
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, is_words, strict=True)
        ).rstrip()
        for row in section.rows
    ]
    return "\n".join([section.title, *lines, *notes])


def as_markdown(section: Section) -> str:
    """The section as a Markdown table under a bold title."""
    section = _marked(section, {1: "**{}**", 2: "<u>{}</u>"})
    header, *body = ["| " + " | ".join(row) + " |" for row in section.rows]
    rule = "|" + "---|" * len(section.rows[0])
    notes = [line for note in section.notes for line in ("", note)]
    return "\n".join([f"**{section.title}**", "", header, rule, *body, *notes]) + "\n"


def as_latex(section: Section) -> str:
    """The section as a LaTeX table; best scores are bold, second best ones underlined. It needs no package."""

    def line(row: Sequence[str]) -> str:
        return " & ".join(row) + r" \\"

    marks = {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
    header, *body = _marked(section, marks, plain=lambda text: text.translate(LATEX_SPECIAL)).rows
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{'. '.join([section.title, *section.notes]).translate(LATEX_SPECIAL)}}}",
            rf"\begin{{tabular}}{{{'l' * len(header)}}}",
            r"\hline",
            line(header),
            r"\hline",
            *map(line, body),
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def as_csv(sections: Sequence[Section]) -> str:
    """The sections as one CSV file: the title in the column `table`, and a column for each score, called `Q10 psnr`."""
    rows = [{"table": section.title} | row for section in sections for row in _named_values(section.rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(content: dict) -> str:
    """JSON text. Infinite scores (equal images) become null, because JSON has no infinity."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _marked(section: Section, marks: dict[int, str], plain: Callable[[str], str] = str) -> Section:
    """The section with its ranks written into the cells. `plain` is applied to all text that is no mark."""

    def cell(value: str) -> str:
        if not isinstance(value, Scores):
            return plain(value)
        return " / ".join(marks.get(score.rank, "{}").format(plain(score.text)) for score in value.scores)

    return section._replace(rows=[list(map(cell, row)) for row in section.rows])


def _named_values(rows: Rows) -> Iterator[dict[str, str]]:
    """The rows with a value for each column, or for each score of a column. A cell without scores leaves them out."""
    header, *body = rows
    has_scores = [any(isinstance(cell, Scores) for cell in column) for column in zip(*body, strict=True)]
    for row in body:
        values = {}
        for title, cell, is_scored in zip(header, row, has_scores, strict=True):
            if isinstance(cell, Scores):
                values |= {f"{title} {score.metric}": score.text for score in cell.scores if score.text != NO_VALUE}
            elif not is_scored:
                values[title] = cell
        yield values


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
