"""The outputs of subcommands: tables on the terminal, and the files that were asked for."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from common.files import check_writable, write_text
from data.images import IMAGE_SUFFIXES
from evaluation.report import Section, as_csv, as_json, as_latex, as_markdown, as_text
from restoration.weights import SUFFIX

# By option, the sections in that format.
TEXT_OUTPUTS: dict[str, Callable[[Sequence[Section]], str]] = {
    "markdown": lambda sections: "\n".join(map(as_markdown, sections)),
    "latex": lambda sections: "\n".join(map(as_latex, sections)),
    "csv": as_csv,
}


def check_outputs(options: argparse.Namespace) -> None:
    """Raise ValueError or OSError before any work, if an output cannot be written or is named like other data."""
    given = {name: path for name in ("json", *TEXT_OUTPUTS) if (path := getattr(options, name, None))}
    option_of: dict[Path, str] = {}
    for name, path in given.items():
        if (other := option_of.setdefault(Path(path).absolute(), name)) != name:
            raise ValueError(f"--{other} and --{name} are both {path}; name two files")
    for place, name in option_of.items():
        if parent := next((parent for parent in place.parents if parent in option_of), None):
            raise ValueError(f"--{name} is inside --{option_of[parent]}, which is a file; name two files")
    for path in given.values():
        if Path(path).suffix.lower() in (*IMAGE_SUFFIXES, SUFFIX, ".pth", ".pt"):
            raise ValueError(f"{path} is named like a picture or weights; name a file for scores, such as out.json")
        check_writable(path)


def report(sections: Sequence[Section], content: dict, options: argparse.Namespace) -> None:
    """Write the files that were asked for, then print the tables. Printing may fail if the output is a closed pipe.

    Where a file cannot be written, the others are, and the tables are printed, before its error is raised.
    """
    texts: dict[str, Callable[[], str]] = {"json": lambda: as_json(content)}
    texts |= {name: partial(as_format, sections) for name, as_format in TEXT_OUTPUTS.items()}
    errors = []
    for name, as_text_file in texts.items():
        if path := getattr(options, name, None):
            try:
                write_text(path, as_text_file())
            except OSError as error:
                errors.append(error)
    print("\n\n".join(map(as_text, sections)), flush=True)
    if errors:
        raise errors[0]
