"""`restore`: restores photos, in files and folders."""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch

from commands.arguments import add_device_options, positive
from common.machine import autocast, choose_device, choose_precision
from restoration.folders import Chooser, PhotoRestorer, make_folder, plan, restore_files
from restoration.photos import Photo, has_color
from restoration.tiling import TILE_PX, check_tiles
from restoration.weights import open_weights, published_names


class Candidate(NamedTuple):
    """Published weights that `restore` chooses by itself.

    Attributes:
        name: of the weights.
        max_megapixels: size of the largest photo for which they are chosen on a CPU. A GPU takes the first for all.
    """

    name: str
    max_megapixels: float = math.inf


# The best first. Files that are missing are passed over. Without a colour network, luma networks restore colour photos.
GRAY = (Candidate("fast_small_gray", 8), Candidate("fast_tiny_gray"))
COLOR = (Candidate("fast_small_color", 8), Candidate("fast_tiny_color"))
ADD_PROBE = "add one: test.py probe --weights FILE --output NEW_FILE"
HELP = "restore photos in files and folders, and write them as PNG"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Restore photos. Prints `PHOTO: JPEG quality about Q +- S` for each. The encoder reads Q from the pixels; S is "
        "one standard error; near 100 there is no trace of JPEG. Where no progress bar is shown, it also prints "
        "`PHOTO -> OUTPUT  WIDTHxHEIGHT  SECONDS  WHAT`; without --weights, WHAT names the network."
    )
    parser.add_argument("inputs", nargs="+", metavar="IN", help="image file, or folder (with its sub-folders)")
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="folder to write to; names and sub-folders are kept",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME",
        help="published weights or a file, for all photos; a luma network leaves the chroma as it is (default: the "
        f"best for the kind and the size of each photo, of {', '.join(one.name for one in (*COLOR, *GRAY))})",
    )
    parser.add_argument(
        "--tile",
        type=positive,
        default=TILE_PX,
        metavar="PX",
        help="side of a tile (default: %(default)s); smaller tiles need less memory",
    )
    add_device_options(parser, precision="auto")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace outputs that exist; inputs are never replaced"
    )


def run(options: argparse.Namespace) -> None:
    check_tiles(options.tile)
    try:
        jobs = plan(options.inputs, options.output, overwrite=options.overwrite)
    except FileExistsError as error:
        raise FileExistsError(f"{error} (--overwrite allows it)") from None
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    choose, opened = choose_always(options.weights, device) if options.weights else choose_by_photo(device)
    make_folder(options.output)
    for name, restoring in opened.items():
        if restoring.read_quality is None:
            lacking = f"no quality probe: qualities are not read ({ADD_PROBE})"
            if restoring.restorer.encoder is None:
                lacking = "no encoder: qualities are not read"
            print(f"{name} holds {lacking}", file=sys.stderr)
    with autocast(device, precision):
        failures = restore_files(choose, jobs, tile_px=options.tile)
    if failures:
        raise ValueError(f"{len(failures)} of {len(jobs)} photos not restored: {'; '.join(failures)}")


def choose_always(weights: str, device: torch.device) -> tuple[Chooser, dict[str, PhotoRestorer]]:
    """One network for all photos."""
    restoring = open_restoring(weights, device)
    return lambda photo: restoring, {weights: restoring}


def choose_by_photo(device: torch.device) -> tuple[Chooser, dict[str, PhotoRestorer]]:
    """For each photo the best of the shipped networks for its kind and size."""
    published = published_names()
    gray, color = ([one for one in kind if one.name in published] for kind in (GRAY, COLOR))
    if not gray:
        raise FileNotFoundError(f"weights/ holds no {' or '.join(one.name for one in GRAY)}; give --weights")
    if device.type != "cpu":
        gray, color = gray[:1], color[:1]
    opened = {one.name: open_restoring(one.name, device)._replace(name=one.name) for one in (*gray, *color)}

    def choose(photo: Photo) -> PhotoRestorer:
        candidates = color if color and has_color(photo) else gray
        return opened[best_of(candidates, photo.pixels.shape[:2]).name]

    return choose, opened


def best_of(candidates: Sequence[Candidate], shape: tuple[int, int]) -> Candidate:
    """The first candidate for a photo of shape (H, W); if the photo is too large for all, the last one."""
    megapixels = math.prod(shape) / 1e6
    return next((one for one in candidates if megapixels <= one.max_megapixels), candidates[-1])


def open_restoring(weights: str, device: torch.device) -> PhotoRestorer:
    """A network on the device, with a reader of qualities if its file has a probe."""
    opened = open_weights(weights, needs="network")
    restorer = opened.network.to(device, memory_format=torch.channels_last)  # this moves the encoder of the reader too
    reader = opened.reader()
    return PhotoRestorer(restorer, reader.read if reader else None)
