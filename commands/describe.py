"""`describe`: the network in a weight file: its kind, size, arithmetic and speed."""

import argparse

import torch

from commands.arguments import add_device_options, speed_size
from common.machine import autocast, choose_device, choose_precision, device_name
from evaluation.speed.arithmetic import count_gmac
from evaluation.speed.throughput import megapixels_per_second
from restoration.fineness import fineness_of
from restoration.weights import load_restorer

HELP = "a network's kind, parameters, arithmetic at 256x256, and speed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--weights", required=True, metavar="NAME", help="name of published weights, or weight file")
    parser.add_argument("--speed", action="store_true", help="measure the speed as well; this takes some seconds")
    parser.add_argument(
        "--size",
        type=speed_size,
        default=512,
        metavar="PX",
        help="side of the image for --speed (default: %(default)s)",
    )
    add_device_options(parser)


def run(options: argparse.Namespace) -> None:
    restorer = load_restorer(options.weights)
    num_parameters = sum(parameter.numel() for parameter in restorer.parameters())
    encoder = "no encoder"
    if restorer.encoder is not None:
        num_frozen = sum(parameter.numel() for parameter in restorer.encoder.parameters())
        encoder = f"{num_frozen / 1e6:.2f} M of them the encoder's"
    print(f"{restorer.title}, {restorer.channels} channel(s)")
    print(f"{num_parameters / 1e6:.2f} M parameters, {encoder}")
    print(f"{count_gmac(restorer):.2f} GMAC at 256x256")
    print(fineness_of(restorer).limits)
    if options.speed:
        print(measured_speed(restorer, options))


def measured_speed(restorer: torch.nn.Module, options: argparse.Namespace) -> str:
    """The line that gives a network's speed, with device, precision and image size."""
    device = choose_device(options.device)
    name = "float32" if restorer.as_published else options.precision
    precision = choose_precision(name, device)
    torch.backends.cudnn.allow_tf32 = False  # time true float32 on every GPU
    restorer = restorer.to(device, memory_format=torch.channels_last)
    image = torch.rand(1, restorer.channels, options.size, options.size, device=device)
    with autocast(device, precision):
        speed = megapixels_per_second(restorer, image)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    where = f"{device_name(device)}{threads}, {name}, {options.size}x{options.size}"
    return f"{speed:.3g} megapixels/s ({where})"
