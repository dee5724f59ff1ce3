"""Training samples per second and core: our data set of stage 2 against the usual way of this field.

Both cut patches from the same 2K images: enlarged photos that come with scikit-image. Enlarged photos make smaller PNGs
than real 2K photos, and smaller PNGs decode faster. So the ratio is too low rather than too high.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np
import skimage.data
from PIL import Image
from torch import Tensor

from data.augment import NUM_SYMMETRIES, symmetry
from data.color import luma, to_tensor
from data.config import DataConfig
from data.images import read_rgb
from data.jpeg import jpeg_roundtrip
from data.patches import RestorationPatches
from data.store import open_store
from evaluation.speed.ratios import rates_row

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png")  # of scikit-image's own package
SIZE_PX = (2040, 1356)  # width and height, as many images of DIV2K have
OURS_PER_ROUND = 20  # our samples in a round; the baseline makes one, which takes much longer


def loader_rows(num_rounds: int, *, size_px: tuple[int, int] = SIZE_PX, config: DataConfig | None = None) -> list[dict]:
    """A row for luma and one for colour, from images of this width and height. Patches are `config`'s (256 pixels)."""
    config = config or DataConfig()
    with tempfile.TemporaryDirectory() as working:
        folder = Path(working) / "photos"
        folder.mkdir()
        for name in PHOTOS:
            photo = Image.fromarray(read_rgb(Path(skimage.data.__file__).parent / name))
            photo.resize(size_px, Image.Resampling.BICUBIC).save(folder / name)
        store = open_store(folder, Path(working) / "packed")
        rows = []
        for channels, plane in ((1, "luma"), (3, "colour")):
            dataset = RestorationPatches([store], replace(config, channels=channels), seed=0)
            seconds = _measure(dataset, sorted(folder.iterdir()), num_rounds)
            name = f"loader, {plane}: ours / a 2K PNG decoded for each sample"
            rows.append(rates_row(name, *seconds, "samples/s/core", work=OURS_PER_ROUND))
    return rows


def field_sample(paths: Sequence[Path], dataset: RestorationPatches, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A degraded and a clean patch, (C, P, P) in [0, 1], made the usual way: decode a whole image for one crop."""
    config = dataset.config
    with Image.open(paths[rng.integers(len(paths))]) as file:
        image = np.asarray(file.convert("RGB"))
    top, left = (rng.integers(side - config.patch_size_px + 1) for side in image.shape[:2])
    crop = image[top : top + config.patch_size_px, left : left + config.patch_size_px]
    clean = np.ascontiguousarray(symmetry(crop, rng.integers(NUM_SYMMETRIES)))
    if config.channels == 1:
        clean = luma(clean)
    return to_tensor(jpeg_roundtrip(clean, rng.choice(dataset.qualities))), to_tensor(clean)


def _measure(dataset: RestorationPatches, paths: Sequence[Path], num_rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of this process's CPU time, by rounds: of `OURS_PER_ROUND` samples of ours, and of one of the field's."""
    ours, baseline = [], []
    rng = np.random.default_rng(0)
    for step in range(1 + num_rounds):  # the first one warms up
        started = process_time()
        for place in range(OURS_PER_ROUND):
            dataset[divmod(step * OURS_PER_ROUND + place, len(dataset))]
        turn = process_time()
        field_sample(paths, dataset, rng)
        ours.append(turn - started)
        baseline.append(process_time() - turn)
    return ours[1:], baseline[1:]
