"""Batches by global step: the same stream for any number of workers, ranks and restarts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.config import DataConfig, PairsConfig, data_root
from data.pairs import ContrastivePatches
from data.patches import Patches, RestorationPatches
from data.store import open_store
from engine.loader import StepSampler, build_loader
from tests.places import ROOT
from tests.program import run_python

NUM_IMAGES = 7
BATCH_SIZE = 2
PairsWithHistories = partial(
    ContrastivePatches, pairs=PairsConfig(qualities_per_image=2, double_share=0.3, resized_share=0.3)
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of seven noisy images, and one for packs."""
    root = tmp_path_factory.mktemp("loaders")
    (root / "photos").mkdir()
    for index in range(NUM_IMAGES):
        image = np.random.default_rng(index).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "photos" / f"{index}.png")
    return root / "photos", root / "packs"


def dataset(folders: tuple[Path, Path], *, kind: Callable[..., Patches] = RestorationPatches) -> Patches:
    config = DataConfig(patch_size_px=8, qualities=["5..95"], aligned_share=0.5, full_range_share=0.5)
    return kind([open_store(*folders)], config, seed=3)


def sampler(num_samples: int = 10, batch_size: int = 4, **given: int) -> StepSampler:
    return StepSampler(
        num_samples, batch_size, **({"rank": 0, "world_size": 1, "first_step": 0, "last_step": 5} | given)
    )


def test_steps_run_through_epochs_and_drop_the_rest() -> None:
    assert list(sampler()) == [
        [(0, 0), (0, 1), (0, 2), (0, 3)],
        [(0, 4), (0, 5), (0, 6), (0, 7)],
        [(1, 0), (1, 1), (1, 2), (1, 3)],
        [(1, 4), (1, 5), (1, 6), (1, 7)],
        [(2, 0), (2, 1), (2, 2), (2, 3)],
    ]
    assert len(sampler()) == 5 and sampler().steps_per_epoch == 2


def test_resumed_steps_are_the_later_ones() -> None:
    whole = list(sampler(last_step=9))
    assert [list(sampler(first_step=step, last_step=9)) for step in range(10)] == [whole[step:] for step in range(10)]
    assert len(sampler(first_step=3, last_step=9)) == 6


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_share_each_batch_in_order(world_size: int) -> None:
    given = {"num_samples": 20, "batch_size": 6, "first_step": 2, "last_step": 8}
    ranks = [list(sampler(rank=rank, world_size=world_size, **given)) for rank in range(world_size)]
    together = [sum(shares, []) for shares in zip(*ranks, strict=True)]
    assert together == list(sampler(**given))


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data.batch_size \(4\) must be a multiple of the 3 processes"):
        sampler(world_size=3)


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ValueError, match="data.batch_size is 4, but the training set has only 3 images"):
        sampler(num_samples=3)


@pytest.mark.parametrize("kind", [RestorationPatches, PairsWithHistories], ids=["restoration", "pairs"])
def test_workers_change_nothing(folders: tuple[Path, Path], kind: Callable[..., Patches]) -> None:
    batches = [
        list(
            build_loader(
                dataset(folders, kind=kind), first_step=0, last_step=7, batch_size=BATCH_SIZE, num_workers=num_workers
            )
        )
        for num_workers in (0, 2)
    ]
    assert len(batches[0]) == 7  # three steps an epoch: into the third
    torch.testing.assert_close(batches[0], batches[1], rtol=0, atol=0)


def test_a_batch_is_its_samples_stacked(folders: tuple[Path, Path]) -> None:
    samples = dataset(folders)
    (batch,) = build_loader(samples, first_step=4, last_step=5, batch_size=BATCH_SIZE)  # the second step of epoch 1
    for name, values in batch.items():
        expected = torch.stack([torch.as_tensor(samples[1, index][name]) for index in (2, 3)])
        torch.testing.assert_close(values, expected, rtol=0, atol=0)
    assert batch["degraded"].shape == batch["clean"].shape == (2, 1, 8, 8) and batch["degraded"].dtype == torch.uint8


def test_a_restart_gives_the_same_stream(folders: tuple[Path, Path]) -> None:
    whole = list(build_loader(dataset(folders), first_step=0, last_step=6, batch_size=BATCH_SIZE))
    resumed = list(build_loader(dataset(folders), first_step=2, last_step=6, batch_size=BATCH_SIZE))
    torch.testing.assert_close(resumed, whole[2:], rtol=0, atol=0)


def test_two_ranks_together_give_the_batches_of_one(folders: tuple[Path, Path]) -> None:
    whole = list(build_loader(dataset(folders), first_step=0, last_step=5, batch_size=BATCH_SIZE))
    ranks = [
        build_loader(dataset(folders), first_step=0, last_step=5, batch_size=BATCH_SIZE, rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    for batch, *shares in zip(whole, *ranks, strict=True):
        together = {name: torch.cat([share[name] for share in shares]) for name in batch}
        torch.testing.assert_close(together, batch, rtol=0, atol=0)


def test_an_epoch_of_batches_repeats_no_image(folders: tuple[Path, Path]) -> None:
    samples, originals = dataset(folders), open_store(*folders)
    names = [originals.names.index(store.names[index]) for store, index in samples.images]
    assert names == list(range(NUM_IMAGES))
    epoch = [position for batch in sampler(NUM_IMAGES, 2, last_step=3) for position in batch]
    assert epoch == [(0, index) for index in range(6)]  # of seven images the last one drawn is left over


def test_the_root_is_the_one_given_or_the_variable_or_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_ROOT", "elsewhere")
    assert data_root("here") == Path("here") and data_root() == Path("elsewhere")
    monkeypatch.setenv("DATA_ROOT", "")
    assert data_root() == Path("datasets")
    monkeypatch.delenv("DATA_ROOT")
    assert data_root() == Path("datasets")


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("failure", "complaint"),
    [
        ("raises", "a loader worker failed: ValueError: photos/5.png is damaged"),
        ("killed", "a loader worker failed or was killed, most often because memory ran out: lower data.num_workers"),
        ("full", "memory ran out: lower data.num_workers or data.patch_size_px (RuntimeError: not enough memory"),
    ],
)
def test_a_training_ends_when_a_loader_worker_fails(failure: str, complaint: str, tmp_path: Path) -> None:
    done = run_python(ROOT / "tests" / "engine" / "failing_worker.py", failure, tmp_path / "run")
    assert done.returncode == 2, done.stderr
    # Not always the last line: what the other worker prints at its death may come later.
    ours = [line for line in done.stderr.splitlines() if line.startswith("failing_worker.py: error: ")]
    assert len(ours) == 1 and complaint in ours[0], done.stderr
    if failure != "killed":
        assert "Traceback" not in done.stderr
    # A death may interrupt the trainer while it receives a tensor. Then multiprocessing prints in the other worker that
    # the connection was lost. That traceback is not ours.
