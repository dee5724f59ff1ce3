"""What the tests of both training sets share: noise to cut patches from, packing it, and finding a patch again."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from data.augment import NUM_SYMMETRIES, symmetry
from data.color import luma
from data.config import DataConfig
from data.store import PixelStore, open_store


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def three_images() -> list[np.ndarray]:
    return [noise(38, 45, seed=1), noise(33, 60, seed=2), noise(41, 41, seed=3)]  # off the grid on all sides


def pack_images(folder: Path, *images: np.ndarray) -> PixelStore:
    """Packs the given images as 0.png, 1.png, ..."""
    (folder / "set").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / "set" / f"{index}.png")
    return open_store(folder / "set", folder / "packs")


def settings(**given: object) -> DataConfig:
    defaults = {"patch_size_px": 16, "qualities": ["5..95"], "aligned_share": 0.5, "batch_size": 2, "num_workers": 0}
    return DataConfig(**(defaults | given))


def wholes(images: Iterable[np.ndarray], *, channels: int, full_range: bool = False) -> Iterator[np.ndarray]:
    """Every symmetry of every image, as the plane or planes that get coded."""
    for image in images:
        for index in range(NUM_SYMMETRIES):
            turned = np.ascontiguousarray(symmetry(image, index))
            yield turned if channels == 3 else luma(turned, full_range=full_range)


def corners(patch: Tensor, image: np.ndarray) -> set[tuple[int, int]]:
    """Where in an image a patch of it lies: (C, P, P) in (H, W) or (H, W, 3), as (top, left)."""
    wanted = patch.permute(1, 2, 0).numpy().reshape(*patch.shape[1:], *image.shape[2:])  # (P, P) or (P, P, 3)
    size = len(wanted)
    begins_alike = image[: 1 - size or None, : 1 - size or None] == wanted[0, 0]
    if image.ndim == 3:
        begins_alike = begins_alike.all(axis=2)
    places = ((int(top), int(left)) for top, left in np.argwhere(begins_alike))
    return {(top, left) for top, left in places if np.array_equal(image[top : top + size, left : left + size], wanted)}


def all_patches(image: np.ndarray, size: int) -> Iterator[bytes]:
    """Every square of an image, as `patch_bytes` gives it: for looking many patches up in many images."""
    for top in range(image.shape[0] - size + 1):
        for left in range(image.shape[1] - size + 1):
            yield image[top : top + size, left : left + size].tobytes()


def patch_bytes(patch: Tensor) -> bytes:
    """The pixels of a (C, P, P) patch in the order of an image."""
    return patch.permute(1, 2, 0).contiguous().numpy().tobytes()
