"""Use and measure restoration: scores on the benchmarks, the paper's tables, and photos restored.

`python test.py SUBCOMMAND --help` lists the options. A mistake in what was given ends with one line and exit status 2.
"""

import argparse
import hashlib
import io
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import PIL
import skimage
import torch
from torch.utils.flop_counter import FlopCounterMode

from cqe.encoder import QualityEncoder
from cqe.fitting import fit_probe, read_coded
from cqe.published import copy_with_probe, encoder_architecture
from cqe.quality import raw_rows
from data.datasets import expand_qualities
from data.images import IMAGE_SUFFIXES, list_images, read_rgb
from data.loaders import data_root
from data.splits import refuse_other_split
from engine.distributed import choose_device
from engine.errors import user_errors
from engine.precision import autocast, choose_precision
from evaluation import guidance, protocols, study, tables
from evaluation.conditions import CONDITIONS, Drawing, between
from evaluation.protocols import CHANNELS, ImageSet, Produce
from evaluation.speed import megapixels_per_second
from evaluation.study import KINDS
from restoration.batch import Restoring, make_folder, plan, restore_files
from restoration.published import (
    SUFFIX,
    find_weights,
    load_quality_encoder,
    load_reader,
    load_restorer,
    published_names,
    store_half,
)
from restoration.tiling import TILE_PX, check_tiles, restore_image

JPEG = "jpeg"  # the name under which nothing is restored: the JPEG itself is scored
PROBE_IMAGES = "bsds500/val"  # under the data root: for choosing, never for reporting
MAX_SCALE = 4
MAX_SPEED_PX = 4096  # side of the image on which `describe` measures speed; larger ones may not fit into memory
PROTOTYPE_IMAGES = 24  # the first of them, whose mean representations stand for the qualities in Fig. 5
FIT_IMAGES = "bsds500/train"  # under the data root: what quality probes that are kept in weight files are fitted to
COMPILE = {"auto": "auto", "on": True, "off": False}  # as `engine.compiling` names the choices
ADD_PROBE = "add one: test.py probe --weights FILE --output NEW_FILE"
# What `restore` uses. Without the colour network's file, the gray one restores the luma of colour photos.
RESTORE_WEIGHTS = {"gray": "fast_tiny_gray", "color": "fast_tiny_color"}


class System(NamedTuple):
    """What is measured: how its images come about, its name in the results, and what it is made of."""

    produce: Produce
    name: str
    provenance: dict[str, str]


