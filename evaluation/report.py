"""Tables for the terminal and for Markdown, and results as JSON."""

import json
import math
from typing import NamedTuple

NO_VALUE = "-"

Rows = list[list[str]]  # the first row is the header


class Section(NamedTuple):
    """A table with its title, and lines to print below it."""

    title: str
    rows: Rows
    notes: list[str]


def as_text(section: Section) -> str:
    """The section for the terminal. Columns are aligned: words to the left, numbers to the right."""
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
    return "\n".join([section.title, *lines, *section.notes])


def as_markdown(section: Section) -> str:
    """The section as a Markdown table under a bold title."""
    header, *body = ["| " + " | ".join(row) + " |" for row in section.rows]
    rule = "|" + "---|" * len(section.rows[0])
    notes = [line for note in section.notes for line in ("", note)]
    return "\n".join([f"**{section.title}**", "", header, rule, *body, *notes]) + "\n"


def as_json(content: dict) -> str:
    """JSON text. Infinite scores (equal images) become null, because JSON has no infinity."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
