"""The outputs of subcommands: tables on the terminal, and the files that were asked for."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.files import check_writable, write_text
from data.images import IMAGE_SUFFIXES
from evaluation.report import Section, as_json, as_markdown, as_text
from restoration.weights import SUFFIX


def check_outputs(options: argparse.Namespace) -> None:
    """Raise ValueError or OSError before any work, if an output cannot be written or is named like other data."""
    outputs = [path for path in (options.json, options.markdown) if path]
    if len(outputs) == 2 and Path(outputs[0]).absolute() == Path(outputs[1]).absolute():
        raise ValueError(f"--json and --markdown are both {outputs[0]}; name two files")
    for path in outputs:
        if Path(path).suffix.lower() in (*IMAGE_SUFFIXES, SUFFIX, ".pth", ".pt"):
            raise ValueError(f"{path} is named like a picture or weights; name a file for scores, such as out.json")
        check_writable(path)


def report(sections: Sequence[Section], content: dict, options: argparse.Namespace) -> None:
    """Write the files that were asked for, then print the tables. Printing may fail if the output is a closed pipe."""
    if options.markdown:
        write_text(options.markdown, "\n".join(map(as_markdown, sections)))
    if options.json:
        write_text(options.json, as_json(content))
    print("\n\n".join(map(as_text, sections)), flush=True)
