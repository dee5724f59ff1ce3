"""How well a representation tells compression qualities apart: nearest neighbours among other images."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from data.color import luma, to_tensor
from data.jpeg import Box, compress, surroundings
from data.store import PixelStore


def quality_crops(
    store: PixelStore, qualities: Sequence[int], *, channels: int, crop_size_px: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """One off-grid crop of every image at every quality, at a place of its own.

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
            coded = compress(np.ascontiguousarray(image[around.slices]), quality)
            crops.append(to_tensor(coded[box.within(around).slices]))
            labels.append(quality)
            images.append(index)
    return torch.stack(crops), torch.tensor(labels), torch.tensor(images)


@torch.no_grad()
def represent(encoder: nn.Module, crops: Tensor, *, batch_size: int = 32) -> Tensor:
    """Representations of unit length: (N, C, H, W) -> (N, D) float32 on the CPU."""
    device = next(encoder.parameters()).device
    parts = [encoder(part.to(device))[0].float().cpu() for part in crops.split(batch_size)]
    return nn.functional.normalize(torch.cat(parts), dim=1)


def knn_quality(
    representations: Tensor, qualities: Tensor, images: Tensor, *, num_neighbours: int = 5
) -> dict[str, float]:
    """Quality read off the nearest neighbours that belong to other images.

    Args:
        representations: (N, D), rows of unit length.
        qualities: (N,) labels.
        images: (N,) which image each row is of; neighbours of the same image do not count.
        num_neighbours: how many vote, fewer where the other images have no more rows; ties go to the lower quality.

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
    similarity = (representations @ representations.T).masked_fill(is_same_image, -torch.inf)  # (N, N)
    nearest = qualities[similarity.topk(min(num_neighbours, num_others), dim=1).indices]  # (N, voters)
    voted = nearest.mode(dim=1).values
    return {
        "knn_accuracy": (voted == qualities).float().mean().item(),
        "knn_mae": (nearest.float().mean(dim=1) - qualities).abs().mean().item(),
    }
