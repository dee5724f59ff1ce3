"""LPIPS and FID of Table 2. They compare features of AlexNet and Inception-v3, which are not part of the project.

LPIPS is computed by the library `lpips`, FID from the features of torch-fidelity's Inception-v3. A luma image is given
to both as three equal channels. LPIPS is averaged over the images of a set; FID compares the features of all restored
images with those of all clean ones.

Sources: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (2018); Heusel et al.,
GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (2017).
"""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engine.checkpoint import load_tensors
from engine.weight_files import read_weight_file
from evaluation.scores.degradations import Case, Jpeg
from evaluation.scores.image_sets import ImageSet, read_clean, size_of
from evaluation.scores.metrics import PERCEPTUAL
from evaluation.scores.protocol import GROUND_TRUTH, OutputSource

MIN_LPIPS_SIDE_PX = 31  # of AlexNet, down to one pixel behind its second pooling
MIN_FID_IMAGES = 2  # a covariance needs two
_SLICE_OF_LAYER = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}  # AlexNet's convolutions, in the names of torchvision and of lpips


@dataclass(frozen=True)
class Perceptual:
    """The metrics of Table 2 that can be measured here.

    Args:
        lpips: (restored, clean), both uint8 and of one shape, to their distance; None: there is no AlexNet.
        features: (N uint8 images) to their features, (N, 2048); None: there is no Inception-v3.
        digests: of the backbones, by metric.
    """

    lpips: Callable[[np.ndarray, np.ndarray], float] | None
    features: Callable[[Sequence[np.ndarray]], np.ndarray] | None
    digests: Mapping[str, str]

    def describe(self, color_mode: str) -> str:
        """The protocol in words, with the backbones' digests."""
        settings = [f"{PERCEPTUAL[name].luma_settings}, sha256 {digest[:12]}" for name, digest in self.digests.items()]
        return "; ".join([GROUND_TRUTH[color_mode], *settings])


def evaluate(
    produce: OutputSource, image_set: ImageSet, qualities: Sequence[int], color_mode: str, metrics: Perceptual
) -> dict[str, dict]:
    """Score a system on one set.

    Returns:
        {quality: {"lpips": mean, "fid": of the set, "images": {stem: {"lpips"}}}}, without what cannot be measured.

    Raises:
        ValueError: if an image is too small for LPIPS, or if there are too few for FID; and as `produce`.
    """
    if metrics.features and len(image_set.paths) < MIN_FID_IMAGES:
        raise ValueError(f"{image_set.name} has one image; FID needs at least {MIN_FID_IMAGES}")
    clean = {path.stem: read_clean(path, color_mode) for path in image_set.paths}
    features_of_clean = metrics.features(list(clean.values())) if metrics.features else None
    results = {}
    for quality in qualities:
        outputs = {stem: produce(image, Case(image_set.name, Jpeg((quality,)), stem)) for stem, image in clean.items()}
        scores: dict = {"images": {stem: {} for stem in clean}}
        if metrics.lpips:
            distances = {stem: metrics.lpips(output, clean[stem]) for stem, output in outputs.items()}
            scores["images"] = {stem: {"lpips": distance} for stem, distance in distances.items()}
            scores["lpips"] = float(np.mean(list(distances.values())))
        if metrics.features:
            scores["fid"] = fid(metrics.features(list(outputs.values())), features_of_clean)
        results[str(quality)] = scores
    return results


def fid(features: np.ndarray, others: np.ndarray) -> float:
    """Frechet distance between two sets of features, each taken as normally distributed.

        |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

    With features minus their mean as rows of A and B, scaled so that S1 = A'A and S2 = B'B, the last trace is the sum
    of the singular values of AB'. This is exact where there are fewer images than features; then S1 S2 is singular, and
    its matrix square root, which libraries take, is not.

    Args:
        features, others: (N, D) and (M, D), N and M at least 2.
    """
    mean, other_mean = features.mean(axis=0), others.mean(axis=0)
    rows = (features - mean) / np.sqrt(len(features) - 1)
    other_rows = (others - other_mean) / np.sqrt(len(others) - 1)
    cross = np.linalg.svd(rows @ other_rows.T, compute_uv=False).sum()
    return float(np.square(mean - other_mean).sum() + np.square(rows).sum() + np.square(other_rows).sum() - 2 * cross)


