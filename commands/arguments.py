"""Parts of the command line that subcommands share: types of values, groups of options, a parser for them."""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

from common.machine import usable_cores
from data.config import expand_qualities
from data.known_sets import measured_folders
from evaluation.figures.crops import Crop
from evaluation.scores.image_sets import COLOR_MODES

MAX_SCALE = 4
MAX_SPEED_PX = 4096  # side of the image that `describe` times; a larger one may not fit into memory


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr, without the usage text, and exit status 2.

    An empty value is one: an unset variable of the shell must not mean the current folder, or that nothing was asked
    for. Of the processes that torchrun starts, which are all given the same, only rank 0 complains.
    """

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        args = sys.argv[1:] if args is None else list(args)
        for before, text in pairwise(["", *args]):
            if text == "--":  # what follows is another program's
                break
            if text.startswith("--") and text.endswith("="):
                self.error(f"argument {text[:-1]}: is empty")
            if not text:
                is_value = before.startswith("--") and "=" not in before
                self.error(f"argument {before}: is empty" if is_value else "an argument is empty")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if os.environ.get("RANK", "0") != "0":
            self.exit()
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def add_set_options(
    parser: argparse.ArgumentParser, *, qualities: Sequence[int] | None = (10, 20, 30, 40), required: bool = True
) -> None:
    """Options of the subcommands that measure on sets of images.

    `qualities` are used if none are given. None leaves --quality to `add_degradation_options`.
    """
    add_sets_option(parser, required=required)
    if qualities is not None:
        add_quality_option(parser, qualities)
    parser.add_argument("--channels", choices=COLOR_MODES, default="gray", help="luma or RGB (default: %(default)s)")


def add_sets_option(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The option that names sets of images."""
    known = measured_folders()
    choosing = ", ".join(name for name, (_, folder) in known.items() if folder.use == "choosing")
    parser.add_argument(
        "--sets",
        nargs="+",
        required=required,
        metavar="SET",
        help=f"any of {', '.join(known)} (under --data-root; {choosing} is for choosing between networks, so never "
        "report its scores), or a path to any folder of images",
    )


def add_quality_option(parser: argparse.ArgumentParser, qualities: Sequence[int]) -> None:
    """The option that names JPEG qualities. `qualities` are used if none are given."""
    listed = " ".join(map(str, qualities))
    parser.add_argument(
        "--quality",
        nargs="+",
        action=ExpandQualities,
        default=list(qualities),
        metavar="Q",
        help=f"JPEG qualities within 1..100, or ranges such as 10..45:5 (default: {listed})",
    )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommands that compute scores."""
    add_score_options(parser)
    add_workers_option(parser)


def add_cache_option(parser: argparse.ArgumentParser) -> None:
    """The option of the subcommands that measure the same scores again and again."""
    parser.add_argument(
        "--cache",
        metavar="DIR",
        default="runs/scores",
        help="keeps scores between calls (default: %(default)s)",
    )


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    """The option of the subcommands that score images."""
    parser.add_argument(
        "--workers",
        type=positive,
        default=max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))),
        metavar="N",
        help="processes that score images, or threads that make them (default: one for each core: %(default)s)",
    )


def add_score_options(parser: argparse.ArgumentParser) -> None:
    """Where images are read from, where scores go, and on which device a network runs."""
    parser.add_argument(
        "--data-root", default="", metavar="DIR", help="folder of the sets (default: DATA_ROOT, or datasets)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the scores to this file")
    for name, title in (("markdown", "Markdown"), ("latex", "LaTeX"), ("csv", "CSV")):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write the table to this file, as {title}")
    add_device_options(parser)


def add_device_options(parser: argparse.ArgumentParser, *, precision: str = "float32") -> None:
    """Options of the subcommands that run a network. `precision` is used if none is given."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if any")
    choices = ("auto", "float32", "bfloat16") if precision == "auto" else ("float32", "bfloat16")
    parser.add_argument("--precision", choices=choices, default=precision, help="default: %(default)s")


class ExpandQualities(argparse.Action):
    """Reads JPEG qualities and ranges, in the form that configs use: `10 20..40:5` is 10, 20, 25, 30, 35, 40."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option_string: str | None = None,
    ) -> None:
        try:
            setattr(namespace, self.dest, list(dict.fromkeys(expand_qualities(values, key=option_string))))
        except ValueError as error:
            parser.error(str(error))


def jpeg_quality(text: str) -> int:
    """Read a JPEG quality."""
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 100, got {text}")
    return int(text)


def positive(text: str) -> int:
    """Read a count."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def speed_size(text: str) -> int:
    """Read the side of a square image, in pixels."""
    size = positive(text)
    if size > MAX_SPEED_PX:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_SPEED_PX} pixels, got {text}")
    return size


def seed(text: str) -> int:
    """Read a seed. The upper limit is scikit-learn's."""
    if not (text.isascii() and text.isdecimal()) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {2**32 - 1}, got {text}")
    return int(text)


def scale(text: str) -> float:
    """Read a factor for the sides of images. The limit keeps the images from becoming too large."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_SCALE:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most {MAX_SCALE}, got {text}")
    return value


def crop_of(text: str) -> Crop:
    """Read a crop."""
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"must be four whole numbers, left,top,width,height, got {text}")
    crop = Crop(*map(int, parts))
    if not (crop.width and crop.height):
        raise argparse.ArgumentTypeError(f"has no pixels: {text}")
    return crop