class Network(NamedTuple):
    """A restoration network ready to run, how networks run on an image here, its name in the results and its origin."""

    restorer: torch.nn.Module
    restore: Callable[..., np.ndarray]  # (network, image, and a guide where the network takes one) -> image
    name: str
    provenance: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand. A further one is a function `add_<name>` here, which names what it runs as `run`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name need not be text, or text of the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    parser = OneLineParser(prog="test.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subcommands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    measuring = (add_evaluate, add_table, add_represent, add_guidance, add_figure)
    for add in (*measuring, add_restore, add_probe, add_describe, add_benchmark, add_publish):
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
    add_set_options(parser)
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


def add_represent(subcommands: argparse._SubParsersAction) -> None:
    """`represent`: how well an encoder tells qualities apart."""
    parser = subcommands.add_parser(
        "represent",
        help="an encoder's figures: neighbours, linear probes, clusters",
        description="How well an encoder tells JPEG qualities apart. The linear probes are fitted on crops of "
        "--probe-images, under the same condition, and read the sets; all else is measured within a set.",
    )
    parser.add_argument(
        "--weights", required=True, metavar="NAME", help="encoder, or restorer to take it from: a name or a file"
    )
    add_set_options(parser, qualities=range(10, 91, 10))
    parser.add_argument(
        "--crop-size", nargs="+", type=positive, default=[128], metavar="PX", help="sides of the crops (128)"
    )
    for name, known in (("condition", CONDITIONS), ("kinds", KINDS)):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            choices=known,
            default=list(known),
            metavar=name.upper(),
            help=f"any of {', '.join(known)} (all)",
        )
    parser.add_argument(
        "--supervised", metavar="FILE", help="encoder trained with labels (<encoder>_supervised beside the encoder)"
    )
    parser.add_argument(
        "--probe-images",
        metavar="DIR",
        help=f"images to fit the probes on, none of them of a tested set ({PROBE_IMAGES} under --data-root)",
    )
    parser.add_argument(
        "--unseen-quality",
        nargs="+",
        action=ExpandQualities,
        metavar="Q",
        help="for condition 'unseen' (half-way between those of --quality, and as far beyond both ends)",
    )
    parser.add_argument(
        "--second-quality", type=jpeg_quality, default=90, metavar="Q", help="for condition 'double' (%(default)s)"
    )
    parser.add_argument("--scale", type=scale, default=0.8, metavar="S", help="for condition 'resized' (%(default)s)")
    parser.add_argument(
        "--crops", type=positive, default=1, metavar="N", help="of each image at each quality (%(default)s)"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of places and fresh weights (%(default)s)")
    add_common_options(parser)
    parser.set_defaults(run=run_represent)


def add_guidance(subcommands: argparse._SubParsersAction) -> None:
    """`guidance`: what the encoder is worth to a network."""
    parser = subcommands.add_parser("guidance", help="a network's scores when its decoder is given other features")
    parser.add_argument("--weights", required=True, metavar="NAME", help="name of published weights, or weight file")
    add_set_options(parser)
    parser.add_argument(
        "--wrong-quality",
        nargs="+",
        action=ExpandQualities,
        default=[10, 90],
        metavar="Q",
        help="features of the same image at the farthest of these (10 90)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the shuffled features (%(default)s)")
    add_common_options(parser)
    parser.set_defaults(run=run_guidance)


def add_figure(subcommands: argparse._SubParsersAction) -> None:
    """`figure`: the paper's pictures of what the encoder sees."""
    parser = subcommands.add_parser("figure", help="the paper's figures of the encoder: 2 (t-SNE), 5 (feature maps)")
    numbers = parser.add_subparsers(title="figures", dest="number", metavar="NUMBER", required=True)
    clusters = numbers.add_parser("2", help="t-SNE of representations; writes figure_2.png, .svg and .json")
    clusters.add_argument("--sets", nargs="+", default=["live1"], metavar="SET", help="as in evaluate (live1)")
    clusters.add_argument(
        "--real", metavar="DIR", help="JPEG photos of unknown quality for panel (d) (twitter under --data-root, if any)"
    )
    clusters.add_argument("--perplexity", type=positive, default=30, metavar="N", help="of t-SNE (%(default)s)")
    clusters.add_argument("--projector", type=path_name, metavar="DIR", help="write a new TensorBoard folder as well")
    maps = numbers.add_parser("5", help="feature maps and Grad-CAM; writes figure_5.png, .svg and .json")
    maps.add_argument("--image", metavar="FILE", help="image file, or SET/STEM as in live1/bikes (the first of live1)")
    maps.add_argument(
        "--quality",
        nargs="+",
        action=ExpandQualities,
        default=[10, 30, 50, 70, 90],
        metavar="Q",
        help="(10 30 50 70 90)",
    )
    maps.add_argument("--size", type=positive, default=512, metavar="PX", help="sides are cut to this (%(default)s)")
    maps.add_argument(
        "--prototypes",
        metavar="DIR",
        help=f"images whose mean representation stands for a quality ({PROBE_IMAGES} under --data-root, if any)",
    )
    for figure, draw in ((clusters, draw_clusters), (maps, draw_maps)):
        figure.add_argument("--weights", required=True, metavar="NAME", help="as in represent")
        figure.add_argument("--output", required=True, type=path_name, metavar="DIR", help="folder to write to")
        figure.add_argument("--channels", choices=CHANNELS, default="gray", help="luma or RGB (default: %(default)s)")
        figure.add_argument("--crop-size", type=positive, default=128, metavar="PX", help="side of crops (%(default)s)")
        figure.add_argument("--seed", type=seed, default=0, metavar="N", help="of places and t-SNE (%(default)s)")
        figure.add_argument("--data-root", default="", metavar="DIR", help="of the sets (DATA_ROOT, else datasets)")
        figure.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if any")
        figure.set_defaults(run=run_figure, draw=draw, precision="float32")


def add_restore(subcommands: argparse._SubParsersAction) -> None:
    """`restore`: photos, in files and folders."""
    parser = subcommands.add_parser(
        "restore",
        help="photos in files and folders, restored and written as PNG",
        description="Restore photos. Prints, for each, `PHOTO: JPEG quality about Q +- S`, as read off its pixels by "
        "the encoder (S is one standard error; near 100: no trace of JPEG); where no progress bar is shown, also "
        "`PHOTO -> OUTPUT  WIDTHxHEIGHT  SECONDS  WHAT`.",
    )
    parser.add_argument(
        "inputs", nargs="+", type=path_name, metavar="IN", help="image file, or folder (with its sub-folders)"
    )
    parser.add_argument(
        "--output", required=True, type=path_name, metavar="DIR", help="folder to write to; names and sub-folders stay"
    )
    parser.add_argument(
        "--weights",
        metavar="NAME",
        help=f"published weights or a file, for all photos (default: {RESTORE_WEIGHTS['color']} for photos with "
        f"colour if it is there, {RESTORE_WEIGHTS['gray']} for others); a luma network leaves the chroma as it is",
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


def add_probe(subcommands: argparse._SubParsersAction) -> None:
    """`probe`: what an encoder needs to name qualities."""
    parser = subcommands.add_parser(
        "probe", help="fit to an encoder, or a network's own, what reads JPEG qualities off it; written to a new file"
    )
    parser.add_argument("--weights", required=True, metavar="NAME", help="name of published weights, or weight file")
    parser.add_argument("--output", required=True, metavar="FILE", help="the same weights and the probe; .safetensors")
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="DIR",
        help=f"photos, as good as uncompressed, of no benchmark (default: {FIT_IMAGES} under --data-root)",
    )
    parser.add_argument("--data-root", default="", metavar="DIR", help="where the sets are (DATA_ROOT, else datasets)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of qualities and places (%(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if any")
    parser.set_defaults(run=run_probe)


def add_describe(subcommands: argparse._SubParsersAction) -> None:
    """`describe`: what a weight file holds and what it costs."""
    parser = subcommands.add_parser("describe", help="a network's kind, parameters, arithmetic at 256x256, and speed")
    parser.add_argument("--weights", required=True, metavar="NAME", help="name of published weights, or weight file")
    parser.add_argument("--speed", action="store_true", help="measure how fast it runs as well, which takes seconds")
    parser.add_argument(
        "--size", type=speed_size, default=512, metavar="PX", help="side of the image for --speed (%(default)s)"
    )
    add_device_options(parser)
    parser.set_defaults(run=run_describe)


def add_benchmark(subcommands: argparse._SubParsersAction) -> None:
    """`benchmark`: how fast loader and networks are."""
    parser = subcommands.add_parser(
        "benchmark",
        help="speed and memory of loader, training step and inference, as ratios to a baseline in the same run",
        description="Speed as ratios. Loader: against decoding a whole 2K PNG for each sample. Networks for luma, "
        "untrained: against the released architecture in eager float32 NCHW, and against a large matrix product.",
    )
    parser.add_argument("--json", default="runs/benchmark.json", metavar="FILE", help="the figures (%(default)s)")
    parser.add_argument("--markdown", metavar="FILE", help="write the table")
    parser.add_argument("--batch", type=positive, metavar="N", help="images of a step (CUDA: 8, CPU: 1)")
    parser.add_argument("--size", type=positive, metavar="PX", help="side of an image (CUDA: 256, CPU: 128)")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="of all in turns (%(default)s)")
    parser.add_argument(
        "--compile", choices=COMPILE, default="auto", help="torch.compile for our training step (auto: on CUDA)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if any")
    parser.set_defaults(run=run_benchmark)


