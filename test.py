"""Use and measure restoration: scores on the benchmarks, the paper's tables, and photos restored.

`python test.py SUBCOMMAND --help` lists the options. A mistake in what was given ends with one line and exit status 2.
"""

import argparse
import importlib
import io
import logging
import sys
from collections.abc import Sequence

from common.errors import user_errors

# Each is a file of `commands` with HELP, add_arguments(parser) and run(options).
COMMANDS = (
    "evaluate", "table", "figure", "report", "represent", "guidance", "restore", "probe", "calibrate", "describe",
    "benchmark", "publish", "document", "degrade", "fit",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand; only its file is imported, or all of them to list what there is."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may not be text in the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    with user_errors("test.py"):
        options = _parsed(list(sys.argv[1:] if arguments is None else arguments))
        options.run(options)


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    from commands.arguments import OneLineParser  # here, because it takes seconds, in which Ctrl-C may come

    parser = OneLineParser(prog="test.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subcommands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    for name in arguments[:1] if arguments[:1] and arguments[0] in COMMANDS else COMMANDS:
        command = importlib.import_module(f"commands.{name}")
        subcommand = subcommands.add_parser(name, help=command.HELP)
        subcommand.set_defaults(run=command.run)
        command.add_arguments(subcommand)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
