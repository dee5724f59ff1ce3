"""The plan of a study of an encoder: which sets of images, conditions and qualities are measured.

Neighbours, clusters and the content check use the tested set alone. Probes are fitted on other images, the probe
images, under the same condition, and then read the tested set.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.images import list_images
from evaluation.encoder.crops import CONDITIONS, Drawing, check_room
from evaluation.scores.image_sets import ImageSet, read_clean

KINDS = {
    "encoder": "the encoder named",
    "untrained": "its architecture with fresh weights from the seed",
    "supervised": "its architecture trained with labels",
    "reencode": "no network: the quality, of those tested, at which coding the crop once more changes it least; "
    "this one number is representation and estimate, distances are absolute differences",
}
SCORES = {  # in the results of a kind of representation
    "knn_accuracy, knn_mae": "the 5 nearest (cosine) among the crops of the set's other images: their most frequent "
    "quality, their mean",
    "probe_accuracy": "logistic regression (C=1) on the standardised representation, fitted on the probe images under "
    "the same condition and at the same qualities",
    "quality_mae": "ridge regression likewise, its strength by 5-fold cross-validation over the probe images, "
    "estimates clipped to 1..100; under unseen fitted at the qualities, not at the unseen ones",
    "silhouette, calinski_harabasz": "of the qualities, on rows of unit length",
    "same_image_distance, same_quality_distance": "mean cosine distance of one image at two qualities, of two images "
    "at one quality",
    "content_ratio": "the second over the first: below 1, quality outweighs content",
}
IMAGES = {"gray": "MATLAB Y (16..235) of colour images, gray ones as stored", "color": "RGB, coded as 4:2:0"}


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        color_mode: "gray" or "color".
        conditions: of `CONDITIONS`.
        qualities: that are to be told apart.
        unseen: those tested under `unseen`; the ridge probe is fitted at `qualities` there.
        drawing: of the crops.

    Raises:
        ValueError: if there are fewer than two qualities of a kind, or unseen ones among the others.
    """

    color_mode: str
    conditions: tuple[str, ...]
    qualities: tuple[int, ...]
    unseen: tuple[int, ...]
    drawing: Drawing

    def __post_init__(self) -> None:
        if len(self.qualities) < 2:
            raise ValueError(f"two or more qualities are needed, to be told apart; got {listed(self.qualities)}")
        if "unseen" in self.conditions:
            if len(self.unseen) < 2:
                raise ValueError(
                    f"condition 'unseen' needs two or more unseen qualities, got {listed(self.unseen)} beside "
                    f"{listed(self.qualities)}; name some, or leave the condition out"
                )
            if common := sorted(set(self.qualities) & set(self.unseen)):
                raise ValueError(
                    f"the unseen qualities {listed(common)} are among the other qualities, so they are not unseen"
                )

    def tested(self, condition: str) -> tuple[int, ...]:
        """The qualities that are read under a condition."""
        return self.unseen if condition == "unseen" else self.qualities


def open_probe_images(folder: str | Path) -> ImageSet:
    """The images that probes are fitted on.

    Raises:
        FileNotFoundError, ValueError: if the folder is missing, holds no image, or only one.
    """
    try:
        paths = list_images(folder)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"the probes need images to be fitted on: {error}") from None
    if len(paths) < 2:
        raise ValueError(f"{folder} holds one image, the probes need two or more; name another folder of probe images")
    return ImageSet("/".join(Path(folder).absolute().parts[-2:]), paths)


def check_images(sets: Sequence[ImageSet], probe_images: ImageSet | None, plan: Plan) -> None:
    """Read every image once, so that an unfit one stops the run before any work.

    Raises:
        ValueError: if an image cannot be read, is gray where colour is asked for, or is too small for the crops; if a
            set has one image; if an image is both tested and among the probe images, whatever the files are called.
    """
    probed = {_digest(path, plan): path for path in probe_images.paths} if probe_images else {}
    for name, paths in sets:
        if len(paths) < 2:
            raise ValueError(f"{name} has one image; neighbours are of other images, so two or more are needed")
        for path in paths:
            if same := probed.get(_digest(path, plan)):
                raise ValueError(
                    f"{path} is tested and is also a probe image ({same}); probes must not be fitted on what they are "
                    f"tested on, so name another folder of probe images"
                )


def describe(plan: Plan, probe_images: ImageSet | None, kinds: Sequence[str]) -> dict:
    """Everything that decides the scores, apart from weights and libraries, in words and numbers, for the JSON."""
    drawing = plan.drawing
    return {
        "images": IMAGES[plan.color_mode],
        "qualities": list(plan.qualities),
        "unseen_qualities": list(plan.unseen) if "unseen" in plan.conditions else [],
        "crop_sizes_px": list(drawing.sizes_px),
        "crops": f"{drawing.crops_per_image} of each image at each quality, each at a random place of its own",
        "seed": drawing.seed,
        "second_quality": drawing.second_quality,
        "scale": drawing.scale,
        "conditions": {condition: CONDITIONS[condition] for condition in plan.conditions},
        "kinds": {kind: KINDS[kind] for kind in kinds},
        "probe_images": {"folder": probe_images.name, "images": len(probe_images.paths)} if probe_images else None,
        "metrics": SCORES,
        "chance": {condition: chance(plan.tested(condition)) for condition in plan.conditions},
    }


def chance(qualities: Sequence[int]) -> dict[str, float]:
    """The scores of a reader that knows nothing: accuracy of a guess, mean error of always answering the middle."""
    error = float(np.mean(np.abs(np.array(qualities) - np.median(qualities))))
    return {"accuracy": 1 / len(qualities), "quality_mae": error}


def listed(qualities: Sequence[int]) -> str:
    """Qualities as words: `10, 20, 30`."""
    return ", ".join(map(str, qualities)) or "none"


def _digest(path: Path, plan: Plan) -> bytes:
    """A digest of an image's pixels; refuses an image without room for the crops."""
    image = read_clean(path, plan.color_mode)
    for condition in plan.conditions:
        for size_px in plan.drawing.sizes_px:
            check_room(path, image.shape, condition, size_px, plan.drawing)
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
