"""The systems that can be measured: a network of ours or of others, the JPEG itself, a folder of restored images."""

import argparse
import hashlib
import os
import re
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from common.machine import autocast, choose_device, choose_precision, device_name, versions
from evaluation.scores import protocol
from evaluation.scores.cache import cached, files_digest
from evaluation.scores.degradations import Case, Degradation, as_degradations
from evaluation.scores.image_sets import COLOR_MODES, ImageSet
from evaluation.scores.protocol import OutputSource
from restoration.tiling import restore_image
from restoration.weights import Weights, open_weights, published_restorers

JPEG = "jpeg"  # the system that restores nothing: the JPEG itself is scored
QUALITY = "{quality}"  # in a name of weights: the system has a file for each JPEG quality


class System(NamedTuple):
    """A system to measure.

    Attributes:
        produce: the function that makes its images.
        name: in the results.
        provenance: of its scores.
        qualities: the JPEG qualities that it restores; None: all.
        sets: names of the sets that it has images of; None: all.
    """

    produce: OutputSource
    name: str
    provenance: dict[str, str]
    qualities: frozenset[int] | None = None
    sets: frozenset[str] | None = None


def refuse_equal_names(systems: Sequence[System]) -> None:
    """Raises ValueError if two systems have one name: their rows could not be told apart."""
    names = [system.name for system in systems]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(
            f"two systems are called '{repeated}'; rename a file, or give --restored NAME=DIR another NAME"
        )


class Network(NamedTuple):
    """A restoration network on its device, the function that runs it, its name in the results, its provenance."""

    restorer: torch.nn.Module
    restore: Callable[..., np.ndarray]  # (network, image, guide=second image if the network takes one) -> image
    name: str
    provenance: dict[str, str]


def build_system(weights: str, color_mode: str, options: argparse.Namespace) -> System:
    """The system that `--weights` names.

    Args:
        weights: `JPEG`, a published name, or a file; with `QUALITY` in its name, files for several JPEG qualities.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if the file cannot be used, or is for the other color mode.
    """
    if weights == JPEG:
        return System(protocol.JpegSource(), JPEG, versions())
    if QUALITY in Path(weights).name:
        return _system_by_quality(Path(weights), color_mode, options)
    network = open_network(weights, color_mode, options)
    produce = protocol.restored_by(lambda image: network.restore(network.restorer, image))
    return System(produce, network.name, network.provenance)


def restored_system(
    given: str, sets: Sequence[ImageSet], qualities: Sequence[int | Degradation], *, may_lack_sets: bool = False
) -> System:
    """The system whose images are in a folder, `DIR/<set>/<quality>/<image stem>.png`.

    Args:
        given: "NAME=DIR"; or "DIR", which names the system after the folder.
        may_lack_sets: whether sets without a folder of their own are left out, as long as one set has a folder.

    Raises:
        FileNotFoundError: if the folder or an image is missing.
        ValueError: if the name or the folder is empty.
    """
    name, equals, folder = given.partition("=")
    if not equals or Path(given).is_dir():
        name, folder = Path(os.path.abspath(given)).name, given
    if not name or not folder:
        raise ValueError(f"--restored takes DIR or NAME=DIR, got {given!r}")
    if may_lack_sets:
        sets = [one for one in sets if (Path(folder) / one.name).is_dir()] or sets
    produce = protocol.restored_in(folder, sets, qualities)
    jobs = protocol.jobs_of(sets, as_degradations(qualities))
    digest = files_digest(produce.path(case) for job in jobs for case in job.cases)
    made = {"restored_sha256": digest} | versions()
    return System(produce, name, made, sets=frozenset(one.name for one in sets))


def open_network(weights: str, color_mode: str, options: argparse.Namespace) -> Network:
    """The network that `--weights` names, with the device and precision of the options. Errors as `build_system`."""
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    torch.backends.cudnn.allow_tf32 = False  # compute in true float32 on every GPU
    opened = open_weights(weights, needs="network")
    if opened.network.channels != COLOR_MODES[color_mode]:
        raise ValueError(
            f"{opened.path} restores {_IMAGES[opened.network.channels]} images, but "
            f"{_IMAGES[COLOR_MODES[color_mode]]} ones were asked for; change --channels or --weights"
        )
    restorer = opened.network.to(device, memory_format=torch.channels_last)

    def restore(network: torch.nn.Module, image: np.ndarray, guide: np.ndarray | None = None) -> np.ndarray:
        with autocast(device, precision):
            return restore_image(network, image, guide=guide)

    return Network(restorer, restore, opened.name, origin(opened, device, options))


