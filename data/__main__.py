"""`python -m data prepare NAME SOURCE...`, `python -m data download NAME` and `python -m data bundled`."""

import argparse
import logging
from collections.abc import Sequence

from common.errors import user_errors
from data.bundled import make_bundled
from data.config import DEFAULT_PACK_DIR, data_root
from data.download import download
from data.known_sets import KNOWN_SETS
from data.prepare import prepare


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. A user's mistake gives one line and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with user_errors("python -m data"):
        options = _parser().parse_args(arguments)
        print("\n".join(_run(options)))


def _run(options: argparse.Namespace) -> list[str]:
    if options.command == "bundled":
        return make_bundled(options.root)
    shared = {"root": options.root, "force": options.force, "pack_dir": options.pack_dir}
    if options.command == "prepare":
        return prepare(options.name, options.source, link=options.link, **shared).lines()
    return download(options.name, **shared).lines()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data", description="Check image sets and put them into place.")
    commands = parser.add_subparsers(dest="command", required=True)
    names = ", ".join(KNOWN_SETS)
    addressed = " or ".join(name for name, known in KNOWN_SETS.items() if known.addresses)
    preparing = commands.add_parser("prepare", help="make a set from a folder, .zip, .tar or .tgz")
    preparing.add_argument("name", metavar="NAME", help=names)
    preparing.add_argument("source", metavar="SOURCE", nargs="+", help="folder or archive; several are put together")
    preparing.add_argument("--link", action="store_true", help="symbolic links instead of copies; only for folders")
    downloading = commands.add_parser("download", help=f"fetch and prepare {addressed}")
    downloading.add_argument("name", metavar="NAME", help=addressed)
    bundled = commands.add_parser("bundled", help="make a small set of photos that come with scikit-image")
    for command in (preparing, downloading, bundled):
        command.add_argument(
            "--root", default=str(data_root()), help="folder of all sets (default: DATA_ROOT, or datasets)"
        )
    for command in (preparing, downloading):
        command.add_argument("--force", action="store_true", help="replace a set that exists")
        command.add_argument(
            "--pack-dir", default=DEFAULT_PACK_DIR, help="folder for packed images (default: %(default)s)"
        )
    return parser


if __name__ == "__main__":
    main()