def add_publish(subcommands: argparse._SubParsersAction) -> None:
    """`publish`: a trained network as a small file, fit for `weights/`."""
    parser = subcommands.add_parser("publish", help="store a trained network at half the size, as float16")
    parser.add_argument("--weights", required=True, metavar="FILE", help="restorer.safetensors of a stage 2 run")
    parser.add_argument("--output", required=True, metavar="FILE", help="such as weights/NAME.safetensors")
    parser.set_defaults(run=run_publish)


def add_set_options(parser: argparse.ArgumentParser, *, qualities: Sequence[int] = (10, 20, 30, 40)) -> None:
    """Options of every subcommand that measures on sets of images, and at which qualities unless told."""
    parser.add_argument(
        "--sets",
        nargs="+",
        required=True,
        metavar="SET",
        help=f"any of {', '.join(protocols.SET_FOLDERS)} (under --data-root; bsds500/val is for choosing, never for "
        "reporting), or a path to any folder of images",
    )
    listed = " ".join(map(str, qualities))
    parser.add_argument(
        "--quality",
        nargs="+",
        action=ExpandQualities,
        default=list(qualities),
        metavar="Q",
        help=f"within 1..100, also ranges such as 10..45:5 ({listed})",
    )
    parser.add_argument("--channels", choices=CHANNELS, default="gray", help="luma or RGB (default: %(default)s)")


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options of every subcommand that measures."""
    parser.add_argument("--data-root", default="", metavar="DIR", help="where the sets are (DATA_ROOT, else datasets)")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    parser.add_argument("--markdown", metavar="FILE", help="write the table")
    add_device_options(parser)
    parser.add_argument(
        "--workers",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="threads that score, or make images (%(default)s)",
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


def run_represent(options: argparse.Namespace) -> None:
    from evaluation import study_figures  # scikit-learn takes seconds to import, and the other subcommands do without

    check_outputs(options)
    root = data_root(options.data_root)
    sets = protocols.open_sets(options.sets, root)
    wanted = study_plan(options)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    torch.backends.cudnn.allow_tf32 = False  # float32 figures are float32's, on any GPU
    files = encoder_files(options)
    encoders = open_encoders(files, options)
    probe_images = study.open_probe_images(options.probe_images or root / PROBE_IMAGES) if encoders else None
    study.check_images(sets, probe_images, wanted)

    def read(encoder: torch.nn.Module, crops: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision):
            return raw_rows(encoder.to(device, memory_format=torch.channels_last), crops)

    name, with_reencode = files["encoder"].stem, "reencode" in options.kinds
    result = study_figures.measure(encoders, read, sets, probe_images, wanted, name=name, with_reencode=with_reencode)
    provenance = origin(files["encoder"], device, options) | {"scikit_learn": version("scikit-learn")}
    if "supervised" in encoders:
        provenance |= {"supervised": files["supervised"].name, "supervised_sha256": sha256(files["supervised"])}
    report(study_figures.sections(result), result | {"provenance": provenance}, options)
    if "supervised" in options.kinds and "supervised" not in encoders:
        print(no_supervised(files))


def run_guidance(options: argparse.Namespace) -> None:
    check_outputs(options)
    sets = protocols.open_sets(options.sets, data_root(options.data_root))
    protocols.check_images(sets, options.channels)
    network = open_network(options.weights, options.channels, options)
    result = guidance.evaluate_features(
        network.restorer,
        network.restore,
        sets,
        options.quality,
        options.channels,
        method=network.name,
        wrong_qualities=options.wrong_quality,
        seed=options.seed,
        workers=options.workers,
    )
    report(guidance.summarize(result), result | {"provenance": network.provenance}, options)


def run_figure(options: argparse.Namespace) -> None:
    from evaluation import figures  # matplotlib takes a second to import, and the other subcommands do without

    stem = Path(options.output) / f"figure_{options.number}"
    for suffix in (*figures.FORMATS, "json"):
        tables.check_writable(f"{stem}.{suffix}")
    device = choose_device(options.device)
    torch.backends.cudnn.allow_tf32 = False  # float32 figures are float32's, on any GPU
    encoder = find_encoder(options.weights, options.channels).to(device)
    figure, content = options.draw(encoder, options)
    make_folder(options.output)
    paths = figures.save_figure(figure, stem)
    libraries = {name.replace("-", "_"): version(name) for name in ("matplotlib", "scikit-learn")}
    provenance = origin(find_weights(options.weights), device, options) | libraries
    names = ("channels", "sets", "crop_size", "perplexity", "image", "quality", "size", "seed")
    settings = {name: vars(options)[name] for name in names if name in options}
    head = {"figure": int(options.number), "settings": settings}
    text = tables.as_json(head | content | {"provenance": provenance})
    tables.write_text(f"{stem}.json", text)
    print(*paths, f"{stem}.json", content["caption"], sep="\n")


def draw_clusters(encoder: QualityEncoder, options: argparse.Namespace) -> tuple[Any, dict]:
    """Fig. 2 and its numbers; writes the projector's folder, if asked for."""
    from evaluation import embedding, figures

    root = data_root(options.data_root)
    sets = protocols.open_sets(options.sets, root)
    images = ImageSet(", ".join(name for name, _ in sets), [path for _, paths in sets for path in paths])
    folder = Path(options.real) if options.real else root / protocols.SET_FOLDERS["twitter"]
    photos = ImageSet(folder.name, list_images(folder)) if options.real or folder.is_dir() else None
    if options.projector:
        embedding.check_projector(options.projector)
    drawing = Drawing((options.crop_size,), seed=options.seed, workers=os.cpu_count() or 1)
    panels = embedding.embed_panels(
        encoder, images, photos, options.channels, drawing=drawing, perplexity=options.perplexity
    )
    if options.projector:
        embedding.write_projector(options.projector, panels)
    if photos is None:
        print(f"panel (d) left out: no {folder}; name a folder of JPEG photos with --real")
    shown = "; ".join(f"({panel.letter}) {panel.title}, {len(panel.names)} crops" for panel in panels)
    caption = (
        f"Fig. 2: t-SNE (perplexity {options.perplexity}, seed {options.seed}) of the representations of "
        f"{options.crop_size}-pixel crops by {find_weights(options.weights).stem}, {options.channels}, "
        f"{images.name}: {shown}."
    )
    if photos is not None:
        caption += f" The photos are the {len(photos.paths)} of {photos.name}, {embedding.PHOTO_CROPS} crops of each."
    return figures.tsne_figure(panels), {"caption": caption, "panels": embedding.describe(panels)}


