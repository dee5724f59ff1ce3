"""The scores of a study: every kind of representation on every set under every condition, and their tables."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from evaluation.encoder.crops import Crops, draw_crops
from evaluation.encoder.linear_probes import Probes, clustering, fit_probes, probe_scores, reencoded_quality
from evaluation.encoder.neighbours import content_check, knn_quality, knn_quality_of_readings
from evaluation.encoder.study import Plan, describe, listed
from evaluation.report import NO_VALUE, Section
from evaluation.scores.image_sets import ImageSet

COLUMNS = {  # key in the results -> heading and decimals
    "knn_accuracy": ("kNN acc.", 3),
    "knn_mae": ("kNN error", 2),
    "probe_accuracy": ("probe acc.", 3),
    "quality_mae": ("quality MAE", 2),
    "silhouette": ("silhouette", 3),
    "calinski_harabasz": ("Calinski-H.", 1),
    "same_image_distance": ("same image", 4),
    "same_quality_distance": ("same quality", 4),
    "content_ratio": ("ratio", 3),
    "num_crops": ("crops", 0),
}

EncoderRunner = Callable[[nn.Module, Tensor], Tensor]  # (encoder, uint8 crops (N, C, S, S)) -> representations (N, D)


def measure(
    encoders: Mapping[str, nn.Module],
    read: EncoderRunner,
    sets: Sequence[ImageSet],
    probe_images: ImageSet | None,
    plan: Plan,
    *,
    name: str,
    with_reencode: bool,
) -> dict:
    """All scores.

    Args:
        encoders: by kind.
        read: runs an encoder.
        sets: the tested sets.
        probe_images: images that probes are fitted on; None where there are no encoders.
        name: the name of the encoder in the result.
        with_reencode: whether `reencode` is measured beside the encoders.

    Returns:
        {"encoder", "channels", "protocol", "results": {set: {condition: {kind: {metric: value}}}}, "crop_sizes":
        {size in pixels: the same}}, the sizes as strings; "results" are those of the first.

    Raises:
        ValueError: if a representation is not finite.
    """

    def rows_of(crops: Crops) -> dict[str, Tensor]:
        pixels = crops.pixels if crops.pixels.ndim == 4 else crops.pixels[..., None]
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (N, S, S, C) -> (N, C, S, S)
        return {kind: _checked(read(encoder, images), kind) for kind, encoder in encoders.items()}

    @cache
    def probes_at(condition: str, qualities: tuple[int, ...]) -> dict[tuple[int, str], Probes]:
        """By crop size and kind; one fit serves all sets."""
        drawn = draw_crops(probe_images, plan.color_mode, condition, qualities, plan.drawing) if encoders else {}
        return {
            (size_px, kind): fit_probes(rows.double().numpy(), crops.qualities, crops.images)
            for size_px, crops in drawn.items()
            for kind, rows in rows_of(crops).items()
        }

    def probes_for(condition: str) -> dict[tuple[int, str], Probes]:
        if condition != "unseen":
            return probes_at(condition, plan.qualities)
        seen = probes_at("offgrid", plan.qualities)
        return {key: Probes(new.classifier, seen[key].ridge) for key, new in probes_at("offgrid", plan.unseen).items()}

    by_size: dict[str, dict] = {str(size_px): {name: {} for name, _ in sets} for size_px in plan.drawing.sizes_px}
    cases = list(product(plan.conditions, sets))
    for condition, image_set in tqdm(cases, desc="represent", unit="set", disable=None):
        tested, probes = plan.tested(condition), probes_for(condition)
        for size_px, crops in draw_crops(image_set, plan.color_mode, condition, tested, plan.drawing).items():
            scores = {kind: score_rows(rows, probes[size_px, kind], crops) for kind, rows in rows_of(crops).items()}
            if with_reencode:
                readings = reencoded_quality(crops.pixels, tested, workers=plan.drawing.workers)
                scores["reencode"] = score_readings(readings, crops, seed=plan.drawing.seed)
            by_size[str(size_px)][image_set.name][condition] = scores
    return {
        "encoder": name,
        "channels": plan.color_mode,
        "protocol": describe(plan, probe_images, [*encoders, *["reencode"] * with_reencode]),
        "results": by_size[str(plan.drawing.sizes_px[0])],
        "crop_sizes": by_size,
    }


def score_rows(rows: Tensor, probes: Probes, crops: Crops) -> dict[str, float]:
    """The scores of representations (N, D). Probes read them as they are; everything else uses rows of unit length."""
    qualities, images = torch.from_numpy(crops.qualities), torch.from_numpy(crops.images)
    unit = F.normalize(rows.double(), dim=1)
    return {
        **knn_quality(unit, qualities, images),
        **probe_scores(probes, rows.double().numpy(), crops.qualities),
        **clustering(unit.numpy(), crops.qualities),
        **content_check(1 - unit @ unit.T, qualities, images),
        "num_crops": len(rows),
    }


def score_readings(readings: np.ndarray, crops: Crops, *, seed: int) -> dict[str, float]:
    """The same for one number an image: it is estimate and representation, and distances are absolute differences."""
    qualities, images = torch.from_numpy(crops.qualities), torch.from_numpy(crops.images)
    numbers = torch.from_numpy(readings).double()
    return {
        **knn_quality_of_readings(numbers, qualities, images, seed=seed),
        "probe_accuracy": float(np.mean(readings == crops.qualities)),
        "quality_mae": float(np.mean(np.abs(readings - crops.qualities))),
        **clustering(numbers.numpy()[:, None], crops.qualities),
        **content_check((numbers[:, None] - numbers).abs(), qualities, images),
        "num_crops": len(readings),
    }


def sections(result: Mapping) -> list[Section]:
    """A table for each set and crop size of `measure`'s result; a row for each condition and kind."""
    protocol = result["protocol"]
    header = ["condition", "representation", *(heading for heading, _ in COLUMNS.values())]
    tables = []
    for size_px, sets in result["crop_sizes"].items():
        for set_name, conditions in sets.items():
            rows = [
                [condition, kind, *(_cell(scores[key], decimals) for key, (_, decimals) in COLUMNS.items())]
                for condition, kinds in conditions.items()
                for kind, scores in kinds.items()
            ]
            title = f"{result['encoder']}, {result['channels']}, {set_name}, {size_px}-pixel crops"
            tables.append(Section(title, [header, *rows], _notes(protocol)))
    return tables


def _notes(protocol: Mapping) -> list[str]:
    notes = []
    for heading, key in (("qualities", "qualities"), ("unseen qualities", "unseen_qualities")):
        conditions = [name for name in protocol["chance"] if (name == "unseen") == (key == "unseen_qualities")]
        if conditions:
            chance = protocol["chance"][conditions[0]]
            guessed = f"accuracy {chance['accuracy']:.3f}, quality MAE {chance['quality_mae']:.1f}"
            notes.append(f"{heading} {listed(protocol[key])}; chance: {guessed}")
    if protocol["probe_images"]:
        folder, count = protocol["probe_images"]["folder"], protocol["probe_images"]["images"]
        notes.append(f"probes (probe acc., quality MAE) fitted on {count} images of {folder}, under the same condition")
    notes.append("same image: distance of one image at two qualities; same quality: of two images at one quality; ")
    notes[-1] += "ratio: the second over the first, below 1 quality outweighs content"
    return notes


def _checked(rows: Tensor, kind: str) -> Tensor:
    if not rows.isfinite().all():
        raise ValueError(f"the representations of '{kind}' are not finite: its weights are damaged, or diverged")
    return rows


def _cell(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if np.isfinite(value) else "inf" if value > 0 else NO_VALUE
