"""LPIPS against its formula written out, FID against closed forms and a matrix square root."""

import os
import urllib.error
from collections.abc import Callable
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy.linalg import sqrtm
from torch import Tensor
from torchvision.models import alexnet

from data.jpeg import jpeg_roundtrip
from evaluation.scores import perceptual
from evaluation.scores.image_sets import ImageSet
from evaluation.scores.perceptual import Perceptual, evaluate, fid, open_inception, open_lpips
from evaluation.scores.protocol import restored_by
from tests.synthetic import picture, save

CPU = torch.device("cpu")
BACKBONE = "LPIPS_BACKBONE"  # variable with the path of torchvision's AlexNet; known values are checked where it is set


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with an untrained AlexNet."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.safetensors"
    save_file({name: tensor for name, tensor in alexnet().state_dict().items() if name.startswith("features.")}, path)
    return path


def written_out(restored: np.ndarray, clean: np.ndarray, backbone: Path) -> float:
    """LPIPS by its definition: weighted squared differences of unit features of five layers, mean over positions."""
    trunk = alexnet().features
    stored = perceptual.read_weight_file(backbone).content
    trunk.load_state_dict({name.removeprefix("features."): tensor for name, tensor in stored.items()})
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])  # lpips' constants

    def features(image: np.ndarray) -> list[Tensor]:
        rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
        x = (torch.tensor(rgb).permute(2, 0, 1)[None] / 127.5 - 1 - shift[:, None, None]) / scale[:, None, None]
        found = []
        for index, layer in enumerate(trunk[:12]):
            x = layer(x)
            if index in (1, 4, 7, 9, 11):
                found.append(F.normalize(x, dim=1, eps=1e-10))
        return found

    weights = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth", map_location="cpu")
    total = 0.0
    with torch.no_grad():
        for index, (one, other) in enumerate(zip(features(restored), features(clean), strict=True)):
            total += float((weights[f"lin{index}.model.1.weight"] * (one - other).square()).sum(dim=1).mean())
    return total


@pytest.mark.parametrize("is_gray", [False, True])
def test_lpips_is_its_formula(backbone: Path, is_gray: bool) -> None:
    clean = picture(64, 72)[..., 0].copy() if is_gray else picture(64, 72)
    degraded = jpeg_roundtrip(clean, 10)
    distance, _ = open_lpips(backbone, CPU)
    assert distance(degraded, clean) == pytest.approx(written_out(degraded, clean, backbone), rel=1e-4)
    assert distance(clean, clean) == 0


@pytest.mark.skipif(BACKBONE not in os.environ, reason=f"{BACKBONE} names no AlexNet")
def test_lpips_of_known_images() -> None:
    distance, _ = open_lpips(os.environ[BACKBONE], CPU)
    clean = picture(64, 96)
    assert distance(jpeg_roundtrip(clean, 10), clean) == pytest.approx(0.2884, abs=2e-3)
    assert distance(jpeg_roundtrip(clean, 10), clean) == pytest.approx(
        written_out(jpeg_roundtrip(clean, 10), clean, Path(os.environ[BACKBONE])), rel=1e-4
    )


def test_fid_of_shifted_and_of_scaled_features_has_a_closed_form() -> None:
    features = np.random.default_rng(0).normal(size=(6, 20))
    assert fid(features, features) == pytest.approx(0, abs=1e-9)
    assert fid(features + 0.5, features) == pytest.approx(20 * 0.25)
    centred = features - features.mean(axis=0)
    total_variance = np.square(centred).sum() / 5
    assert fid(3 * centred, centred) == pytest.approx((3 - 1) ** 2 * total_variance)  # tr(9S + S - 2 * 3S)


def test_fid_is_that_of_the_matrix_square_root() -> None:
    rng = np.random.default_rng(0)
    features, others = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(30, 5)) + 0.3
    covariances = [np.cov(one, rowvar=False) for one in (features, others)]
    square_root = sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(features.mean(axis=0) - others.mean(axis=0)).sum()
    expected += np.trace(covariances[0] + covariances[1] - 2 * square_root)
    assert fid(features, others) == pytest.approx(expected)


@pytest.fixture
def image_set(tmp_path: Path) -> ImageSet:
    return ImageSet("set", [save(tmp_path / "set" / f"{name}.png", picture(40, 48, seed=index)) for index, name in
                            enumerate("ab")])  # fmt: skip


def brightness(images: list[np.ndarray]) -> np.ndarray:
    return np.array([[image.mean(), image.std()] for image in images])


def test_a_set_has_the_mean_of_lpips_and_one_fid(image_set: ImageSet) -> None:
    metrics = Perceptual(lambda restored, clean: float(abs(restored.astype(int) - clean).mean()), brightness, {})
    scores = evaluate(restored_by(lambda image: image), image_set, [10, 90], "color", metrics)
    for quality, of_quality in scores.items():
        clean = [picture(40, 48, seed=index) for index in range(2)]
        degraded = [jpeg_roundtrip(image, int(quality)) for image in clean]
        each = [float(abs(one.astype(int) - other).mean()) for one, other in zip(degraded, clean, strict=True)]
        assert of_quality["images"] == {"a": {"lpips": each[0]}, "b": {"lpips": each[1]}}
        assert of_quality["lpips"] == pytest.approx(sum(each) / 2)
        assert of_quality["fid"] == pytest.approx(fid(brightness(degraded), brightness(clean)))
    assert list(scores) == ["10", "90"]


def test_what_cannot_be_measured_is_left_out(image_set: ImageSet) -> None:
    (scores,) = evaluate(
        restored_by(lambda image: image), image_set, [10], "gray", Perceptual(None, brightness, {})
    ).values()
    assert set(scores) == {"fid", "images"}


def test_images_that_are_too_small_or_too_few_are_refused(backbone: Path, image_set: ImageSet) -> None:
    distance, _ = open_lpips(backbone, CPU)
    small = np.zeros((30, 64), np.uint8)
    with pytest.raises(ValueError, match="LPIPS needs sides of at least 31 pixels, got 64x30"):
        distance(small, small)
    assert distance(np.zeros((31, 31), np.uint8), np.zeros((31, 31), np.uint8)) == 0
    alone = image_set._replace(paths=image_set.paths[:1])
    with pytest.raises(ValueError, match="set has one image; FID needs at least 2"):
        evaluate(restored_by(lambda image: image), alone, [10], "gray", Perceptual(None, brightness, {}))


@pytest.mark.parametrize(
    ("opened", "message"),
    [
        (open_lpips, "LPIPS needs AlexNet, which is not here and could not be downloaded .*--lpips-backbone"),
        (open_inception, "FID needs Inception-v3, which is not here and could not be downloaded .*--inception"),
    ],
)
def test_a_network_that_is_not_here_is_one_line(
    opened: Callable, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(FileNotFoundError, match=message):
        opened(None, CPU)


def no_network(*arguments: object, **options: object) -> None:
    raise urllib.error.URLError("no network")


@pytest.mark.parametrize(
    ("opened", "message"),
    [(open_lpips, "does not hold torchvision's AlexNet"), (open_inception, "is not torch-fidelity's Inception-v3")],
)
def test_a_file_of_another_network_is_named(opened: Callable, message: str, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"other.pth {message}"):
        opened(tmp_path / "other.pth", CPU)
    with pytest.raises(FileNotFoundError, match="no weight file .*none.pth$"):
        opened(tmp_path / "none.pth", CPU)