def draw_maps(encoder: QualityEncoder, options: argparse.Namespace) -> tuple[Any, dict]:
    """Fig. 5 and its numbers."""
    from evaluation import figures, gradcam

    root = data_root(options.data_root)
    path = gradcam.find_image(options.image, root)
    clean, qualities = protocols.read_clean(path, options.channels), sorted(set(options.quality))
    gradcam.check_size(clean, options.size, name=path)
    folder, prototypes = Path(options.prototypes or root / PROBE_IMAGES), None
    explained = "the length of the representation"
    if options.prototypes or folder.is_dir():
        others = [other for other in list_images(folder) if not other.samefile(path)][:PROTOTYPE_IMAGES]
        if not others:
            raise ValueError(f"{folder} holds only the image shown; name other images with --prototypes")
        drawing = Drawing((options.crop_size,), seed=options.seed, workers=os.cpu_count() or 1)
        prototypes = gradcam.quality_prototypes(
            encoder, ImageSet(folder.name, others), qualities, options.channels, drawing
        )
        explained = (
            f"the cosine of the representation to the mean one of its quality ({options.crop_size}-pixel crops of "
            f"{len(others)} images of {'/'.join(folder.absolute().parts[-2:])})"
        )
    columns = gradcam.columns_of(encoder, clean, qualities, size_px=options.size, prototypes=prototypes)
    caption = (
        f"Fig. 5: {path.stem} coded at the qualities, {options.channels}; mean absolute feature maps of "
        f"{find_weights(options.weights).stem}, each row on one scale; Grad-CAM of {explained}, each map up to its own "
        f"maximum."
    )
    figure = figures.maps_figure(columns, score_name="cosine" if prototypes else "length")
    return figure, {"caption": caption} | gradcam.describe(columns)


