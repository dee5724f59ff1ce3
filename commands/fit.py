"""`fit`: what fits a training of stage 2 to this machine, written as a config to lay over its own."""

import argparse
import re
import shlex
from pathlib import Path

import torch
import yaml

from common.files import check_writable, write_text
from common.machine import choose_device, hardware
from data.config import data_root
from data.patches import RestorationPatches, open_training_stores
from engine.config import parse_config
from evaluation.speed.fitting import Fitting, steps_between_validations
from restoration.config import RestorerConfig
from restoration.networks import build_restorer
from restoration.networks.restorer import Restorer
from restoration.start import open_start

HELP = "check this machine, and choose batch, patch, workers and settings for a training of stage 2"
DEFAULT_MINUTES = 25.0
SPEED = "# {speed} steps a second, for {minutes:g} minutes\n"  # in the heading of the file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Packs the training images. Compares the gradients of the compiled, bfloat16 and channels-last step with those "
        "of the eager float32 one; what differs or fails is left out. Then tries batch sizes until memory or speed "
        "stops growing. Writes what was found as a config, to be given behind the training's own. Keeps the file if "
        "it is already there, because a run must go on with the sizes it began with; only the steps between "
        "validations follow other minutes."
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the config to write, such as fitted.yaml")
    parser.add_argument(
        "training", nargs="+", metavar="OPTION", help="behind `--`: the options of train_restorer.py, --config and all"
    )


def run(options: argparse.Namespace) -> None:
    """Write the file."""
    config = parse_config(RestorerConfig, options.training)
    if Path(options.output).is_file():
        _keep(Path(options.output), config)
        return
    check_writable(options.output)
    device = choose_device(config.trainer.device)
    torch.manual_seed(config.trainer.seed)
    network = untrained(config)
    print("machine: " + ", ".join(f"{name} {value}" for name, value in hardware(device).items()), flush=True)
    stores = open_training_stores(config.data, data_root(config.data.root))
    dataset = RestorationPatches(stores, config.data, config.histories, seed=config.trainer.seed)
    found = Fitting(network, config, device, lambda line: print(line, flush=True)).run(dataset)
    minutes = config.trainer.max_minutes or DEFAULT_MINUTES
    heading = f"# Made by: test.py fit -- {shlex.join(options.training)}\n"
    heading += SPEED.format(speed=found.steps_per_second, minutes=minutes)
    write_text(options.output, heading + yaml.safe_dump(found.overlay(minutes), sort_keys=False))
    print(f"written: {options.output}")


def _keep(path: Path, config: RestorerConfig) -> None:
    """Leave the sizes as they are, and fit the time between validations to the minutes that are given now."""
    text = path.read_text(encoding="utf-8")
    found = re.search(r"^# (\S+) steps a second, for (\S+) minutes\n", text, flags=re.MULTILINE)
    minutes = config.trainer.max_minutes or DEFAULT_MINUTES
    if found and float(found[2]) != minutes:
        speed = float(found[1])
        every = steps_between_validations(60 * minutes * speed)
        text = text.replace(found[0], SPEED.format(speed=speed, minutes=minutes))
        write_text(path, re.sub(r"(?m)^(  validate_every_steps: ).*$", rf"\g<1>{every}", text))
        print(f"{path}: one validation every {every} steps, for {minutes:g} minutes")
    print(f"{path} is kept; remove it to choose again")


def untrained(config: RestorerConfig) -> Restorer:
    """The configured network as it is before training, but for weights to start from. Errors as `open_start`."""
    restorer = build_restorer(config.network, open_start(config, None).encoder, config.data.channels)
    if config.train_encoder:
        restorer.train_encoder()
    return restorer
