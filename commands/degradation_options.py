"""The options that say how images are degraded before a system restores them."""

import argparse
from collections.abc import Sequence

from commands.arguments import ExpandQualities, jpeg_quality, seed
from data.config import expand_qualities
from evaluation.scores.degradations import DRAWN_RANGE, Degradation, Jpeg, RandomJpeg, as_degradations

RANDOM = "random"
SHIFT = (4, 4)  # columns, rows
MAX_SHIFT_PX = 15  # larger ones put the second coding on a grid that a smaller one gives, in colour too


def add_degradation_options(parser: argparse.ArgumentParser, *, qualities: Sequence[int] = (10, 20, 30, 40)) -> None:
    """Declare them. `qualities` are used if neither --quality nor --double is given."""
    lowest, highest = DRAWN_RANGE
    parser.set_defaults(default_qualities=qualities, drawn=None)
    parser.add_argument(
        "--quality",
        nargs="+",
        action=QualitiesOrRandom,
        metavar="Q",
        help="JPEG qualities within 1..100, ranges such as 10..45:5, and random: a quality drawn for each image from "
        f"{lowest}..{highest}, or from others as in random:5..99 (default: {' '.join(map(str, qualities))})",
    )
    parser.add_argument("--seed", type=seed, metavar="N", help="seed of --quality random (default: 0)")
    parser.add_argument(
        "--double",
        nargs=2,
        type=jpeg_quality,
        action="append",
        metavar=("Q1", "Q2"),
        help="JPEG twice: coded at Q1, cut off the 8x8 grid by --shift, coded at Q2; may be given several times",
    )
    parser.add_argument(
        "--shift",
        type=shift,
        metavar="DX,DY",
        help=f"columns and rows that --double cuts off the left and top (default: {SHIFT[0]},{SHIFT[1]})",
    )


def degradations(options: argparse.Namespace) -> list[Degradation]:
    """What the options ask for. Raises ValueError if one of them has nothing to act on."""
    if options.seed is not None and options.drawn is None:
        raise ValueError("--seed draws the qualities of --quality random, which was not given; leave it out")
    if options.shift is not None and not options.double:
        raise ValueError("--shift belongs to --double, which was not given; leave it out")
    columns, rows = options.shift or SHIFT
    twice = [Jpeg(tuple(pair), (rows, columns)) for pair in options.double or ()]
    once = ([] if twice else options.default_qualities) if options.quality is None else options.quality
    drawn = [RandomJpeg(*options.drawn, options.seed or 0)] if options.drawn else []
    return as_degradations([*once, *drawn, *twice])


class QualitiesOrRandom(ExpandQualities):
    """Reads what `ExpandQualities` does, and `random` or `random:LOW..HIGH` into "drawn"."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option_string: str | None = None,
    ) -> None:
        named = [value for value in values if value.partition(":")[0] != RANDOM]
        drawn = [value for value in values if value not in named]
        if len(drawn) > 1:
            parser.error(f"{option_string}: random is given twice; name one range")
        namespace.drawn = _drawn_range(parser, option_string, drawn[0]) if drawn else None
        setattr(namespace, self.dest, [])
        if named:
            super().__call__(parser, namespace, named, option_string)


def shift(text: str) -> tuple[int, int]:
    """Read columns and rows, `4,4`."""
    numbers = text.split(",")
    if len(numbers) != 2 or not all(
        number.isascii() and number.isdecimal() and int(number) <= MAX_SHIFT_PX for number in numbers
    ):
        raise argparse.ArgumentTypeError(f"must be DX,DY, two whole numbers from 0 to {MAX_SHIFT_PX}, got {text}")
    return int(numbers[0]), int(numbers[1])


def _drawn_range(parser: argparse.ArgumentParser, option: str | None, text: str) -> tuple[int, int]:
    _, colon, given = text.partition(":")
    if not colon:
        return DRAWN_RANGE
    try:
        qualities = expand_qualities([given], key=option)
    except ValueError:
        qualities = []
    if len(qualities) < 2 or qualities[-1] - qualities[0] != len(qualities) - 1:
        parser.error(f"{option}: '{text}' must be like random:5..99, with two qualities within 1..100")
    return qualities[0], qualities[-1]