def run_restore(options: argparse.Namespace) -> None:
    check_tiles(options.tile)
    jobs = plan(options.inputs, options.output, overwrite=options.overwrite)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    gray, color = [options.weights] * 2 if options.weights else default_weights()
    opened = {name: open_restoring(name, device) for name in dict.fromkeys((gray, color))}
    make_folder(options.output)
    for name, restoring in opened.items():
        if restoring.read_quality is None:
            print(f"{name} holds no quality probe: qualities are not read ({ADD_PROBE})", file=sys.stderr)
    with autocast(device, precision):
        failures = restore_files(opened[gray], opened[color], jobs, tile_px=options.tile)
    if failures:
        raise ValueError(f"{len(failures)} of {len(jobs)} photos not restored: {'; '.join(failures)}")


def default_weights() -> tuple[str, str]:
    """Names of the weights that `restore` uses for photos without colour, and with."""
    gray, color = RESTORE_WEIGHTS["gray"], RESTORE_WEIGHTS["color"]
    return gray, color if color in published_names() else gray


def open_restoring(weights: str, device: torch.device) -> Restoring:
    """The network that `--weights` of `restore` names, on the device, with what reads qualities by its encoder."""
    restorer = load_restorer(weights).to(device, memory_format=torch.channels_last)
    reader = load_reader(weights, restorer)
    return Restoring(restorer, reader.read if reader else None)


