"""Training patches: what both stages share, and the patches of stage 2. The pairs of stage 1 are in `data.pairs`.

A sample depends on (seed, epoch, index) alone. So workers, ranks and restarts do not change the stream of samples.
"""

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.augment import NUM_SYMMETRIES, SymmetryView
from data.color import luma
from data.config import DataConfig, HistoriesConfig, expand_qualities
from data.images import list_images
from data.jpeg import COLOR_UNIT_PX, LUMA_UNIT_PX, Box
from data.quantization import foreign_tables
from data.recompression import Coding, coded_part
from data.splits import refuse_other_split
from data.store import BrokenImage, PixelStore, open_store

logger = logging.getLogger(__name__)


class Patches(Dataset):
    """Base of both training sets. It chooses a sample's image and cuts patches of it, coded at one quality.

    Args:
        stores: packed images.
        config: patch size, qualities and shares.
        seed: the run's seed; every sample's random generator starts from it.

    Raises:
        ValueError: if an image is smaller than the patch; it is named.
    """

    def __init__(self, stores: Sequence[PixelStore], config: DataConfig, *, seed: int) -> None:
        self.images = [(store, index) for store in stores for index in range(len(store))]
        self.config = config
        self.seed = seed
        self.qualities = expand_qualities(config.qualities)
        self._order: tuple[int | None, np.ndarray] = (None, np.empty(0, np.int64))
        # Which images were said to be broken. All workers share it.
        self._is_reported = torch.zeros(len(self.images), dtype=torch.bool).share_memory_()
        for store in stores:
            for name, shape in zip(store.names, store.shapes, strict=True):
                if name not in store.unreadable and min(shape) < config.patch_size_px:
                    raise ValueError(
                        f"{name} is {shape[1]}x{shape[0]} pixels, smaller than the patch: "
                        f"lower data.patch_size_px ({config.patch_size_px}) or take the image out"
                    )

    def __len__(self) -> int:
        return len(self.images)

    def file_of(self, position: tuple[int, int]) -> str:
        """The set and file name of the image that a sample (epoch, index) is cut from."""
        epoch, index = position
        store, image_index = self.images[self._order_of(epoch)[index]]
        return store.file_of(image_index)

    def fingerprint(self) -> str:
        """A hash of the images' file names, in their order. Folders do not count: the images may have moved."""
        return hashlib.sha256(repr([store.names[index] for store, index in self.images]).encode()).hexdigest()

    def _start(self, epoch: int, index: int) -> tuple[SymmetryView, int, np.random.Generator]:
        """The sample's image (one symmetry of it), its quality, and its random generator."""
        rng = np.random.default_rng([self.seed, epoch, index])
        whole = self._image(int(self._order_of(epoch)[index]))
        image = SymmetryView(np.asarray(whole), int(rng.integers(NUM_SYMMETRIES)))
        return image, self._draw(self.qualities, rng), rng

    def _image(self, number: int) -> np.ndarray:
        """An image by its number; if it is broken and may be skipped, the next that is not."""
        for candidate in chain(range(number, len(self.images)), range(number)):
            store, index = self.images[candidate]
            try:
                return store[index]
            except BrokenImage as error:
                if self.config.on_error == "raise":
                    raise ValueError(f"{error}, or set data.on_error to skip") from error
                if not self._is_reported[candidate]:
                    self._is_reported[candidate] = True
                    logger.warning("left out of the training: %s", error)
        raise ValueError("data.train holds no image that can be read")

    def _order_of(self, epoch: int) -> np.ndarray:
        """The order of an epoch's images. It is kept until another epoch comes: shuffling takes as long as a crop."""
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
        return self._order[1]

    def _patch(
        self, image: SymmetryView, quality: int, is_full_range: bool, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """A patch of the coded image and the same patch of the image, (C, P, P) uint8 each."""
        return self._coded_patch(image, [Coding(quality)], is_full_range, rng)

    def _coded_patch(
        self, image: SymmetryView, codings: Sequence[Coding], is_full_range: bool, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """As `_patch`, after any codings. The patch lies on the grid of the last one, or anywhere."""
        rows, columns = (sum(cut) for cut in zip((0, 0), *(coding.shift for coding in codings), strict=True))
        shape = (image.shape[0] - rows, image.shape[1] - columns, *image.shape[2:])
        box = self._place(shape, rng)
        seen = shape if self.config.channels == 3 else shape[:2]
        degraded, clean = coded_part(lambda part: self._cut(image, part, is_full_range), seen, box, codings)
        return as_planes(degraded), as_planes(clean)

    def _shift(self, shape: tuple[int, ...], rng: np.random.Generator, *, below: int) -> tuple[int, int]:
        """Rows and columns to cut off an image before it is coded again, so that a patch is left."""
        size = self.config.patch_size_px
        rows, columns = (int(rng.integers(min(below, side - size + 1))) for side in shape[:2])
        return rows, columns

    @property
    def _unit_px(self) -> int:
        """Period of the coding's grid."""
        return LUMA_UNIT_PX if self.config.channels == 1 else COLOR_UNIT_PX

    def _cut(self, image: SymmetryView, box: Box, is_full_range: bool) -> np.ndarray:
        """The pixels of a part of the image that get coded: (H, W) luma, or (H, W, 3)."""
        convert = partial(luma, full_range=is_full_range) if self.config.channels == 1 else None
        return image.cut(box.slices, convert)

    def _place(self, shape: tuple[int, ...], rng: np.random.Generator) -> Box:
        size = self.config.patch_size_px
        step = self._unit_px if rng.random() < self.config.aligned_share else 1
        top, left = (int(rng.integers((side - size) // step + 1)) * step for side in shape[:2])
        return Box(top, left, size, size)

    def _draw_range(self, rng: np.random.Generator) -> bool:
        return bool(rng.random() < self.config.full_range_share)

    @staticmethod
    def _draw(qualities: Sequence[int], rng: np.random.Generator) -> int:
        """One of the qualities, as `rng.choice` draws it, but without turning the list into an array each time."""
        return qualities[int(rng.integers(len(qualities)))]


class RestorationPatches(Patches):
    """Stage 2: a degraded patch and the clean one.

    Item (epoch, index) is {"degraded": (C, P, P) uint8, "clean": (C, P, P) uint8, "quality": int}. The quality is the
    one drawn: of the first coding, if there are two. It has no meaning for a patch that is not coded.

    Args:
        stores, config, seed: as `Patches`.
        histories: what happens to the patches besides one coding.

    Raises:
        ValueError: as `Patches`.
    """

    def __init__(
        self,
        stores: Sequence[PixelStore],
        config: DataConfig,
        histories: HistoriesConfig | None = None,
        *,
        seed: int,
    ) -> None:
        super().__init__(stores, config, seed=seed)
        self.histories = histories or HistoriesConfig()
        self.second_qualities = expand_qualities(self.histories.second_qualities, key="histories.second_qualities")

    def __getitem__(self, position: tuple[int, int]) -> dict:
        image, quality, rng = self._start(*position)
        is_full_range = self._draw_range(rng)
        codings = self._codings(quality, image.shape, rng)
        degraded, clean = self._coded_patch(image, codings, is_full_range, rng)
        return {"degraded": degraded, "clean": clean, "quality": quality}

    def _codings(self, quality: int, shape: tuple[int, ...], rng: np.random.Generator) -> list[Coding]:
        """The codings of an image of this shape: none, one or two."""
        if self.histories.is_plain:  # no random number is drawn: a recipe without histories keeps its stream of samples
            return [Coding(quality)]
        if rng.random() < self.histories.clean_share:
            return []
        codings = [self._encoder(Coding(quality), rng)]
        if rng.random() < self.histories.double_share:
            second = Coding(self._draw(self.second_qualities, rng), shift=self._shift(shape, rng, below=self._unit_px))
            codings.append(self._encoder(second, rng))
        return codings

    def _encoder(self, coding: Coding, rng: np.random.Generator) -> Coding:
        """The coding by an encoder that is drawn: perhaps with full chroma, perhaps with tables of its own."""
        full_chroma = bool(rng.random() < self.histories.full_chroma_share)
        is_foreign = rng.random() < self.histories.foreign_tables_share
        tables = foreign_tables(coding.quality, rng) if is_foreign else None
        return coding._replace(full_chroma=full_chroma, tables=tables)


def open_training_stores(config: DataConfig, root: Path) -> list[PixelStore]:
    """The packs of `config.train` under `root`; refuses BSDS500 images that are not of the train split.

    Raises:
        FileNotFoundError, ValueError: as `list_training_images`; ValueError also if an image is broken.
    """
    list_training_images(config, root)
    skips = config.on_error == "skip"
    return [open_store(root / folder, config.pack_dir, skips_unreadable=skips) for folder in config.train]


def list_training_images(config: DataConfig, root: Path) -> list[Path]:
    """The files of `config.train` under `root`. None is read.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if a folder is empty, or holds images of BSDS500's val or test split.
    """
    images = [image for folder in config.train for image in list_images(root / folder)]
    refuse_other_split(images, "train")
    return images


def open_validation_store(config: DataConfig, root: Path, *, num_images: int | None = None) -> PixelStore:
    """The pack of `config.val` under `root`, its first images; refuses BSDS500 images that are not of the val split.

    Raises:
        FileNotFoundError, ValueError: as `open_training_stores`.
    """
    folder = root / config.val
    refuse_other_split(list_images(folder), "val")
    return open_store(folder, config.pack_dir).first(num_images)


def as_planes(image: np.ndarray) -> Tensor:
    """(H, W) or (H, W, C) to (C, H, W), copied."""
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes))  # a copy: decoded pixels are read-only
