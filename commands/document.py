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
    targets = [root / RESULTS / Path(path).name for path in options.results]
    if repeated := next((target for target in targets if targets.count(target) > 1), None):
        raise ValueError(f"two results would both become {repeated}; rename one")
    before = {target: target.read_bytes() if target.is_file() else None for target in targets}
    try:
        kept = [keep_result(path, root) for path in options.results]
        texts = {page: updated(page, root) for page in pages(root)}  # an error in one page leaves all pages unwritten
    except BaseException:  # Ctrl-C, too
        for target, content in before.items():  # the old results stay as well
            target.unlink(missing_ok=True) if content is None else target.write_bytes(content)
        raise
    for path, target in zip(options.results, kept, strict=True):
        print(f"{path} -> {target}")
    stale = [page for page, text in texts.items() if page.read_text(encoding="utf-8") != text]
    if options.check:
        if stale:
            raise ValueError(f"not up to date: {', '.join(map(str, stale))}; run test.py document")
        return
    for page in stale:
        write_text(page, texts[page])
        print(f"{page}: tables written")
