"""`degrade`: the JPEGs of an evaluation as files, for systems that run elsewhere."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from commands.arguments import add_set_options, path_name
from common.files import written_whole
from data.config import data_root
from data.jpeg import decode, encode
from evaluation.scores.image_sets import ImageSet, check_images, open_sets, read_clean
from restoration.folders import make_folder
from restoration.photos import Photo, save_photo

HELP = "write the images that evaluate gives a system, as JPEG and decoded as PNG"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Write DIR/<set>/<quality>/<image stem>.jpg, and the same decoded as .png, for every image. A system that runs "
        "elsewhere restores either of them into another folder of the same layout; `evaluate --restored` scores that."
    )
    add_set_options(parser)
    parser.add_argument("--output", required=True, type=path_name, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--data-root", default="", metavar="DIR", help="folder of the sets (default: DATA_ROOT, or datasets)"
    )


def run(options: argparse.Namespace) -> None:
    sets = open_sets(options.sets, data_root(options.data_root))
    check_images(sets, options.channels)
    files = list(_files(options.output, sets, options.quality))
    for _, _, stem in files:
        for path in (_with(stem, ".jpg"), _with(stem, ".png")):
            if path.exists():  # it may be a restored image, which has the same name
                raise FileExistsError(f"{path} exists, and nothing is overwritten; name another folder")
    make_folder(options.output)
    source, clean = None, None
    for path, quality, stem in tqdm(files, desc="degrade", unit="image", disable=None):
        if path != source:
            source, clean = path, read_clean(path, options.channels)
        coded = encode(clean, quality)
        save_photo(Photo(decode(coded), None, {}), _with(stem, ".png"))
        with written_whole(_with(stem, ".jpg")) as working:
            working.write_bytes(coded)
    print(f"{options.output}: {len(files)} JPEG files, and as many PNGs of what they decode to ({options.channels})")


def _files(folder: str, sets: Sequence[ImageSet], qualities: Sequence[int]) -> Iterator[tuple[Path, int, Path]]:
    """Every image at every quality: its file, the quality, and the name of what is written, without suffix."""
    for name, paths in sets:
        for path in paths:
            for quality in qualities:
                yield path, quality, Path(folder) / name / str(quality) / path.stem


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)  # a stem may have dots
