"""Use and measure restoration: scores on the benchmarks, the paper's tables, and photos restored.

`python test.py SUBCOMMAND --help` lists the options. A mistake in what was given ends with one line and exit status 2.
"""

import argparse
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import PIL
import skimage
import torch
from torch.utils.flop_counter import FlopCounterMode

from data.images import IMAGE_SUFFIXES
from data.loaders import data_root
from engine.distributed import choose_device
from engine.errors import user_errors
from engine.precision import autocast, choose_precision
from evaluation import protocols, tables
from evaluation.protocols import CHANNELS, ImageSet, Produce
from restoration.batch import make_folder, plan, restore_files
from restoration.published import SUFFIX, find_weights, load_restorer, published_names, store_half
from restoration.tiling import TILE_PX, check_tiles, restore_image

JPEG = "jpeg"  # the name under which nothing is restored: the JPEG itself is scored
RESTORE_WEIGHTS = "fast_tiny_gray"  # a luma network; the chroma of colour photos stays as it is


class System(NamedTuple):
    """What is measured: how its images come about, its name in the results, and what it is made of."""

    produce: Produce
    name: str
    provenance: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand. A further one is a function `add_<name>` here, which names what it runs as `run`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    parser = OneLineParser(prog="test.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subcommands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    for add in (add_evaluate, add_table, add_restore, add_describe, add_publish):
        add(subcommands)
    options = parser.parse_args(arguments)
    with user_errors("test.py"):
        options.run(options)


def add_evaluate(subcommands: argparse._SubParsersAction) -> None:
    """`evaluate`: a system's scores on sets of images."""
    parser = subcommands.add_parser("evaluate", help="PSNR, SSIM and PSNR-B of a network, of JPEG, or of given images")
    system = parser.add_mutually_exclusive_group(required=True)
    system.add_argument("--weights", help=f"weight file, name of published weights, or '{JPEG}' for the JPEG itself")
    system.add_argument("--restored", metavar="DIR", help="score DIR/<set>/<quality>/<image stem>.png instead")
    parser.add_argument(
        "--sets",
        nargs="+",
        required=True,
        metavar="SET",
        help=f"any of {', '.join(protocols.SET_FOLDERS)} (under --data-root), or a path to any folder of images",
    )
    parser.add_argument(
        "--quality", nargs="+", type=jpeg_quality, default=[10, 20, 30, 40], metavar="Q", help="1..100 (10 20 30 40)"
    )
    parser.add_argument("--channels", choices=CHANNELS, default="gray", help="luma or RGB (default: %(default)s)")
    add_common_options(parser)
    parser.set_defaults(run=run_evaluate)


def add_table(subcommands: argparse._SubParsersAction) -> None:
    """`table`: one of the paper's tables with measured rows below the printed ones."""
    parser = subcommands.add_parser("table", help="one of the paper's tables, measured rows below the printed ones")
    parser.add_argument("number", type=int, choices=range(1, 6), help="1 luma, 3 colour, 4 unseen qualities")
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="NAME",
        help=f"rows to measure, as in evaluate (default: {JPEG} and the published weights of these channels)",
    )
    add_common_options(parser)
    parser.set_defaults(run=run_table)


def add_restore(subcommands: argparse._SubParsersAction) -> None:
    """`restore`: photos, in files and folders."""
    parser = subcommands.add_parser("restore", help="photos in files and folders, restored and written as PNG")
    parser.add_argument(
        "inputs", nargs="+", type=path_name, metavar="IN", help="image file, or folder (with its sub-folders)"
    )
    parser.add_argument(
        "--output", required=True, type=path_name, metavar="DIR", help="folder to write to; names and sub-folders stay"
    )
    parser.add_argument(
        "--weights",
        default=RESTORE_WEIGHTS,
        metavar="NAME",
        help="published weights or a file (default: %(default)s); a luma network leaves the chroma as it is",
    )
    parser.add_argument(
        "--tile",
        type=positive,
        default=TILE_PX,
        metavar="PX",
        help="side of a tile (%(default)s); less saves memory",
    )
    add_device_options(parser, precision="auto")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist (inputs never are)")
    parser.set_defaults(run=run_restore)


