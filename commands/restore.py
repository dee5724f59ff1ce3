"""`restore`: restores photos, in files and folders."""

import argparse
import sys

import torch

from commands.arguments import add_device_options, path_name, positive
from common.machine import autocast, choose_device, choose_precision
from restoration.folders import PhotoRestorer, make_folder, plan, restore_files
from restoration.tiling import TILE_PX, check_tiles
from restoration.weights import open_weights, published_names

# If the colour network's file is missing, the gray network restores the luma of colour photos.
RESTORE_WEIGHTS = {"gray": "fast_tiny_gray", "color": "fast_tiny_color"}
ADD_PROBE = "add one: test.py probe --weights FILE --output NEW_FILE"
HELP = "restore photos in files and folders, and write them as PNG"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Restore photos. Prints `PHOTO: JPEG quality about Q +- S` for each. The encoder reads Q from the pixels; S is "
        "one standard error; near 100 there is no trace of JPEG. Where no progress bar is shown, it also prints "
        "`PHOTO -> OUTPUT  WIDTHxHEIGHT  SECONDS  WHAT`."
    )
    parser.add_argument(
        "inputs", nargs="+", type=path_name, metavar="IN", help="image file, or folder (with its sub-folders)"
    )
    parser.add_argument(
        "--output",
        required=True,
        type=path_name,
        metavar="DIR",
        help="folder to write to; names and sub-folders are kept",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME",
        help=f"published weights or a file, for all photos (default: {RESTORE_WEIGHTS['color']} for colour photos, if "
        f"it is there, {RESTORE_WEIGHTS['gray']} for all others); a luma network leaves the chroma as it is",
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
    gray, color = [options.weights] * 2 if options.weights else default_weights()
    opened = {name: open_restoring(name, device) for name in dict.fromkeys((gray, color))}
    make_folder(options.output)
    for name, restoring in opened.items():
        if restoring.read_quality is None:
            lacking = f"no quality probe: qualities are not read ({ADD_PROBE})"
            if restoring.restorer.encoder is None:
                lacking = "no encoder: qualities are not read"
            print(f"{name} holds {lacking}", file=sys.stderr)
    with autocast(device, precision):
        failures = restore_files(opened[gray], opened[color], jobs, tile_px=options.tile)
    if failures:
        raise ValueError(f"{len(failures)} of {len(jobs)} photos not restored: {'; '.join(failures)}")


def default_weights() -> tuple[str, str]:
    """Names of the default weights for gray photos and for colour photos."""
    gray, color = RESTORE_WEIGHTS["gray"], RESTORE_WEIGHTS["color"]
    return gray, color if color in published_names() else gray


def open_restoring(weights: str, device: torch.device) -> PhotoRestorer:
    """A network on the device, with a reader of qualities if its file has a probe."""
    opened = open_weights(weights, needs="network")
    restorer = opened.network.to(device, memory_format=torch.channels_last)  # this moves the encoder of the reader too
    reader = opened.reader()
    return PhotoRestorer(restorer, reader.read if reader else None)
