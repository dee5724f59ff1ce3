"""Shows whether a restoration network uses its encoder: its scores when the decoder gets other features.

The decoder reads the image and the feature maps E0..E3 that the encoder makes of it. Here the image stays the same and
the features are replaced, by one of these:

- features of the same image at another quality: wrong quality, right content;
- features of another image at the same quality: right quality, wrong content;
- its own features with their positions shuffled: right statistics, wrong places (nothing changes for a network with
  `fusion: representation`, which reads their mean);
- zeros.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.jpeg import jpeg_roundtrip
from evaluation.report import Section
from evaluation.scores.degradations import Case
from evaluation.scores.image_sets import ImageSet, read_clean
from evaluation.scores.protocol import OutputSource, evaluate
from restoration.fineness import fineness_of

FEATURE_SETS = {
    "own": "own",
    "other_quality": "own image at another quality",
    "other_image": "another image",
    "shuffled": "own, positions shuffled",
    "zero": "zero",
}

EncoderAnswer = tuple[Tensor, list[Tensor]]  # the output of an encoder: representation (N, D) and [E0, E1, E2, E3]
# (network, uint8 image, guide=uint8 image) -> uint8 image; all images of one shape
NetworkRunner = Callable[..., np.ndarray]


def evaluate_features(
    restorer: nn.Module,
    restore: NetworkRunner,
    sets: Sequence[ImageSet],
    qualities: Sequence[int],
    color_mode: str,
    *,
    method: str,
    wrong_qualities: Sequence[int] = (10, 90),
    seed: int = 0,
    workers: int = 1,
) -> dict:
    """Score a restorer with each of `FEATURE_SETS`, by `protocol.evaluate`. "own" gives its ordinary score.

    Args:
        restorer: as in `GuidedRestorer`.
        restore: runs a network on an image and its guide, in tiles or whole.
        color_mode: "gray" or "color".
        wrong_qualities: "other_quality" takes the one that is farthest from the quality of the image.
        seed: of the permutations in "shuffled"; at least 0.

    Returns:
        As `evaluate`, but "results" is {set: {quality: {feature set: scores}}}, and "features" holds the wrong
        qualities and the seed.

    Raises:
        ValueError: for a negative seed; or as `next_images`, `farthest` (both before any work) and `evaluate`.
    """
    if seed < 0:
        raise ValueError(f"the seed must be at least 0, got {seed}")
    next_of = next_images(sets, color_mode)
    wrong_of = {quality: farthest(quality, wrong_qualities) for quality in qualities}

    def itself(clean: np.ndarray, case: Case) -> np.ndarray:
        return jpeg_roundtrip(clean, case.quality)

    def at_wrong_quality(clean: np.ndarray, case: Case) -> np.ndarray:
        return jpeg_roundtrip(clean, wrong_of[case.quality])

    def next_image(clean: np.ndarray, case: Case) -> np.ndarray:
        # The size is changed before coding, so that the JPEG grid stays whole.
        other = read_clean(next_of[case.set_name, case.stem], color_mode)
        return jpeg_roundtrip(brought_to(other, clean.shape[:2]), case.quality)

    sources = {
        "own": (itself, unchanged),
        "other_quality": (at_wrong_quality, unchanged),
        "other_image": (next_image, unchanged),
        "shuffled": (itself, partial(shuffled, seed=seed)),
        "zero": (itself, zeroed),
    }
    measured = {}
    for name, (guide, change) in sources.items():
        produce = restored_with(guide, GuidedRestorer(restorer, change), restore)
        label = f"{method}, {name}"
        measured[name] = evaluate(produce, sets, qualities, color_mode, method=label, workers=workers)
    choices = {"wrong_quality": {str(quality): wrong for quality, wrong in wrong_of.items()}, "seed": seed}
    return measured["own"] | {"method": method, "features": choices, "results": _by_feature_set(measured)}


class GuidedRestorer(nn.Module):
    """A restorer whose decoder gets the features of a second image, the guide, in place of the features of its input.

    The guide is a separate input. If it were more channels of the image, the mean change of the image, by which
    `restoration.tiling` leaves images alone, would include the guide.

    Args:
        restorer: maps images to images. It calls its `encoder` once, with the image or a padded image.
        change: maps the encoder's output for the guide to the output that the decoder gets.
    """

    def __init__(self, restorer: nn.Module, change: Callable[[Tensor, list[Tensor]], EncoderAnswer]) -> None:
        super().__init__()
        self.restorer = restorer
        self.fineness = fineness_of(restorer)
        self.tiling = getattr(restorer, "tiling", "fine")
        self.change = change

    def forward(self, image: Tensor, guide: Tensor) -> Tensor:
        """Restore the image with the guide's features. All three are (N, channels, H, W)."""
        encoder = self.restorer.encoder
        # The hooks are removed when the block ends, even by an error.
        with (
            encoder.register_forward_pre_hook(lambda module, asked: (_padded_as(guide, asked[0]),)),
            encoder.register_forward_hook(lambda module, asked, answer: self.change(*answer)),
        ):
            return self.restorer(image)