def open_lpips(backbone: str | Path | None, device: torch.device) -> tuple[Callable[..., float], str]:
    """LPIPS 0.1 with AlexNet, and the digest of the backbone.

    Args:
        backbone: file with torchvision's AlexNet (its `features` are enough), `.safetensors` or `.pth`. None: where
            torchvision keeps it; it is downloaded if it is not there.
        device: where the network runs.

    Raises:
        FileNotFoundError: if there is no such file, or if the download fails.
        ValueError: if the file is not AlexNet's.
    """
    import lpips
    from torchvision.models import AlexNet_Weights

    if backbone is None:
        with _fetching("LPIPS", "AlexNet", "--lpips-backbone"):
            tensors = AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False)
    else:
        tensors = read_weight_file(backbone).content
    with warnings.catch_warnings():  # lpips uses an argument of torchvision that is deprecated
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    names = {
        f"features.{layer}.{kind}": f"slice{part}.{layer}.{kind}"
        for layer, part in _SLICE_OF_LAYER.items()
        for kind in ("weight", "bias")
    }
    try:
        trunk = {name: tensors[stored].float() for stored, name in names.items()}
        network.net.load_state_dict(trunk)
    except (KeyError, TypeError, AttributeError, RuntimeError):
        raise ValueError(f"{backbone} does not hold torchvision's AlexNet (features.0.weight and so on)") from None
    network = network.to(device).eval()

    @torch.inference_mode()
    def distance(restored: np.ndarray, clean: np.ndarray) -> float:
        if min(clean.shape[:2]) < MIN_LPIPS_SIDE_PX:
            raise ValueError(f"LPIPS needs sides of at least {MIN_LPIPS_SIDE_PX} pixels, got {size_of(clean)}")
        pair = (_planes(image).to(device) / 127.5 - 1 for image in (restored, clean))  # to -1..1
        return float(network(*pair))

    return distance, _digest(network)


def open_inception(weights: str | Path | None, device: torch.device) -> tuple[Callable[..., np.ndarray], str]:
    """The features of Inception-v3 that FID is defined by, and the digest of the network.

    Args:
        weights: file of torch-fidelity's network; None: where it keeps it; it is downloaded if it is not there.
        device: where the network runs.

    Raises:
        FileNotFoundError: if there is no such file, or if the download fails.
        ValueError: if the file is not of that network.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if weights is not None:
        if not Path(weights).is_file():
            raise FileNotFoundError(f"no weight file {weights}")
        load_tensors(weights)  # refuses code, which the library would run
    try:
        with _fetching("FID", "Inception-v3", "--inception"):
            path = None if weights is None else str(weights)
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], path)
    except (RuntimeError, TypeError, AttributeError):
        raise ValueError(f"{weights or 'the downloaded file'} is not torch-fidelity's Inception-v3") from None
    network = network.to(device).eval()

    @torch.inference_mode()
    def features(images: Sequence[np.ndarray]) -> np.ndarray:
        rows = [network(_planes(image).to(device))[0].cpu().numpy() for image in images]
        return np.concatenate(rows).astype(np.float64)

    return features, _digest(network)


@contextmanager
def _fetching(metric: str, network: str, option: str) -> Iterator[None]:
    """Turn a failed download into one line that says what to give instead."""
    try:
        yield
    except OSError as error:
        reason = " ".join(str(error).split())[:80]
        raise FileNotFoundError(
            f"{metric} needs {network}, which is not here and could not be downloaded ({reason}); name its file with "
            f"{option}"
        ) from None


def _planes(image: np.ndarray) -> Tensor:
    """A uint8 image as (1, 3, H, W) uint8; gray as three equal channels."""
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))[None]


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
