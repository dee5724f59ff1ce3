"""Stage 1's training samples: pairs of patches of one image and one quality."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.augment import SymmetryView
from data.config import DataConfig, PairsConfig, expand_qualities
from data.jpeg import COLOR_UNIT_PX, LUMA_UNIT_PX, Box, jpeg_roundtrip
from data.patches import Patches, as_planes
from data.recompression import double_jpeg, resized
from data.store import PixelStore

MARGIN_PX = 32  # a region with a history is this much larger than its patch, so the patch can lie anywhere in it


class ContrastivePatches(Patches):
    """Pairs of patches. Both patches of a pair come from one coded image, so they have one quality.

    Different samples come from different images. Item (epoch, index) is {"query": (n, C, P, P) uint8, "key": (n, C, P,
    P) uint8, "quality": (n,) int64}; n is the number of qualities per image. Source: Sec. 3.1 of the paper, where n is
    1 and patches have no history.

    Args:
        stores: packed images.
        config: patch size, qualities and shares.
        pairs: qualities per image and histories.
        seed: the run's seed; every sample's random generator starts from it.

    Raises:
        ValueError: if an image is too small (it is named), or if there are fewer qualities than one image needs.
    """

    def __init__(
        self, stores: Sequence[PixelStore], config: DataConfig, pairs: PairsConfig | None = None, *, seed: int
    ) -> None:
        super().__init__(stores, config, seed=seed)
        self.pairs = pairs or PairsConfig()
        self.second_qualities = expand_qualities(self.pairs.second_qualities, key="pairs.second_qualities")
        if self.pairs.qualities_per_image > len(set(self.qualities)):
            raise ValueError(
                f"pairs.qualities_per_image is {self.pairs.qualities_per_image}, but data.qualities has only "
                f"{len(set(self.qualities))} different ones"
            )

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Tensor]:
        image, quality, rng = self._start(*position)
        is_full_range = self._draw_range(rng)
        qualities = [quality]
        while len(qualities) < self.pairs.qualities_per_image:
            if (quality := self._draw(self.qualities, rng)) not in qualities:
                qualities.append(quality)
        pairs = [[self._with_history(image, quality, is_full_range, rng) for _ in range(2)] for quality in qualities]
        query, key = (torch.stack(patches) for patches in zip(*pairs, strict=True))
        return {"query": query, "key": key, "quality": torch.tensor(qualities)}

    def _with_history(self, image: SymmetryView, quality: int, is_full_range: bool, rng: np.random.Generator) -> Tensor:
        """A patch of the image, coded at this quality, and then perhaps coded again or resized."""
        doubled, shrunk = self.pairs.double_share, self.pairs.resized_share
        if doubled + shrunk == 0:  # no random number is drawn: a recipe without histories keeps its stream of samples
            return self._patch(image, quality, is_full_range, rng)[0]
        drawn = rng.random()
        if drawn >= doubled + shrunk:
            return self._patch(image, quality, is_full_range, rng)[0]
        return (
            self._doubled(image, quality, is_full_range, rng)
            if drawn < doubled
            else self._shrunk(image, quality, is_full_range, rng)
        )

    def _doubled(self, image: SymmetryView, quality: int, is_full_range: bool, rng: np.random.Generator) -> Tensor:
        size = self.config.patch_size_px
        region = self._region(image, size + MARGIN_PX, is_full_range, rng)
        shift = self._shift(region.shape, rng, below=LUMA_UNIT_PX)  # in colour as well, as `represent` measures
        second = self._draw(self.second_qualities, rng)
        return self._anywhere(double_jpeg(jpeg_roundtrip(region, quality), second, shift=shift), rng)

    def _shrunk(self, image: SymmetryView, quality: int, is_full_range: bool, rng: np.random.Generator) -> Tensor:
        size = self.config.patch_size_px
        smallest = size / min(image.shape[:2])  # an image may have no room for the scale drawn
        scale = max(float(rng.uniform(*self.pairs.scales)), smallest)
        region = self._region(image, math.ceil(size / scale) + MARGIN_PX, is_full_range, rng)
        return self._anywhere(resized(jpeg_roundtrip(region, quality), scale), rng)

    def _region(self, image: SymmetryView, side: int, is_full_range: bool, rng: np.random.Generator) -> np.ndarray:
        """A square of the image with its corner on the coding grid. Smaller images give less than a square."""
        height, width = (min(side, whole) for whole in image.shape[:2])
        rooms = (image.shape[0] - height, image.shape[1] - width)
        top, left = (int(rng.integers(room // COLOR_UNIT_PX + 1)) * COLOR_UNIT_PX for room in rooms)
        return self._cut(image, Box(top, left, height, width), is_full_range)

    def _anywhere(self, image: np.ndarray, rng: np.random.Generator) -> Tensor:
        """A patch of an image, at any place."""
        size = self.config.patch_size_px
        top, left = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
        return as_planes(image[Box(top, left, size, size).slices])
