"""`degrade`: the JPEGs of an evaluation as files, for systems that run elsewhere."""

import argparse
from pathlib import Path

from tqdm import tqdm

from commands.arguments import add_set_options, path_name
from commands.degradation_options import add_degradation_options, degradations
from common.files import written_whole
from data.config import data_root
from data.jpeg import decode
from evaluation.scores.image_sets import check_images, open_sets, read_clean
from evaluation.scores.protocol import FileSource, jobs_of
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
    parser.add_argument("--output", required=True, type=path_name, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--data-root", default="", metavar="DIR", help="folder of the sets (default: DATA_ROOT, or datasets)"
    )


def run(options: argparse.Namespace) -> None:
    asked = degradations(options)
    sets = open_sets(options.sets, data_root(options.data_root))
    check_images(sets, options.channels, num_cut_px=max(max(each.shift) for each in asked))
    jobs, target = jobs_of(sets, asked), FileSource(Path(options.output))
    pngs = {case: target.path(case) for _, cases in jobs for case in cases}
    jpegs = {case: png.with_name(f"{case.stem}.jpg") for case, png in pngs.items()}
    for path in (*pngs.values(), *jpegs.values()):
        if path.exists():  # it may be a restored image, which has the same name
            raise FileExistsError(f"{path} exists, and nothing is overwritten; name another folder")
    make_folder(options.output)
    with tqdm(total=len(pngs), desc="degrade", unit="image", disable=None) as bar:
        for path, cases in jobs:
            clean = read_clean(path, options.channels)
            for case in cases:
                coded = case.encoded(clean)
                save_photo(Photo(decode(coded), None, {}), pngs[case])
                with written_whole(jpegs[case]) as working:
                    working.write_bytes(coded)
                bar.update()
    print(f"{options.output}: {len(pngs)} JPEG files, and as many PNGs of what they decode to ({options.channels})")
