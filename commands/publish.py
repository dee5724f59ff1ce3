"""`publish`: stores a trained network as a small file for `weights/`."""

import argparse
from pathlib import Path

from common.files import check_writable, sha256
from restoration.weights import store_half

HELP = "store a trained network at half the size, as float16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--weights", required=True, metavar="FILE", help="restorer.safetensors of a stage 2 run")
    parser.add_argument("--output", required=True, metavar="FILE", help="such as weights/NAME.safetensors")


def run(options: argparse.Namespace) -> None:
    check_writable(options.output)
    store_half(options.weights, options.output)
    print(f"{options.output}: {Path(options.output).stat().st_size / 1e6:.1f} MB, sha256 {sha256(options.output)}")
