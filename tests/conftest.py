"""What every test gets: fixed seeds and one thread; and, where they are at hand, the benchmark images."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums in the same order on every machine: tests that compare exactly must not depend on its number of cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - ours draw from generators; a library may not
    torch.manual_seed(0)


@pytest.fixture
def data_root() -> Callable[[str], Path]:
    """`data_root("live1")` is the folder DATA_ROOT if it holds that set; otherwise the test is skipped, naming it."""

    def root_with(folder: str) -> Path:
        root = Path(os.environ.get("DATA_ROOT") or "datasets")
        if not (root / folder).is_dir():
            pytest.skip(f"needs the {folder} images under DATA_ROOT")
        return root

    return root_with
