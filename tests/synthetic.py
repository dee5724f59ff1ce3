"""Small images and a miniature data root for tests: nothing is downloaded, everything is drawn from a seed."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from data.splits import bsds500_stems

SIZE_PX = 48


def picture(height: int = SIZE_PX, width: int = SIZE_PX, *, seed: int = 0) -> np.ndarray:
    """A (height, width, 3) uint8 RGB image: smooth shading, rectangles and a slanted edge, texture on a part of it."""
    rng = np.random.default_rng([seed, height, width])
    rows, columns = np.mgrid[0:height, 0:width]
    slopes = rng.uniform(-1, 1, (2, 3))
    image = 110 + 60 * (rows / height)[..., None] * slopes[0] + 60 * (columns / width)[..., None] * slopes[1]
    for _ in range(4):
        top, left = rng.integers(height), rng.integers(width)
        bottom, right = top + 1 + rng.integers(height), left + 1 + rng.integers(width)
        image[top:bottom, left:right] += rng.uniform(-50, 50, 3)
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7)
    side = np.cos(angle) * (rows / height - offset) + np.sin(angle) * (columns / width - offset)
    image[side > 0] += rng.uniform(-40, 40, 3)
    image[side < 0] += rng.normal(0, 12, (int((side < 0).sum()), 1))
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def noise(*shape: int, seed: int = 0, peak: int = 255) -> np.ndarray:
    """An image of random pixels from 0 to `peak`: uint8, or uint16 for a peak above 255."""
    pixels = np.random.default_rng(seed).integers(0, peak, shape, dtype=np.uint16, endpoint=True)
    return pixels.astype(np.min_scalar_type(peak))


def save(path: Path, image: np.ndarray | Image.Image, **options: Any) -> Path:
    """Write an image, and the folder that it is in; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def save_mosaic(path: Path, *shape: int, seed: int = 0) -> np.ndarray:
    """Write an image of random squares of six pixels, so that JPEG has something to keep; returns it."""
    coarse = noise(-(-shape[0] // 6), -(-shape[1] // 6), *shape[2:], seed=seed)
    image = coarse.repeat(6, axis=0).repeat(6, axis=1)[: shape[0], : shape[1]]
    save(path, image)
    return image


def write_pictures(folder: Path, names: list[str], *, size: int = SIZE_PX, seed: int = 0) -> None:
    """Write one PNG for each name, no two the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        Image.fromarray(picture(size, size + 8 * (index % 2), seed=seed + index)).save(folder / f"{name}.png")


def make_data_root(root: Path, *, num_train: int = 8, num_other: int = 3, size: int = SIZE_PX) -> Path:
    """Folders `bsds500/train`, `bsds500/val` and `bsds500/test` under `root`, with file names of those splits."""
    for split, count, seed in (("train", num_train, 0), ("val", num_other, 100), ("test", num_other, 200)):
        write_pictures(root / "bsds500" / split, sorted(bsds500_stems(split))[:count], size=size, seed=seed)
    return root


def cqe_settings(root: Path, run_dir: Path, **trainer: Any) -> dict:
    """A stage 1 configuration, as YAML would hold it, that trains in a moment; `trainer` adds to that section."""
    return {
        "trainer": _trainer(run_dir) | trainer,
        "data": _data(root) | {"aligned_share": 0.0},
        "encoder": {"width": 8, "remove_local_mean": True},
        "moco": {"queue_length": 8, "momentum": 0.9, "temperature": 0.2},
        "optim": {"lr": 1.0e-3, "ema_decay": 0.9},
        "validation": {"crop_size_px": 32, "qualities": [10, 50], "num_probe_images": 2},
    }


def restorer_settings(root: Path, run_dir: Path, encoder: Path, **trainer: Any) -> dict:
    """A stage 2 configuration around the encoder file, as `cqe_settings`."""
    return {
        "encoder": str(encoder),
        "trainer": _trainer(run_dir) | trainer,
        "data": _data(root),
        "network": {
            "name": "fast",
            "fast": {"widths": [4, 6, 8], "blocks_down": [1, 1, 1], "blocks_up": [1, 1, 1]},
        },
        "optim": {"lr": 1.0e-3, "lr_warmup_steps": 1, "grad_clip_norm": 1.0, "ema_decay": 0.9},
        "validation": {"qualities": [10], "num_images": 2, "num_pictures": 1},
    }


def write_config(path: Path, settings: dict) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


def _trainer(run_dir: Path) -> dict:
    return {
        "run_dir": str(run_dir),
        "max_steps": 6,
        "device": "cpu",
        "precision": "float32",
        # Narrow encoders can crash inside oneDNN when trained with channels last on a CPU; see `EncoderConfig`.
        "channels_last": False,
        "log_every_steps": 1,
        "validate_every_steps": 4,
        "save_every_steps": 2,
    }


def _data(root: Path) -> dict:
    return {
        "root": str(root),
        "train": ["bsds500/train"],
        "pack_dir": str(root / "packed"),
        "patch_size_px": 32,
        "qualities": [10, "20..40:10"],
        "batch_size": 4,
        "num_workers": 0,
    }
