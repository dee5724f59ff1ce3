"""`figure 7`: photos of unknown quality, restored, and what was removed from them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from commands.arguments import add_device_options, crop_of, positive
from commands.systems import origin
from common.machine import autocast, choose_device, choose_precision
from data.images import list_images, read_image
from evaluation.figures.crops import check_crops, most_changed
from evaluation.figures.removal import MAX_PHOTOS, MAX_SYSTEMS, RestoredPhoto, removal_figure
from restoration import restore_array
from restoration.weights import open_weights

CROP_PX = (160, 120)  # width and height of a part that nobody chose: about 90 pixels an inch in print
MAX_AMPLIFICATION = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--images",
        nargs="+",
        required=True,
        metavar="FILE",
        help=f"photos, or folders of them; at most {MAX_PHOTOS}. Shown as stored: EXIF rotation is not applied",
    )
    parser.add_argument(
        "--systems", nargs="+", required=True, metavar="NAME", help=f"weights, as in restore; at most {MAX_SYSTEMS}"
    )
    parser.add_argument(
        "--crop",
        nargs="+",
        type=crop_of,
        metavar="X,Y,W,H",
        help="the part of each photo to magnify, in order (default: "
        f"the {CROP_PX[0]}x{CROP_PX[1]} pixels from which the first system removes most)",
    )
    parser.add_argument(
        "--amplify", type=amplification, default=8, metavar="N", help="factor of what was removed (default: 8)"
    )
    add_device_options(parser)


def draw(options: argparse.Namespace) -> tuple[Figure, dict]:
    """The figure, and the content of its JSON file."""
    paths = _photo_paths(options.images)
    if options.crop and len(options.crop) != len(paths):
        raise ValueError(f"--crop takes a part of each photo, got {len(options.crop)} for {len(paths)} photos")
    photos = [read_image(path) for path in paths]
    for photo, crop, path in zip(photos, options.crop or [], paths, strict=False):
        check_crops([crop], photo, path.name)
    device = choose_device(options.device)
    systems = [open_weights(name, needs="network") for name in dict.fromkeys(options.systems)]
    names = [weights.name for weights in systems]
    if len(systems) > MAX_SYSTEMS or len(set(names)) < len(names):
        raise ValueError(f"--systems takes at most {MAX_SYSTEMS} weights of different names, got {', '.join(names)}")
    for weights in systems:
        weights.network.to(device)
    rows = []
    with autocast(device, choose_precision(options.precision, device)):
        for index, photo in enumerate(photos):
            restored = {weights.name: restore_array(weights.network, photo) for weights in systems}
            first = photo.astype(np.int32) - next(iter(restored.values()))
            rows.append(
                RestoredPhoto(photo, options.crop[index] if options.crop else most_changed(first, *CROP_PX), restored)
            )
    content = {
        "figure": 7,
        "settings": {"amplify": options.amplify, "crops": [row.crop for row in rows]},
        "caption": _caption(paths, rows, options),
        "photos": [_numbers(path, row) for path, row in zip(paths, rows, strict=True)],
        "provenance": {weights.name: origin(weights, device, options) for weights in systems},
    }
    return removal_figure(rows, options.amplify), content


def amplification(text: str) -> int:
    """Read the factor of what was removed."""
    factor = positive(text)
    if factor > MAX_AMPLIFICATION:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_AMPLIFICATION}, got {text}")
    return factor


def _photo_paths(names: Sequence[str]) -> list[Path]:
    found = [path for name in names for path in (list_images(name) if Path(name).is_dir() else [Path(name)])]
    if len(found) > MAX_PHOTOS:
        raise ValueError(f"at most {MAX_PHOTOS} photos are shown, got {len(found)}; name fewer")
    return found


def _caption(paths: Sequence[Path], rows: Sequence[RestoredPhoto], options: argparse.Namespace) -> str:
    first, *others = rows[0].restored
    chosen = "a part of it" if options.crop else f"the part from which {first} removes most"
    return (
        f"Fig. 7: photos of unknown quality ({', '.join(path.name for path in paths)}). In each row: the photo; "
        f"{chosen}, magnified; the same restored by {', '.join([first, *others])}, each beside what it removed, times "
        f"{options.amplify} (middle gray: nothing)."
    )


def _numbers(path: Path, row: RestoredPhoto) -> dict:
    """How much each system removed from a photo: the root mean square and the largest change, in grey levels."""
    changes = {name: row.photo.astype(np.float64) - image for name, image in row.restored.items()}
    return {
        "image": path.name,
        "removed": {
            name: {"root_mean_square": float(np.sqrt(np.mean(np.square(change)))), "largest": float(abs(change).max())}
            for name, change in changes.items()
        },
    }