def run_probe(options: argparse.Namespace) -> None:
    source = find_weights(options.weights)
    if {source.suffix.lower(), Path(options.output).suffix} != {SUFFIX}:
        raise ValueError(f"a probe is kept in {SUFFIX} files, but the weights are {source}, --output {options.output}")
    tables.check_writable(options.output)
    if Path(options.output).exists() and Path(options.output).samefile(source):
        raise ValueError(f"--output {options.output} is the file of --weights; name a new one")
    folders = options.images or [data_root(options.data_root) / FIT_IMAGES]
    photos = [path for folder in folders for path in list_images(folder)]
    refuse_other_split(photos, "train")
    encoder = load_quality_encoder(source).to(choose_device(options.device))
    coded = read_coded(encoder, map(read_rgb, photos), num_images=len(photos), seed=options.seed)
    fit = fit_probe(*coded)
    copy_with_probe(source, options.output, fit.probe)
    errors = (fit.held_out - coded[1]).abs()
    print(
        f"{options.output}: probe fitted to {len(errors)} crops of {len(photos)} photos; error of one crop of a photo "
        f"that was held out: {errors.mean():.2f} on average, {errors.square().mean().sqrt():.2f} root mean square"
    )


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
    if options.speed:
        print(measured_speed(restorer, options))


def measured_speed(restorer: torch.nn.Module, options: argparse.Namespace) -> str:
    """The line of `describe` on a network's speed, and what it was measured with."""
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32's speed, on any GPU
    restorer = restorer.to(device, memory_format=torch.channels_last)
    image = torch.rand(1, restorer.channels, options.size, options.size, device=device)
    with autocast(device, precision):
        speed = megapixels_per_second(restorer, image)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    where = f"{device_name(device)}{threads}, {options.precision}, {options.size}x{options.size}"
    return f"{speed:.3g} megapixels/s ({where})"


def run_benchmark(options: argparse.Namespace) -> None:
    from evaluation import benchmark, benchmark_loader, benchmark_networks  # the other subcommands do without

    check_outputs(options)
    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    batch_size, size_px = options.batch or (8 if on_gpu else 1), options.size or (256 if on_gpu else 128)
    compile_step = COMPILE[options.compile]
    cases = benchmark_networks.usual_cases(batch_size, size_px, device, compile_step=compile_step)
    rows = benchmark_loader.loader_rows(5 * options.rounds)  # a round of these takes no more than a second
    network_rows, settings = benchmark_networks.network_rows(cases, options.rounds)
    shared = {"batch": batch_size, "size": size_px, "compile": options.compile}
    result = benchmark.circumstances(device) | {"settings": shared | settings, "rows": rows + network_rows}
    report([benchmark.section(result)], result, options)


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


def study_plan(options: argparse.Namespace) -> study.Plan:
    """What `represent` is to measure. Raises ValueError for qualities that make no study."""
    return study.Plan(
        channels=options.channels,
        conditions=tuple(dict.fromkeys(options.condition)),
        qualities=tuple(sorted(set(options.quality))),
        unseen=tuple(sorted(set(options.unseen_quality or between(options.quality)))),
        drawing=Drawing(
            sizes_px=tuple(dict.fromkeys(options.crop_size)),
            crops_per_image=options.crops,
            second_quality=options.second_quality,
            scale=options.scale,
            seed=options.seed,
            workers=options.workers,
        ),
    )


def encoder_files(options: argparse.Namespace) -> dict[str, Path]:
    """The files of "encoder" and of "supervised", which need not exist unless it was named.

    Raises:
        FileNotFoundError: if there are no such weights, or `supervised` alone is wanted and is not there.
    """
    file = find_weights(options.weights)
    twin = file.with_name(f"{file.stem}_supervised{SUFFIX}")
    files = {"encoder": file, "supervised": find_weights(options.supervised) if options.supervised else twin}
    if set(options.kinds) == {"supervised"} and not files["supervised"].is_file():
        raise FileNotFoundError(no_supervised(files))
    return files


