"""The paper's Fig. 5: feature maps and Grad-CAM of one image at several qualities.

Grad-CAM explains one number. A classifier has a score for each class; this encoder has no classes. The number used here
is the cosine between the image's representation and the mean representation of its quality. The cosine ignores the
length of the representation, so the map has mean zero before its negative part is cut off. The map shows where the
image pulls towards its quality. It does not show how well the quality is recognised; the number itself does.

Source: Fig. 5 of the paper; Selvaraju et al., Grad-CAM, ICCV 2017, Eq. 1-2.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.color import to_tensor
from data.images import list_images
from data.jpeg import jpeg_roundtrip
from data.known_sets import measured_folders
from evaluation.encoder.crops import Drawing, draw_crops
from evaluation.encoder.neighbours import represent
from evaluation.scores.image_sets import ImageSet

MIN_SIDE_PX = 64  # E3 then has 8x8 places; with fewer there is nothing to see
CLIPPED_SHARE = 0.002  # of the brightest places of a row is clipped; a few at the border would darken all others

Score = Callable[[Tensor], Tensor]  # representation (1, D) -> what Grad-CAM explains, a scalar


class Column(NamedTuple):
    """One quality of the figure."""

    quality: int
    image: np.ndarray  # (H, W) or (H, W, 3) uint8, as coded at the quality
    maps: list[np.ndarray]  # of E0..E3, (H / 2^k, W / 2^k): mean absolute value over the channels
    cam: np.ndarray  # (H, W), >= 0: Grad-CAM of E3, bilinear
    score: float  # what it explains


def columns_of(
    encoder: nn.Module,
    clean: np.ndarray,
    qualities: Sequence[int],
    *,
    size_px: int,
    prototypes: Mapping[int, Tensor] | None = None,
) -> list[Column]:
    """The columns of Fig. 5. The image is coded at each quality, and its middle is encoded.

    Args:
        encoder: in eval mode.
        clean: (H, W) or (H, W, 3) uint8, of the encoder's channels.
        size_px: a longer side is cut to this size, equally at both ends.
        prototypes: by quality, from `quality_prototypes`. Without them, Grad-CAM explains the length of the
            representation.

    Raises:
        ValueError: as `check_size`.
    """
    check_size(clean, size_px)
    top, left = ((side - min(side, size_px)) // 2 for side in clean.shape[:2])
    device = next(encoder.parameters()).device
    columns = []
    for quality in qualities:
        image = jpeg_roundtrip(clean, quality)[top : top + size_px, left : left + size_px]
        score = resemblance(prototypes[quality].to(device)) if prototypes else torch.linalg.vector_norm
        features, cam, value = explain(encoder, to_tensor(image)[None].to(device), score)
        upsampled = F.interpolate(cam[None, None], image.shape[:2], mode="bilinear")[0, 0]
        columns.append(Column(quality, image, mean_magnitudes(features), upsampled.cpu().numpy(), value))
    return columns


def find_image(name: str | None, data_root: str | Path) -> Path:
    """An image by its file, or by set and stem under the data root; None is the first of LIVE1.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the set's folder holds no image.
    """
    known = measured_folders()
    if name is None:
        folder = Path(data_root) / known["live1"].path
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} does not exist; name an image, or the folder that holds the sets")
        return list_images(folder)[0]
    if Path(name).is_file():
        return Path(name)
    set_name, _, stem = name.rpartition("/")
    found = list_images(Path(data_root) / known[set_name].path) if set_name in known else []
    if stem not in (path.stem for path in found):
        raise FileNotFoundError(f"no image '{name}': neither a file nor SET/STEM, as in live1/bikes, under {data_root}")
    return next(path for path in found if path.stem == stem)


def check_size(clean: np.ndarray, size_px: int, *, name: str | Path = "the image") -> None:
    """Refuse an image or a cut with a side under `MIN_SIDE_PX`. Raises ValueError."""
    height, width = clean.shape[:2]
    if size_px < MIN_SIDE_PX:
        raise ValueError(f"the size must be at least {MIN_SIDE_PX} pixels, got {size_px}")
    if min(height, width) < MIN_SIDE_PX:
        raise ValueError(f"{name} is {width}x{height}; feature maps need sides of at least {MIN_SIDE_PX} pixels")


def quality_prototypes(
    encoder: nn.Module, images: ImageSet, qualities: Sequence[int], color_mode: str, drawing: Drawing
) -> dict[int, Tensor]:
    """The mean (D,) of the unit representations of off-grid crops, by quality. Errors as `draw_crops`."""
    crops = draw_crops(images, color_mode, "offgrid", qualities, drawing)[drawing.sizes_px[0]]
    rows = represent(encoder, torch.stack([to_tensor(pixels) for pixels in crops.pixels]))
    return {quality: rows[torch.from_numpy(crops.qualities == quality)].mean(dim=0) for quality in qualities}


def resemblance(prototype: Tensor) -> Score:
    """The cosine of a representation to a prototype (D,)."""
    return lambda representation: F.cosine_similarity(representation, prototype[None]).sum()


def explain(encoder: nn.Module, x: Tensor, score: Score) -> tuple[list[Tensor], Tensor, float]:
    """Run the encoder once. Returns its feature maps and, by Grad-CAM, the places in E3 that a score comes from.

    Args:
        encoder: maps (1, C, H, W) to (representation, [E0, ..., E3]). It may be frozen. The representation is a
            function of E3.
        x: (1, C, H, W) in [0, 1].

    Returns:
        E0..E3 without gradient history; Grad-CAM, (h, w), the size of E3, >= 0; and the score.
    """
    with torch.enable_grad():
        representation, features = encoder(x.detach().requires_grad_())
        value = score(representation)
        (gradient,) = torch.autograd.grad(value, features[-1])  # (1, K, h, w)
    weights = gradient.mean(dim=(2, 3))  # (1, K): Eq. 1
    cam = F.relu(torch.einsum("nk,nkhw->hw", weights, features[-1].detach()))  # Eq. 2
    return [feature.detach() for feature in features], cam, value.item()


def mean_magnitudes(features: Sequence[Tensor]) -> list[np.ndarray]:
    """(1, K, h, w) each -> (h, w): the mean absolute value over the channels."""
    return [feature[0].abs().mean(dim=0).cpu().numpy() for feature in features]


def upper_limit(maps: Sequence[np.ndarray]) -> float:
    """The value drawn white in a row of maps; only `CLIPPED_SHARE` of all places exceed it. Black is zero."""
    return float(np.quantile(np.concatenate([values.ravel() for values in maps]), 1 - CLIPPED_SHARE)) or 1.0


def describe(columns: Sequence[Column]) -> dict:
    """The numbers behind the figure, for JSON."""
    num_maps = len(columns[0].maps)
    return {
        "scales": {f"E{k}": [0.0, upper_limit([column.maps[k] for column in columns])] for k in range(num_maps)},
        "columns": [
            {
                "quality": column.quality,
                "score": column.score,
                "feature_means": {f"E{index}": float(values.mean()) for index, values in enumerate(column.maps)},
                "gradcam_maximum": float(column.cam.max()),
            }
            for column in columns
        ],
    }