def unchanged(representation: Tensor, features: list[Tensor]) -> EncoderAnswer:
    return representation, features


def shuffled(representation: Tensor, features: list[Tensor], *, seed: int) -> EncoderAnswer:
    """Put the positions of each map in random order, the same for all its channels. Channels keep their values."""
    rng = np.random.default_rng(seed)
    moved = []
    for feature in features:
        order = torch.from_numpy(rng.permutation(feature[0, 0].numel())).to(feature.device)
        moved.append(feature.flatten(2)[..., order].reshape(feature.shape))  # (N, C, H*W) -> (N, C, H, W)
    return representation, moved


def zeroed(representation: Tensor, features: list[Tensor]) -> EncoderAnswer:
    return torch.zeros_like(representation), [torch.zeros_like(feature) for feature in features]


def restored_with(guide: OutputSource, network: GuidedRestorer, restore: NetworkRunner) -> OutputSource:
    """Outputs of a restorer for the JPEG of each case. `guide` makes the guide, of the same shape."""

    def produce(clean: np.ndarray, case: Case) -> np.ndarray:
        return restore(network, jpeg_roundtrip(clean, case.quality), guide=guide(clean, case))

    return produce


def next_images(sets: Sequence[ImageSet], color_mode: str) -> dict:
    """The next image after each in its set, with the same size, or else of any size. After the last comes the first.

    Returns:
        {(set name, stem): path}.

    Raises:
        ValueError: if a set has only one image; or as `read_clean`, by which every image is read once.
    """
    for name, paths in sets:
        if len(paths) < 2:
            raise ValueError(f"{name} holds one image ({paths[0].name}); features of another image need a second one")
    chosen = {}
    for name, paths in sets:
        shapes = [read_clean(path, color_mode).shape for path in paths]
        for i, path in enumerate(paths):
            others = [(i + step) % len(paths) for step in range(1, len(paths))]
            same_size = (j for j in others if shapes[j] == shapes[i])
            chosen[name, path.stem] = paths[next(same_size, others[0])]
    return chosen


def farthest(quality: int, wrong_qualities: Sequence[int]) -> int:
    """The wrong quality that is farthest from an image's quality. Of two that are equally far, the first.

    Raises:
        ValueError: if all of them are the image's own quality.
    """
    wrong = max(wrong_qualities, key=lambda candidate: abs(candidate - quality))
    if wrong == quality:
        raise ValueError(f"the only wrong quality, {quality}, is also measured; add another wrong quality")
    return wrong


def brought_to(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image at another height and width. It is cut at the bottom and right, or extended there by mirroring."""
    image = image[: size[0], : size[1]]
    missing = [(0, asked - had) for asked, had in zip(size, image.shape[:2], strict=True)]
    return np.pad(image, missing + [(0, 0)] * (image.ndim - 2), mode="symmetric")


def summarize(result: dict) -> list[Section]:
    """A table for each set: PSNR of every feature set and quality; in brackets the difference from "own"."""
    wrong = ", ".join(f"Q{other} for Q{quality}" for quality, other in result["features"]["wrong_quality"].items())
    notes = [f"another quality: {wrong}; another image: the next of the set, at the same quality"]
    sections = []
    for set_name, by_quality in result["results"].items():
        rows = [["features", *(f"Q{quality}" for quality in by_quality)]]
        for name, label in FEATURE_SETS.items():
            pairs = [(scores[name]["psnr"], scores["own"]["psnr"]) for scores in by_quality.values()]
            cells = [f"{psnr:.2f}" + (f" ({psnr - own:+.2f})" if name != "own" else "") for psnr, own in pairs]
            rows.append([label, *cells])
        title = f"{result['method']}, {set_name}, {result['channels']}: PSNR (dB) by the features the decoder is given"
        sections.append(Section(title, rows, notes))
    return sections


def _by_feature_set(measured: dict[str, dict]) -> dict:
    """Turn {feature set: result of `evaluate`} into {set: {quality: {feature set: scores}}}."""
    return {
        set_name: {
            quality: {name: result["results"][set_name][quality] for name, result in measured.items()}
            for quality in by_quality
        }
        for set_name, by_quality in next(iter(measured.values()))["results"].items()
    }


def _padded_as(guide: Tensor, padded: Tensor) -> Tensor:
    """The guide, padded to the size of the padded image, as the restorers pad: at the bottom and right, by the edge."""
    rows, columns = (asked - had for asked, had in zip(padded.shape[-2:], guide.shape[-2:], strict=True))
    return F.pad(guide, (0, columns, 0, rows), mode="replicate")
