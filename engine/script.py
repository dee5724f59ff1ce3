"""How every training script begins and ends: its command line, and a stage trained on a dataset."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from common.errors import user_errors
from engine.config import parse_config
from engine.distributed import Process, process_group
from engine.loader import StepSampler, build_loader, check_batch, check_parts
from engine.loop import train
from engine.placement import Placement
from engine.plan import plan
from engine.run import Checkpoint
from engine.run_folder import locked_run_dir
from engine.signals import saving_needs_a_run
from engine.stage import RunConfig, Stage

Config = TypeVar("Config", bound=RunConfig)


class BatchConfig(Protocol):
    """What batches are made by: samples of one step over all processes, and loader workers of each process."""

    batch_size: int
    num_workers: int


class TrainingSet(Protocol):
    """A dataset whose samples depend on their positions (epoch, index) alone."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: tuple[int, int]) -> dict: ...

    def file_of(self, position: tuple[int, int]) -> str:
        """Set and file name of the image that a sample is cut from."""

    def fingerprint(self) -> str:
        """Tells training sets apart by the names and the order of their images."""


class DataRunConfig(RunConfig, Protocol):
    """A configuration whose section `data` says how batches are made."""

    data: BatchConfig


def plan_on(
    stage: Stage, num_images: int, *, pixels_per_image: int, config: DataRunConfig, process: Process
) -> dict[str, float]:
    """Print what the training would do (`--dry-run`); arguments as those of `engine.plan.plan`."""
    check_batch(num_images, config.data.batch_size, process.world_size)
    options = {"pixels_per_image": pixels_per_image, "batch_size": config.data.batch_size}
    if process.is_main:
        print(plan(stage, num_images=num_images, config=config, process=process, **options))
    return {}


def train_on(
    stage: Stage, dataset: TrainingSet, *, config: DataRunConfig, process: Process, checkpoint: Checkpoint | None
) -> dict[str, float]:
    """Train a stage on a dataset; arguments as those of `engine.loop.train`.

    Returns:
        The last validation's metrics; {} on ranks other than 0.

    Raises:
        ValueError, OSError, FloatingPointError: as `engine.loop.train` and `engine.loader.build_loader`.
    """
    batch_size = config.data.batch_size
    shares = {"batch_size": batch_size, "rank": process.rank, "world_size": process.world_size}
    make_loader = partial(
        build_loader,
        dataset,
        **shares,
        num_workers=config.data.num_workers,
        pin_memory=Placement.of(config.trainer, process.device).pins_batches,
    )

    def files_of(step: int) -> list[str]:
        (positions,) = StepSampler(len(dataset), first_step=step, last_step=step + 1, **shares)
        return [dataset.file_of(position) for position in positions]

    return train(
        stage,
        make_loader,
        steps_per_epoch=len(dataset) // batch_size,
        batch_size=batch_size,
        config=config,
        process=process,
        checkpoint=checkpoint,
        files_of=files_of,
        images=dataset.fingerprint(),
    )


def run_script(
    program: str, config_class: type[Config], run: Callable[[Config, Process], object], *, description: str
) -> None:
    """A training script's `main`: parse the command line, join the other processes, run.

    Args:
        program: the script's file name, for the line that a user's mistake ends with.
        config_class: as `parse_config` takes it.
        run: trains with a configuration, in one process of those that torchrun started.
        description: first line of `--help`.
    """
    with user_errors(program), saving_needs_a_run():
        config = parse_config(config_class, description=description)
        trainer = config.trainer
        with (
            process_group(trainer.device, timeout_seconds=trainer.timeout_seconds) as process,
            locked_run_dir(trainer, process),
        ):
            check_parts(config.data.batch_size, trainer.micro_batches, process.world_size)  # before any image is read
            run(config, process)
