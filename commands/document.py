"""`document`: writes the tables of README, docs and model cards from results."""

import argparse
from pathlib import Path

from common.files import write_text
from evaluation.scores.documents import RESULTS, keep_result, pages, updated

PROJECT = Path(__file__).resolve().parent.parent
HELP = "write the tables of README, docs and model cards from the results in docs/results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "results",
        nargs="*",
        metavar="JSON",
        help=f"file of evaluate or table (--json); it is first copied to {RESULTS}, without the scores of images",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table is not up to date")
    parser.add_argument("--root", default=str(PROJECT), metavar="DIR", help="the project's folder (default: this one)")


def run(options: argparse.Namespace) -> None:
    root = Path(options.root)
    if options.check and options.results:
        raise ValueError("--check writes nothing, so it takes no results; leave one of them out")
    if not (root / "README.md").is_file():
        raise FileNotFoundError(f"{root} holds no README.md; name the project's folder with --root")
    for path in options.results:
        print(f"{path} -> {keep_result(path, root)}")
    texts = {page: updated(page, root) for page in pages(root)}  # an error in one page leaves all pages unwritten
    stale = [page for page, text in texts.items() if page.read_text(encoding="utf-8") != text]
    if options.check:
        if stale:
            raise ValueError(f"not up to date: {', '.join(map(str, stale))}; run test.py document")
        return
    for page in stale:
        write_text(page, texts[page])
        print(f"{page}: tables written")
