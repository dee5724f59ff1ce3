"""`benchmark`: the speed of the loader, of scoring and of the networks."""

import argparse

from commands.arguments import positive
from commands.outputs import check_outputs, report
from common.machine import choose_device, usable_cores
from evaluation.speed import loader, networks, ratios, scoring

COMPILE = {"auto": "auto", "on": True, "off": False}  # option -> value in `engine.compiling`
HELP = "speed and memory of loader, scoring, training step and inference, as ratios to a baseline in the same run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Measures speed as ratios to a baseline. The loader is compared with decoding a whole 2K PNG for each sample. "
        "Scoring JPEGs is compared with a plain loop that takes SSIM from scikit-image and PSNR-B column by column. "
        "Untrained luma networks are compared with the released architecture in eager float32 NCHW, and with a large "
        "matrix product."
    )
    parser.add_argument(
        "--json",
        default="runs/benchmark.json",
        metavar="FILE",
        help="write the results to this file (default: %(default)s)",
    )
    parser.add_argument("--markdown", metavar="FILE", help="write the table to this file")
    parser.add_argument("--batch", type=positive, metavar="N", help="images per step (default: 8 on CUDA, 1 on a CPU)")
    parser.add_argument(
        "--size", type=positive, metavar="PX", help="side of an image (default: 256 on CUDA, 128 on a CPU)"
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        default=3,
        metavar="N",
        help="how often networks are timed; the loader: 5 times as often (default: %(default)s)",
    )
    parser.add_argument(
        "--compile", choices=COMPILE, default="auto", help="torch.compile for our training step (auto: only on CUDA)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if any")


def run(options: argparse.Namespace) -> None:
    check_outputs(options)
    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    batch_size, size_px = options.batch or (8 if on_gpu else 1), options.size or (256 if on_gpu else 128)
    compile_step = COMPILE[options.compile]
    cases = networks.usual_cases(batch_size, size_px, device, compile_step=compile_step)
    rows = loader.loader_rows(5 * options.rounds)  # more, because a round takes less than a second
    rows.append(scoring.scoring_row(options.rounds, workers=usable_cores()))
    network_rows, settings = networks.network_rows(cases, options.rounds)
    shared = {"batch": batch_size, "size": size_px, "compile": options.compile}
    result = ratios.circumstances(device) | {"settings": shared | settings, "rows": rows + network_rows}
    report([ratios.section(result)], result, options)