def no_supervised(files: dict[str, Path]) -> str:
    """What to say where there is no encoder trained with labels."""
    return (
        f"supervised: left out, there is no {files['supervised']}; to train one: python train_cqe.py --config <config> "
        f"--config configs/cqe/supervised.yaml (then put its encoder there, or name it with --supervised)"
    )


def open_encoders(files: dict[str, Path], options: argparse.Namespace) -> dict[str, QualityEncoder]:
    """The encoders to measure, by kind, those of them that there are. Errors as `find_encoder`."""
    encoder = find_encoder(files["encoder"], options.channels)
    encoders = {"encoder": encoder, "untrained": untrained_like(encoder, options.seed)}
    if "supervised" in options.kinds and files["supervised"].is_file():
        encoders["supervised"] = supervised = find_encoder(files["supervised"], options.channels)
        if (other := encoder_architecture(supervised)) != (own := encoder_architecture(encoder)):
            raise ValueError(f"{files['supervised']} is {other}, but --weights is {own}; give one of this architecture")
    return {kind: network for kind, network in encoders.items() if kind in options.kinds}


def find_encoder(name: str | Path, channels: str) -> QualityEncoder:
    """An encoder by name or file, or a restoration network's own, in eval mode.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if the file is damaged, or for other channels.
    """
    encoder = load_quality_encoder(name)
    if encoder.in_channels != CHANNELS[channels]:
        other = "color" if channels == "gray" else "gray"
        raise ValueError(f"{name} is no encoder for {channels} images; change --channels (to {other}) or the weights")
    return encoder


def untrained_like(encoder: QualityEncoder, seed: int) -> QualityEncoder:
    """A freshly initialised encoder of the same architecture, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QualityEncoder(**encoder_architecture(encoder)).eval()


def build_system(weights: str, channels: str, options: argparse.Namespace) -> System:
    """The system that `--weights` names.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if they cannot be used, or not for these channels.
    """
    if weights == JPEG:
        return System(protocols.restored_by(lambda image: image), JPEG, versions())
    network = open_network(weights, channels, options)
    produce = protocols.restored_by(lambda image: network.restore(network.restorer, image))
    return System(produce, network.name, network.provenance)


def open_network(weights: str, channels: str, options: argparse.Namespace) -> Network:
    """The network that `--weights` names, on the device and in the precision asked for. Errors as `build_system`."""
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    torch.backends.cudnn.allow_tf32 = False  # float32 figures are float32's, on any GPU
    restorer = load_restorer(weights, channels=CHANNELS[channels]).to(device, memory_format=torch.channels_last)

    def restore(network: torch.nn.Module, image: np.ndarray, guide: np.ndarray | None = None) -> np.ndarray:
        with autocast(device, precision):
            return restore_image(network, image, guide=guide)

    file = find_weights(weights)
    return Network(restorer, restore, file.stem, origin(file, device, options))


def origin(file: Path, device: torch.device, options: argparse.Namespace) -> dict[str, str]:
    """What a network's figures came from."""
    network = {
        "weights": file.name,
        "weights_sha256": sha256(file),
        "device": device_name(device),
        "precision": options.precision,
    }
    return network | versions()


def device_name(device: torch.device) -> str:
    """A GPU's model, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


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


class ExpandQualities(argparse.Action):
    """JPEG qualities and ranges of them, as configs write them: `10 20..40:5` is 10, 20, 25, 30, 35, 40."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option_string: str | None = None,
    ) -> None:
        try:
            setattr(namespace, self.dest, list(dict.fromkeys(expand_qualities(values, key=option_string))))
        except ValueError as error:
            parser.error(str(error))


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


def speed_size(text: str) -> int:
    """The side of a square image, in pixels, of the command line."""
    size = positive(text)
    if size > MAX_SPEED_PX:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_SPEED_PX} pixels, got {text}")
    return size


def seed(text: str) -> int:
    """A seed of the command line; its upper limit is scikit-learn's."""
    if not (text.isascii() and text.isdecimal()) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {2**32 - 1}, got {text}")
    return int(text)


def scale(text: str) -> float:
    """A factor for the sides of images, of the command line. The limit keeps their size within reason."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_SCALE:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most {MAX_SCALE}, got {text}")
    return value


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr, without the usage text, and exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


if __name__ == "__main__":
    main()