def add_describe(subcommands: argparse._SubParsersAction) -> None:
    """`describe`: what a weight file holds and what it costs."""
    parser = subcommands.add_parser("describe", help="a network's kind, parameters and arithmetic at 256x256")
    parser.add_argument("--weights", required=True, metavar="NAME", help="name of published weights, or weight file")
    parser.set_defaults(run=run_describe)


def add_publish(subcommands: argparse._SubParsersAction) -> None:
    """`publish`: a trained network as a small file, fit for `weights/`."""
    parser = subcommands.add_parser("publish", help="store a trained network at half the size, as float16")
    parser.add_argument("--weights", required=True, metavar="FILE", help="restorer.safetensors of a stage 2 run")
    parser.add_argument("--output", required=True, metavar="FILE", help="such as weights/NAME.safetensors")
    parser.set_defaults(run=run_publish)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options of every subcommand that measures."""
    parser.add_argument("--data-root", default="", metavar="DIR", help="where the sets are (DATA_ROOT, else datasets)")
    parser.add_argument("--json", metavar="FILE", help="write the figures, image by image")
    parser.add_argument("--markdown", metavar="FILE", help="write the table")
    add_device_options(parser)
    parser.add_argument(
        "--workers", type=positive, default=os.cpu_count() or 1, metavar="N", help="scoring threads (%(default)s)"
    )


def add_device_options(parser: argparse.ArgumentParser, *, precision: str = "float32") -> None:
    """Options of every subcommand that runs a network, and which precision it runs in unless told."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if any")
    choices = ("auto", "float32", "bfloat16") if precision == "auto" else ("float32", "bfloat16")
    parser.add_argument("--precision", choices=choices, default=precision, help="default: %(default)s")


def run_evaluate(options: argparse.Namespace) -> None:
    check_outputs(options)
    sets = protocols.open_sets(options.sets, data_root(options.data_root))
    protocols.check_images(sets, options.channels)
    if options.restored is not None:
        produce = protocols.restored_in(options.restored, sets, options.quality)
        system = System(produce, Path(os.path.abspath(options.restored)).name, versions())
    else:
        system = build_system(options.weights, options.channels, options)
    result = measure(system, sets, options.quality, options.channels, options)
    report([tables.summarize(result)], result, options)


def run_table(options: argparse.Namespace) -> None:
    if options.number not in tables.BUILT_TABLES:
        built = ", ".join(map(str, tables.BUILT_TABLES))
        raise ValueError(f"Table {options.number} is not built yet; tables {built} are")
    check_outputs(options)
    channels = tables.paper_table(options.number)["channels"]
    names, qualities = tables.sets_and_qualities(options.number)
    root = data_root(options.data_root)
    sets = protocols.open_sets(protocols.present_sets(names, root), root)
    protocols.check_images(sets, channels)
    chosen = options.weights or [JPEG, *published_for(channels)]
    systems = [build_system(weights, channels, options) for weights in dict.fromkeys(chosen)]
    results = [measure(system, sets, qualities, channels, options) for system in systems]
    sections = tables.compare(options.number, results)
    report(sections, {"table": options.number, "measured": results}, options)
    for name in names:
        if all(name != image_set.name for image_set in sets):
            print(f"{name}: not under {root}, left out")
    for result in results:
        if result["method"] == JPEG:
            num_compared, differences = tables.check_jpeg(result, options.number)
            num_equal = num_compared - len(differences)
            print(f"JPEG: {num_equal} of {num_compared} figures equal to the printed digit", *differences, sep="\n")


def run_restore(options: argparse.Namespace) -> None:
    check_tiles(options.tile)
    jobs = plan(options.inputs, options.output, overwrite=options.overwrite)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    restorer = load_restorer(options.weights).to(device, memory_format=torch.channels_last)
    make_folder(options.output)
    with autocast(device, precision):
        failures = restore_files(restorer, jobs, tile_px=options.tile)
    if failures:
        raise ValueError(f"{len(failures)} of {len(jobs)} photos not restored: {'; '.join(failures)}")


