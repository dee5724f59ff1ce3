"""`figure 2` (t-SNE of representations) and `figure 5` (feature maps): what the encoder sees."""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from matplotlib.figure import Figure

from commands.arguments import ExpandQualities, positive, seed
from commands.encoders import open_encoder_for
from commands.systems import origin
from common.machine import choose_device, usable_cores
from data.config import data_root
from data.images import list_images
from data.known_sets import measured_folders
from evaluation.encoder import gradcam, plots, tsne
from evaluation.encoder.crops import Drawing
from evaluation.scores.image_sets import COLOR_MODES, ImageSet, open_sets, read_clean
from restoration.weights import Weights

PROBE_IMAGES = "bsds500/val"  # under the data root; not a set that scores are reported on
PROTOTYPE_IMAGES = 24  # so many of them; in Fig. 5 their mean representation stands for a quality


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of Fig. 2."""
    parser.add_argument("--sets", nargs="+", default=["live1"], metavar="SET", help="as in evaluate (default: live1)")
    parser.add_argument(
        "--real",
        metavar="DIR",
        help="JPEG photos of unknown quality for panel (d) (default: twitter under --data-root, if any)",
    )
    parser.add_argument(
        "--perplexity", type=positive, default=30, metavar="N", help="perplexity of t-SNE (default: %(default)s)"
    )
    parser.add_argument(
        "--projector", metavar="DIR", help="also write this TensorBoard folder; it must be new or empty"
    )
    _add_encoder_arguments(parser)


def add_map_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of Fig. 5."""
    parser.add_argument(
        "--image", metavar="FILE", help="image file, or SET/STEM as in live1/bikes (default: the first of live1)"
    )
    parser.add_argument(
        "--quality",
        nargs="+",
        action=ExpandQualities,
        default=[10, 30, 50, 70, 90],
        metavar="Q",
        help="JPEG qualities (default: 10 30 50 70 90)",
    )
    parser.add_argument(
        "--size", type=positive, default=512, metavar="PX", help="longer sides are cut to this (default: %(default)s)"
    )
    parser.add_argument(
        "--prototypes",
        metavar="DIR",
        help=f"images whose mean representation stands for a quality (default: {PROBE_IMAGES} of --data-root, if any)",
    )
    _add_encoder_arguments(parser)


def _add_encoder_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, metavar="NAME", help="as in represent")
    parser.add_argument("--channels", choices=COLOR_MODES, default="gray", help="luma or RGB (default: %(default)s)")
    parser.add_argument(
        "--crop-size", type=positive, default=128, metavar="PX", help="side of the crops (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of crop places and t-SNE (default: %(default)s)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if any")
    parser.set_defaults(precision="float32")


def draw_clusters(options: argparse.Namespace) -> tuple[Figure, dict]:
    """Fig. 2, and the content of its JSON file. Also writes the TensorBoard folder, if one was asked for."""
    return _drawn(2, _clusters, options)


def draw_maps(options: argparse.Namespace) -> tuple[Figure, dict]:
    """Fig. 5, and the content of its JSON file."""
    return _drawn(5, _maps, options)


def _drawn(
    number: int, draw: Callable[[Weights, argparse.Namespace], tuple[Figure, dict]], options: argparse.Namespace
) -> tuple[Figure, dict]:
    """Open the encoder and draw a figure of it. The content begins with the settings and ends with the provenance."""
    device = choose_device(options.device)
    torch.backends.cudnn.allow_tf32 = False  # compute in true float32 on every GPU
    weights = open_encoder_for(options.weights, options.channels)
    weights.encoder.to(device)
    figure, content = draw(weights, options)
    names = ("channels", "sets", "crop_size", "perplexity", "image", "quality", "size", "seed")
    head = {"figure": number, "settings": {name: vars(options)[name] for name in names if name in options}}
    libraries = {name.replace("-", "_"): version(name) for name in ("matplotlib", "scikit-learn")}
    return figure, head | content | {"provenance": origin(weights, device, options) | libraries}


def _clusters(weights: Weights, options: argparse.Namespace) -> tuple[Figure, dict]:
    root = data_root(options.data_root)
    sets = open_sets(options.sets, root)
    images = ImageSet(", ".join(name for name, _ in sets), [path for _, paths in sets for path in paths])
    folder = Path(options.real) if options.real else root / measured_folders()["twitter"].path
    photos = ImageSet(folder.name, list_images(folder)) if options.real or folder.is_dir() else None
    if options.projector:
        tsne.check_projector(options.projector)
    drawing = Drawing((options.crop_size,), seed=options.seed, workers=usable_cores())
    panels = tsne.embed_panels(
        weights.encoder, images, photos, options.channels, drawing=drawing, perplexity=options.perplexity
    )
    if options.projector:
        tsne.write_projector(options.projector, panels)
    if photos is None:
        print(f"panel (d) left out: no {folder}; name a folder of JPEG photos with --real")
    shown = "; ".join(f"({panel.letter}) {panel.title}, {len(panel.names)} crops" for panel in panels)
    caption = (
        f"Fig. 2: t-SNE (perplexity {options.perplexity}, seed {options.seed}) of the representations of "
        f"{options.crop_size}-pixel crops by {weights.name}, {options.channels}, {images.name}: {shown}."
    )
    if photos is not None:
        caption += f" The photos are the {len(photos.paths)} of {photos.name}, {tsne.PHOTO_CROPS} crops of each."
    return plots.tsne_figure(panels), {"caption": caption, "panels": tsne.describe(panels)}


def _maps(weights: Weights, options: argparse.Namespace) -> tuple[Figure, dict]:
    root = data_root(options.data_root)
    path = gradcam.find_image(options.image, root)
    clean, qualities = read_clean(path, options.channels), sorted(set(options.quality))
    gradcam.check_size(clean, options.size, name=path)
    folder, prototypes = Path(options.prototypes or root / PROBE_IMAGES), None
    explained = "the length of the representation"
    if options.prototypes or folder.is_dir():
        others = [other for other in list_images(folder) if not other.samefile(path)][:PROTOTYPE_IMAGES]
        if not others:
            raise ValueError(f"{folder} holds only the image shown; name other images with --prototypes")
        drawing = Drawing((options.crop_size,), seed=options.seed, workers=usable_cores())
        prototypes = gradcam.quality_prototypes(
            weights.encoder, ImageSet(folder.name, others), qualities, options.channels, drawing
        )
        explained = (
            f"the cosine of the representation to the mean one of its quality ({options.crop_size}-pixel crops of "
            f"{len(others)} images of {'/'.join(folder.absolute().parts[-2:])})"
        )
    columns = gradcam.columns_of(weights.encoder, clean, qualities, size_px=options.size, prototypes=prototypes)
    caption = (
        f"Fig. 5: {path.stem} coded at the qualities, {options.channels}; mean absolute feature maps of "
        f"{weights.name}, each row on one scale; Grad-CAM of {explained}, each map up to its own maximum."
    )
    figure = plots.maps_figure(columns, score_name="cosine" if prototypes else "length")
    return figure, {"caption": caption} | gradcam.describe(columns)
