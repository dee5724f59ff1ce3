"""What every test gets: fixed seeds and one thread; refusals of `test.py`; the benchmark images where they are."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import program


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


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run `test.py ARGUMENTS`, which must end with status 2 and one line, and write nothing; returns the line."""

    def files() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}

    def check(*arguments: object) -> str:
        capsys.readouterr()  # what was printed before is not its output
        before = files()
        with pytest.raises(SystemExit) as ended:
            program.run(*arguments)
        captured = capsys.readouterr()
        assert (ended.value.code, captured.out, captured.err.count("\n")) == (2, "", 1), captured.err
        assert captured.err.startswith("test.py") and files() == before
        return captured.err

    return check
