"""`figure 6`: one image, restored by several systems."""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from commands.arguments import add_device_options, crop_of, jpeg_quality
from commands.systems import JPEG, build_system, check_qualities, refuse_equal_names, restored_system
from data.config import data_root
from evaluation.encoder.gradcam import find_image
from evaluation.figures.comparison import LETTERS, ORIGINAL, Shown, comparison_figure
from evaluation.figures.crops import check_crops
from evaluation.scores.degradations import Case, Jpeg
from evaluation.scores.image_sets import COLOR_MODES, ImageSet, read_clean
from evaluation.scores.metrics import score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--image", required=True, metavar="FILE", help="image file, or SET/STEM as in live1/bikes")
    parser.add_argument(
        "--quality", type=jpeg_quality, default=10, metavar="Q", help="JPEG quality (default: %(default)s)"
    )
    parser.add_argument(
        "--systems",
        nargs="+",
        required=True,
        metavar="NAME",
        help=f"'{JPEG}' for the JPEG itself, names of weights, or weight files",
    )
    parser.add_argument(
        "--restored",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME=]DIR",
        help="another system's image of it, DIR/<set>/<quality>/<image stem>.png; may be given more than once",
    )
    parser.add_argument(
        "--crop",
        nargs="+",
        required=True,
        type=crop_of,
        metavar="X,Y,W,H",
        help="parts to magnify: left, top, width and height in pixels of the image",
    )
    parser.add_argument("--channels", choices=COLOR_MODES, default="gray", help="luma or RGB (default: %(default)s)")
    add_device_options(parser)


def draw(options: argparse.Namespace) -> tuple[Figure, dict]:
    """The figure, and the content of its JSON file."""
    if len(options.crop) > len(LETTERS):
        raise ValueError(f"--crop takes at most {len(LETTERS)} parts, got {len(options.crop)}")
    path = find_image(options.image, data_root(options.data_root))
    clean = read_clean(path, options.channels)
    check_crops(options.crop, clean, path.name)
    systems = [build_system(name, options.channels, options) for name in dict.fromkeys(options.systems)]
    is_file = Path(options.image).is_file()
    images = ImageSet(path.absolute().parent.name if is_file else options.image.rpartition("/")[0], [path])
    systems += [restored_system(given, [images], [options.quality]) for given in dict.fromkeys(options.restored)]
    refuse_equal_names(systems)
    case = Case(images.name, Jpeg((options.quality,)), path.stem)
    versions, numbers = [], []
    for system in systems:
        check_qualities(system, {options.quality})
    for system in systems:
        restored = system.produce(clean, case)
        scores = score(restored, clean)
        title = f"JPEG, quality {options.quality}" if system.name == JPEG else system.name
        versions.append(Shown(title, restored, scores))
        numbers.append({"name": system.name, **scores, "provenance": system.provenance})
    caption = (
        f"Fig. 6: {path.stem} coded at quality {options.quality}, {options.channels}; at the left the original with "
        f"the crops marked, beside it the crops of {', '.join(version.name for version in versions)} and the original. "
        f"PSNR (dB) / SSIM are those of the whole image."
    )
    settings = {"image": path.name, "quality": options.quality, "channels": options.channels, "crops": options.crop}
    content = {"figure": 6, "settings": settings, "caption": caption, "systems": numbers}
    return comparison_figure([*versions, Shown(ORIGINAL, clean, None)], options.crop), content
