"""`degrade`: the JPEGs of an evaluation as files, for systems that run elsewhere."""

import argparse
from pathlib import Path

from tqdm import tqdm

from commands.arguments import add_set_options
from commands.degradation_options import add_degradation_options, degradations
from common.files import written_whole
from data.config import data_root
from data.jpeg import decode
from evaluation.scores.image_sets import check_images, open_sets
from evaluation.scores.protocol import FileSource, clean_cases, jobs_of
from restoration.folders import make_folder
from restoration.photos import Photo, save_photo

HELP = "write the images that evaluate gives a system, as JPEG and decoded as PNG"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Write DIR/<set>/<quality>/<image stem>.jpg, and the same decoded as .png, for every image. A system that runs "
        "elsewhere restores either of them into another folder of the same layout; `evaluate --restored` scores that."
    )
    add_set_options(parser, qualities=None)
    add_degradation_options(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--data-root", default="", metavar="DIR", help="folder of the sets (default: DATA_ROOT, or datasets)"
    )


def run(options: argparse.Namespace) -> None:
    asked, layout = degradations(options), FileSource(Path(options.output))
    sets = open_sets(options.sets, data_root(options.data_root))
    check_images(sets, options.channels, num_cut_px=max(max(each.shift) for each in asked))
    pictures = [layout.path(case) for job in jobs_of(sets, asked) for case in job.cases]
    for path in (path for picture in pictures for path in (picture, picture.with_suffix(".jpg"))):
        if path.exists():  # it may be a restored image, which has the same name
            raise FileExistsError(f"{path} exists, and nothing is overwritten; name another folder")
    make_folder(options.output)
    cases = clean_cases(sets, asked, options.channels)
    for clean, case in tqdm(cases, total=len(pictures), desc="degrade", unit="image", disable=None):
        coded, picture = case.encoded(clean), layout.path(case)
        save_photo(Photo(decode(coded), None, {}), picture)
        with written_whole(picture.with_suffix(".jpg")) as working:
            working.write_bytes(coded)
    print(f"{options.output}: {len(pictures)} JPEG files, and what they decode to as PNG ({options.channels})")