def run_describe(options: argparse.Namespace) -> None:
    restorer = load_restorer(options.weights)
    num_parameters = sum(parameter.numel() for parameter in restorer.parameters())
    num_frozen = sum(parameter.numel() for parameter in restorer.encoder.parameters())
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        restorer(torch.zeros(1, restorer.channels, 256, 256))
    gmac = counter.get_total_flops() / 2e9  # two operations to a multiply-accumulate
    print(f"{type(restorer).__name__}, {restorer.channels} channel(s)")
    print(f"{num_parameters / 1e6:.2f} M parameters, {num_frozen / 1e6:.2f} M of them the encoder's")
    print(f"{gmac:.2f} GMAC at 256x256")


def run_publish(options: argparse.Namespace) -> None:
    tables.check_writable(options.output)
    store_half(options.weights, options.output)
    print(f"{options.output}: {Path(options.output).stat().st_size / 1e6:.1f} MB, sha256 {sha256(options.output)}")


def measure(
    system: System, sets: Sequence[ImageSet], qualities: Sequence[int], channels: str, options: argparse.Namespace
) -> dict:
    """`protocols.evaluate`, and what the figures came from."""
    result = protocols.evaluate(system.produce, sets, qualities, channels, method=system.name, workers=options.workers)
    return result | {"provenance": system.provenance}


def build_system(weights: str, channels: str, options: argparse.Namespace) -> System:
    """The system that `--weights` names.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if they cannot be used, or not for these channels.
    """
    if weights == JPEG:
        return System(protocols.restored_by(lambda image: image), JPEG, versions())
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    torch.backends.cudnn.allow_tf32 = False  # float32 figures are float32's, on any GPU
    restorer = load_restorer(weights, channels=CHANNELS[channels]).to(device, memory_format=torch.channels_last)

    def restore(image: np.ndarray) -> np.ndarray:
        with autocast(device, precision):
            return restore_image(restorer, image)

    file = find_weights(weights)
    provenance = {
        "weights": file.name,
        "weights_sha256": sha256(file),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": options.precision,
    }
    return System(protocols.restored_by(restore), file.stem, provenance | versions())


def published_for(channels: str) -> list[str]:
    """The published restoration networks for "gray" or "color" images."""
    return [name for name in published_names() if load_restorer(name).channels == CHANNELS[channels]]


def sha256(path: str | Path) -> str:
    """The digest by which a weight file is known in its model card and in results."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """The libraries whose versions can move a figure: the codec, the metrics, the network."""
    return {"pillow": PIL.__version__, "scikit_image": skimage.__version__, "torch": torch.__version__}


def check_outputs(options: argparse.Namespace) -> None:
    """Refuse outputs that could not be written, or would replace a picture or weights, before anything is computed."""
    outputs = [path for path in (options.json, options.markdown) if path]
    if len(outputs) == 2 and Path(outputs[0]).absolute() == Path(outputs[1]).absolute():
        raise ValueError(f"--json and --markdown are both {outputs[0]}; name two files")
    for path in outputs:
        if Path(path).suffix.lower() in (*IMAGE_SUFFIXES, SUFFIX, ".pth", ".pt"):
            raise ValueError(f"{path} is named like a picture or weights; name a file for figures, such as out.json")
        tables.check_writable(path)


def report(sections: Sequence[tables.Section], content: dict, options: argparse.Namespace) -> None:
    """Print the tables; write the files asked for."""
    print("\n\n".join(map(tables.as_text, sections)), flush=True)
    if options.markdown:
        tables.write_text(options.markdown, "\n".join(map(tables.as_markdown, sections)))
    if options.json:
        tables.write_text(options.json, tables.as_json(content))


def jpeg_quality(text: str) -> int:
    """A JPEG quality of the command line."""
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 100, got {text}")
    return int(text)


def path_name(text: str) -> str:
    """A path of the command line. An empty one, of an unset shell variable say, would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return text


def positive(text: str) -> int:
    """A count of the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr, without the usage text, and exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


if __name__ == "__main__":
    main()
