"""`publish`: stores a trained network as a small file for `weights/`."""

import argparse
from pathlib import Path

from common.files import check_writable, sha256
from restoration.weights import find_weights, store_half

HELP = "store a trained network at half the size, as float16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--weights", required=True, metavar="FILE", help="restorer.safetensors of a stage 2 run")
    parser.add_argument("--output", required=True, metavar="FILE", help="such as weights/NAME.safetensors")


def run(options: argparse.Namespace) -> None:
    """Write the file and print its size and checksum."""
    check_writable(options.output)
    if Path(options.output).exists() and Path(options.output).samefile(find_weights(options.weights)):
        raise ValueError(f"--output {options.output} is the file of --weights; name a new one")
    store_half(options.weights, options.output)
    print(f"{options.output}: {Path(options.output).stat().st_size / 1e6:.1f} MB, sha256 {sha256(options.output)}")
