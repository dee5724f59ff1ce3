"""How well a representation tells qualities apart: nearest neighbours from other images, and a check on content."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cqe.quality import raw_rows
from data.color import luma, to_tensor
from data.jpeg import Box, jpeg_roundtrip, surroundings
from data.store import PixelStore


def quality_crops(
    store: PixelStore, qualities: Sequence[int], *, channels: int, crop_size_px: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """One crop of every image at every quality. Each has its own random place, hardly ever on the coding grid.

    Returns:
        crops (N, C, crop_size_px, crop_size_px) in [0, 1], their qualities (N,), the index of their image (N,).

    Raises:
        ValueError: if an image is smaller than the crop.
    """
    rng = np.random.default_rng(seed)
    crops, labels, images = [], [], []
    for index in range(len(store)):
        image = store[index] if channels == 3 else luma(store[index])
        if min(image.shape[:2]) < crop_size_px:
            raise ValueError(f"{store.names[index]} is smaller than the {crop_size_px}-pixel crops")
        for quality in qualities:
            top, left = (int(rng.integers(side - crop_size_px + 1)) for side in image.shape[:2])
            box = Box(top, left, crop_size_px, crop_size_px)
            around = surroundings(box, image.shape)
            coded = jpeg_roundtrip(np.ascontiguousarray(image[around.slices]), quality)
            crops.append(to_tensor(coded[box.within(around).slices]))
            labels.append(quality)
            images.append(index)
    return torch.stack(crops), torch.tensor(labels), torch.tensor(images)


def represent(encoder: nn.Module, crops: Tensor, *, batch_size: int = 32) -> Tensor:
    """Representations of unit length: (N, C, H, W) -> (N, D) float32 on the CPU. Otherwise as `raw_rows`."""
    return F.normalize(raw_rows(encoder, crops, batch_size=batch_size), dim=1)


def knn_quality(
    representations: Tensor, qualities: Tensor, images: Tensor, *, num_neighbours: int = 5
) -> dict[str, float]:
    """Quality read off the nearest neighbours, by cosine, among the rows of other images.

    Args:
        representations: (N, D), rows of unit length.
        qualities, images, num_neighbours: as in `vote`.

    Returns, raises: as `vote`.
    """
    return vote(-representations @ representations.T, qualities, images, num_neighbours=num_neighbours)


def knn_quality_of_readings(
    readings: Tensor, qualities: Tensor, images: Tensor, *, num_neighbours: int = 5, seed: int = 0
) -> dict[str, float]:
    """The same for one number an image, by absolute difference.

    Many readings are equal. The rows are put in random order first, so that the order of the qualities does not decide
    between equal ones.

    Args:
        readings: (N,).
        qualities, images, num_neighbours: as in `vote`.

    Returns, raises: as `vote`.
    """
    order = torch.randperm(len(readings), generator=torch.Generator().manual_seed(seed))
    readings, qualities, images = readings[order].double(), qualities[order], images[order]
    return vote((readings[:, None] - readings).abs(), qualities, images, num_neighbours=num_neighbours)


def vote(distances: Tensor, qualities: Tensor, images: Tensor, *, num_neighbours: int = 5) -> dict[str, float]:
    """Quality read off the nearest rows of other images.

    Args:
        distances: (N, N) floating point, between the rows, or any increasing function of the distances.
        qualities: (N,) labels.
        images: (N,) the image of each row; neighbours of the same image do not count.
        num_neighbours: how many vote; fewer where the other images have fewer rows. Ties go to the lower quality.

    Returns:
        "knn_accuracy": share of rows whose neighbours' most frequent quality is theirs.
        "knn_mae": mean absolute difference of the neighbours' mean quality and theirs, in quality points.

    Raises:
        ValueError: if all rows are of one image.
    """
    is_same_image = images[:, None] == images[None, :]  # (N, N)
    num_others = int((~is_same_image).sum(dim=1).min())
    if num_others == 0:
        raise ValueError("neighbours must be of other images, but all crops are of one: validate on two images or more")
    others = distances.masked_fill(is_same_image, torch.inf)  # (N, N)
    nearest = qualities[others.topk(min(num_neighbours, num_others), dim=1, largest=False).indices]  # (N, voters)
    voted = nearest.mode(dim=1).values
    return {
        "knn_accuracy": (voted == qualities).float().mean().item(),
        "knn_mae": (nearest.float().mean(dim=1) - qualities).abs().mean().item(),
    }


def content_check(distances: Tensor, qualities: Tensor, images: Tensor) -> dict[str, float]:
    """Whether the content of an image weighs more than its quality: the distances of two kinds of pairs.

    Args:
        distances: (N, N) between the rows: 1 - cosine of representations, absolute difference of readings.
        qualities, images: (N,) labels.

    Returns:
        "same_image_distance": mean over pairs of one image at two qualities.
        "same_quality_distance": mean over pairs of two images at one quality.
        "content_ratio": the second divided by the first. 0: only quality counts. Below 1: quality outweighs content.
            Large: only content counts. Infinite, or not a number, where the first is 0.
    """
    is_same_image, is_same_quality = (labels[:, None] == labels[None, :] for labels in (images, qualities))
    same_image = distances[is_same_image & ~is_same_quality].mean()
    same_quality = distances[~is_same_image & is_same_quality].mean()
    return {
        "same_image_distance": same_image.item(),
        "same_quality_distance": same_quality.item(),
        "content_ratio": (same_quality / same_image).item(),  # tensors: 0 / 0 gives a value and no exception
    }
