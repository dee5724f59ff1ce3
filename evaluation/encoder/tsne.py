"""The points of the paper's Fig. 2: t-SNE of representations. An encoder that reads qualities makes clusters.

There are four panels. (a) and (b) show qualities 10, 20, ..., 100; the paper does not say how they differ. Here (a) has
crops off the JPEG grid. (b) has crops on it, where the fixed phase of the blocks makes quality easier to see. (c) shows
the qualities between, 5, 15, ..., 95, off the grid. (d) shows photos of unknown quality among the crops of (a).

Source: Fig. 2 of the paper; van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.manifold import TSNE
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from common.files import written_whole
from cqe.quality import as_seen
from data.images import read_rgb
from evaluation.encoder.crops import Drawing, check_room, draw_crops
from evaluation.encoder.neighbours import represent
from evaluation.scores.image_sets import ImageSet

SEEN = tuple(range(10, 101, 10))
UNSEEN = tuple(range(5, 96, 10))
PHOTO = 0  # stands for the unknown quality of a photo; no JPEG quality has this number
PHOTO_CROPS = 4
THUMBNAIL_PX = 32  # side of the middle of a crop; shrinking the whole crop would hide the artifacts


class Panel(NamedTuple):
    """One embedding of N crops: their labels, pixels, representations and places."""

    letter: str
    title: str
    condition: str  # of `evaluation.encoder.crops`; of a panel with photos, that of the other crops
    names: list[str]  # N image names
    qualities: np.ndarray  # (N,) int64, `PHOTO` for unknown
    pixels: Tensor  # (N, C, S, S) uint8
    rows: Tensor  # (N, D), unit length
    points: np.ndarray  # (N, 2)


def embed_panels(
    encoder: nn.Module,
    images: ImageSet,
    photos: ImageSet | None,
    color_mode: str,
    *,
    drawing: Drawing,
    perplexity: float = 30,
) -> list[Panel]:
    """The panels of Fig. 2, without (d) where there are no photos.

    Args:
        encoder: in eval mode.
        images: they are coded at the qualities; one crop of each image at each quality.
        photos: JPEG files as they are; `PHOTO_CROPS` crops of each, from any place.
        color_mode: "gray" or "color".
        drawing: how the crops, of one size, are drawn. t-SNE uses its seed too.
        perplexity: of t-SNE, below the number of crops of a panel.

    Raises:
        ValueError: if the perplexity is too large, or if an image cannot be read, has other channels or is too small.
    """
    num_crops = len(images.paths) * len(SEEN)
    if perplexity >= num_crops:
        raise ValueError(
            f"the perplexity must be below the number of crops, {num_crops} ({len(images.paths)} image(s) at "
            f"{len(SEEN)} qualities), got {perplexity}; lower it, or give more images"
        )
    (size_px,) = drawing.sizes_px
    photo_crops = (
        _photo_crops(photos, color_mode, drawing) if photos else None
    )  # first: an unfit photo stops everything
    grid = "8x8" if color_mode == "gray" else "16x16"
    panels = []
    for letter, condition, qualities, title in (
        ("a", "offgrid", SEEN, "Q10 to Q100, crops off the 8x8 grid"),
        ("b", "aligned", SEEN, f"Q10 to Q100, crops on the {grid} grid"),
        ("c", "unseen", UNSEEN, "Q5 to Q95: qualities between"),
    ):
        crops = draw_crops(images, color_mode, condition, qualities, drawing)[size_px]
        names, pixels = [images.paths[index].stem for index in crops.images], _as_batch(crops.pixels)
        rows = represent(encoder, pixels)
        points = tsne(rows, perplexity=perplexity, seed=drawing.seed)
        panels.append(Panel(letter, title, condition, names, crops.qualities, pixels, rows, points))
    if photo_crops:
        seen, (names, pixels) = panels[0], photo_crops
        rows = torch.cat([seen.rows, represent(encoder, pixels)])
        points = tsne(rows, perplexity=perplexity, seed=drawing.seed)
        qualities = np.append(seen.qualities, np.full(len(names), PHOTO))
        pixels = torch.cat([seen.pixels, pixels])
        title = "Photos of unknown quality among the crops of (a)"
        panels.append(Panel("d", title, seen.condition, seen.names + names, qualities, pixels, rows, points))
    return panels


def tsne(rows: Tensor, *, perplexity: float, seed: int) -> np.ndarray:
    """(N, D) rows of unit length -> (N, 2) places. For unit rows, Euclidean and cosine distance have one order."""
    method = TSNE(n_components=2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    return method.fit_transform(rows.numpy())


def describe(panels: Sequence[Panel]) -> list[dict]:
    """Every point of every panel, for JSON; the quality of a photo is null."""
    return [
        {
            "panel": panel.letter,
            "title": panel.title,
            "condition": panel.condition,
            "points": [
                {"image": name, "quality": None if quality == PHOTO else int(quality), "x": float(x), "y": float(y)}
                for name, quality, (x, y) in zip(panel.names, panel.qualities, panel.points, strict=True)
            ],
        }
        for panel in panels
    ]


def check_projector(folder: str | Path) -> None:
    """Refuse a folder for `write_projector` that holds something. Raises ValueError."""
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder; name a new one for TensorBoard's projector")


def write_projector(folder: str | Path, panels: Sequence[Panel]) -> None:
    """Write the representations for TensorBoard's projector (`tensorboard --logdir folder`), all or nothing.

    Each panel is one embedding. Each crop has its quality, the name of its image and a picture of its middle. Errors as
    `check_projector`.
    """
    check_projector(folder)
    Path(folder).absolute().parent.mkdir(parents=True, exist_ok=True)
    with written_whole(folder) as working, SummaryWriter(working) as writer:
        for panel in panels:
            labels = ["photo" if quality == PHOTO else str(quality) for quality in panel.qualities]
            writer.add_embedding(
                panel.rows,
                metadata=list(zip(labels, panel.names, strict=True)),
                metadata_header=["quality", "image"],
                label_img=_thumbnails(panel.pixels),
                tag=f"{panel.letter}_{panel.condition}{'_photos' if PHOTO in panel.qualities else ''}",
            )


def _photo_crops(photos: ImageSet, color_mode: str, drawing: Drawing) -> tuple[list[str], Tensor]:
    """Names and (N, C, S, S) uint8 crops of photos as they are. Luma has JFIF's range, in which photos are coded."""
    (size_px,) = drawing.sizes_px
    names, crops = [], []
    for index, path in enumerate(photos.paths):
        image = as_seen(read_rgb(path), 1 if color_mode == "gray" else 3)
        check_room(path, image.shape, "aligned", size_px, drawing)
        rng = np.random.default_rng([drawing.seed, index])
        for _ in range(PHOTO_CROPS):
            top, left = (int(rng.integers(side - size_px + 1)) for side in image.shape[:2])
            crops.append(image[top : top + size_px, left : left + size_px])
            names.append(path.name)
    return names, _as_batch(np.stack(crops))


def _as_batch(pixels: np.ndarray) -> Tensor:
    """(N, S, S) or (N, S, S, 3) -> (N, C, S, S), uint8."""
    return torch.from_numpy(pixels[:, None] if pixels.ndim == 3 else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def _thumbnails(pixels: Tensor) -> Tensor:
    """(N, C, S, S) uint8 -> (N, 3, s, s) in [0, 1], the middle of each."""
    side = min(THUMBNAIL_PX, pixels.shape[-1])
    first = (pixels.shape[-1] - side) // 2
    middle = pixels[..., first : first + side, first : first + side]
    return middle.expand(-1, 3, -1, -1).float() / 255
