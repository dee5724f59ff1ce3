"""`probe`: fits the probe by which an encoder reads JPEG qualities."""

import argparse
from pathlib import Path

from commands.arguments import seed
from common.files import check_writable
from common.machine import choose_device
from cqe.fitting import fit_probe, read_coded
from cqe.weights import copy_with_probe
from data.config import data_root
from data.images import list_images, read_rgb
from data.splits import refuse_other_split
from engine.weight_files import SUFFIX, read_weight_file
from restoration.weights import find_weights, recognise

FIT_IMAGES = "bsds500/train"  # under the data root; quality probes are fitted on these, unless told otherwise
HELP = "give an encoder or a network a probe that reads JPEG qualities; writes a new weight file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--weights", required=True, metavar="NAME", help="name of published weights, or weight file")
    parser.add_argument("--output", required=True, metavar="FILE", help="the same weights with the probe; .safetensors")
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="DIR",
        help=f"photos with hardly any compression, from no benchmark (default: {FIT_IMAGES} under --data-root)",
    )
    parser.add_argument(
        "--data-root", default="", metavar="DIR", help="folder of the sets (default: DATA_ROOT, or datasets)"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of qualities and crop places (default: %(default)s)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if any")


def run(options: argparse.Namespace) -> None:
    source = read_weight_file(find_weights(options.weights))
    if Path(options.output).suffix != SUFFIX:
        raise ValueError(f"a probe is kept in {SUFFIX} files, but --output is {options.output}")
    check_writable(options.output)
    if Path(options.output).exists() and Path(options.output).samefile(source.path):
        raise ValueError(f"--output {options.output} is the file of --weights; name a new one")
    weights = recognise(source, needs="encoder")
    if source.description is None:
        raise ValueError(f"{source.path} is {weights.kind}; a probe is kept in files that this project wrote")
    folders = options.images or [data_root(options.data_root) / FIT_IMAGES]
    photos = [path for folder in folders for path in list_images(folder)]
    refuse_other_split(photos, "train")
    encoder = weights.encoder.to(choose_device(options.device))
    coded = read_coded(encoder, map(read_rgb, photos), num_images=len(photos), seed=options.seed)
    fit = fit_probe(*coded)
    copy_with_probe(source, options.output, fit.probe)
    errors = (fit.held_out - coded[1]).abs()
    print(
        f"{options.output}: probe fitted to {len(errors)} crops of {len(photos)} photos; error of one crop of a photo "
        f"that was held out: {errors.mean():.2f} on average, {errors.square().mean().sqrt():.2f} root mean square"
    )
