"""The outputs of subcommands: tables on the terminal, and the files that were asked for."""

import argparse
from collections.abc import Callable, Sequence
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
    for path in given.values():
        if Path(path).suffix.lower() in (*IMAGE_SUFFIXES, SUFFIX, ".pth", ".pt"):
            raise ValueError(f"{path} is named like a picture or weights; name a file for scores, such as out.json")
        check_writable(path)


def report(sections: Sequence[Section], content: dict, options: argparse.Namespace) -> None:
    """Write the files that were asked for, then print the tables. Printing may fail if the output is a closed pipe."""
    for name, as_format in TEXT_OUTPUTS.items():
        if path := getattr(options, name, None):
            write_text(path, as_format(sections))
    if options.json:
        write_text(options.json, as_json(content))
    print("\n\n".join(map(as_text, sections)), flush=True)
