"""LPIPS and FID on the command line: where their networks are, and what is left out where there are none."""

import argparse
import sys

from common.machine import choose_device
from evaluation.scores import perceptual
from evaluation.scores.perceptual import Perceptual


def add_perceptual_options(parser: argparse.ArgumentParser) -> None:
    """Options of Table 2."""
    parser.add_argument(
        "--lpips-backbone",
        metavar="FILE",
        help="Table 2: torchvision's AlexNet, .pth or .safetensors (default: where torchvision keeps it)",
    )
    parser.add_argument(
        "--inception",
        metavar="FILE",
        help="Table 2: torch-fidelity's Inception-v3, .pth (default: where torch-fidelity keeps it)",
    )


def open_perceptual(options: argparse.Namespace) -> tuple[Perceptual, list[str]]:
    """The metrics that can be measured, and a note on the one that cannot; stderr says why.

    Raises:
        FileNotFoundError: if a file that was named is missing, or if neither network is there.
        ValueError: if a file that was named is not that network's.
    """
    device = choose_device(options.device)
    opened, digests, reasons, notes = {}, {}, [], []
    for name, given, open_network, note in (
        ("lpips", options.lpips_backbone, perceptual.open_lpips, "LPIPS: not measured, AlexNet was not at hand"),
        ("fid", options.inception, perceptual.open_inception, "FID: not measured, Inception-v3 was not at hand"),
    ):
        try:
            opened[name], digests[name] = open_network(given, device)
        except FileNotFoundError as error:
            if given is not None:
                raise
            reasons.append(str(error))
            notes.append(note)  # without the reason: that is this machine's, and the note goes into results
    if not opened:
        raise FileNotFoundError("; ".join(reasons))
    for reason in reasons:
        print(reason, file=sys.stderr)
    return Perceptual(opened.get("lpips"), opened.get("fid"), digests), notes