def published_for(color_mode: str) -> list[str]:
    """The published restoration networks for "gray" or "color" images."""
    return published_restorers(COLOR_MODES[color_mode])


def check_qualities(system: System, asked: Set[int]) -> None:
    """Raise ValueError if the system does not restore one of these JPEG qualities."""
    if system.qualities is not None and (lacking := sorted(asked - system.qualities)):
        have = ", ".join(map(str, sorted(system.qualities)))
        raise ValueError(f"{system.name} has weights for quality {have}, but not for {lacking[0]}; choose by --quality")


def measure(
    system: System,
    sets: Sequence[ImageSet],
    qualities: Sequence[int | Degradation],
    color_mode: str,
    options: argparse.Namespace,
) -> dict:
    """The result of `protocol.evaluate`, with the system's provenance.

    Raises:
        ValueError: if the system does not restore one of the qualities; and as `protocol.evaluate`.
    """
    check_qualities(
        system, {case.quality for job in protocol.jobs_of(sets, as_degradations(qualities)) for case in job.cases}
    )
    result = protocol.evaluate(system.produce, sets, qualities, color_mode, method=system.name, workers=options.workers)
    return result | {"provenance": system.provenance}


def measure_once(
    system: System, sets: Sequence[ImageSet], qualities: Sequence[int], color_mode: str, options: argparse.Namespace
) -> dict:
    """As `measure`, but scores that are in the folder `options.cache` are not measured again."""
    head = {"method": system.name, "channels": color_mode, "protocol": protocol.describe(color_mode)}

    def score(one: ImageSet, lacking: Sequence[int]) -> dict:
        return measure(system, [one], lacking, color_mode, options)["results"][one.name]

    results = cached(options.cache, head | system.provenance, sets, qualities, score)
    return head | {"results": results, "provenance": system.provenance}


def origin(weights: Weights, device: torch.device, options: argparse.Namespace) -> dict[str, str]:
    """The provenance of a network's scores: weights, the system if it is another's, device, precision and versions."""
    of_others = weights.network is not None and weights.network.as_published
    network = {
        "weights": weights.path.name,
        "weights_sha256": weights.sha256,
        **({"system": weights.network.title} if of_others else {}),
        "device": device_name(device),
        "precision": "float32" if of_others else options.precision,
    }
    return network | versions()


def _system_by_quality(pattern: Path, color_mode: str, options: argparse.Namespace) -> System:
    """The system whose network for JPEG quality 10 is in the file of this name with 10 in place of `QUALITY`."""
    before, _, after = pattern.name.partition(QUALITY)
    wanted = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")
    names = sorted(path.name for path in pattern.parent.iterdir()) if pattern.parent.is_dir() else []
    found = {int(match[1]): match[0] for match in map(wanted.fullmatch, names) if match}
    if not found:
        raise FileNotFoundError(f"no weights {pattern} for any quality; {QUALITY} stands for a number")
    networks = {q: open_network(str(pattern.with_name(name)), color_mode, options) for q, name in found.items()}

    def produce(clean: np.ndarray, case: Case) -> np.ndarray:
        network = networks[case.quality]
        return protocol.restored_by(lambda image: network.restore(network.restorer, image))(clean, case)

    origins = [networks[quality].provenance for quality in sorted(networks)]
    digest = hashlib.sha256("".join(one["weights_sha256"] for one in origins).encode()).hexdigest()
    name = re.sub(r"[_-]?q?$", "", before, flags=re.IGNORECASE) or next(iter(networks.values())).restorer.title
    provenance = origins[0] | {"weights": pattern.name, "weights_sha256": digest}
    return System(produce, name, provenance, frozenset(networks))


_IMAGES = {1: "luma (1-channel)", 3: "colour (3-channel)"}
