"""Table 5, the ablation: trains every variant of the network, with several seeds.

    python -m commands.ablation --size fast_tiny --seeds 0 1 2
    python -m commands.ablation --size paper --trainer.max_steps 20000

Each run is one call of `train_restorer.py`, into OUTPUT/SIZE/MODEL/seed_N. All models of one seed come before the next
seed. Runs that are over are left alone; one that was stopped goes on. `python test.py table 5` measures them.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from commands.arguments import OneLineParser, seed
from common.errors import user_errors
from engine.config import parse_config
from engine.run import refuse_changes
from engine.run_folder import list_checkpoints, read_newest
from evaluation.scores import ablation
from evaluation.scores.ablation import MODELS, run_folder
from restoration.config import RestorerConfig

SIZES = {
    "fast_tiny": ("configs/restorer/fast_tiny_gray.yaml", "configs/ablation/fast_tiny.yaml"),
    "paper": ("configs/restorer/paper_gray.yaml", "configs/ablation/paper.yaml"),
}


STOPPED = {128 + signal.SIGINT, 128 + signal.SIGTERM}  # exit statuses of a training that was stopped and has saved


class Run(NamedTuple):
    """One training: the arguments of `train_restorer.py`, and what they say."""

    arguments: list[str]
    config: RestorerConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.trainer.run_dir)


def build_parser() -> argparse.ArgumentParser:
    """The options; all others belong to `train_restorer.py`, such as `--trainer.max_steps 3000`."""
    parser = OneLineParser(
        prog="python -m commands.ablation",
        description=f"{__doc__.split(chr(10))[0]} Other options are those of train_restorer.py, for all runs.",
        allow_abbrev=False,
    )
    parser.add_argument("--size", choices=SIZES, default="fast_tiny", help="of the network (default: %(default)s)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: all")
    parser.add_argument("--seeds", nargs="+", type=seed, default=[0], metavar="N", help="default: 0")
    parser.add_argument("--output", default="runs/ablation", metavar="DIR", help="default: %(default)s")
    return parser


def planned(options: argparse.Namespace, others: Sequence[str]) -> list[Run]:
    """The runs in order. A mistake in an option stops the command here, before any training.

    Raises:
        FileNotFoundError, ValueError: as `parse_config`; also for an option that the runs set themselves, and if the
            end of a run is not known.
    """
    for name in ("--trainer.run_dir", "--trainer.seed", "--trainer.resume", "--resume"):
        if any(option.split("=")[0] == name for option in others):
            raise ValueError(f"{name} is set for each run; use --output, --seeds, or call the command again to resume")
    runs = []
    for number in dict.fromkeys(options.seeds):
        for model in dict.fromkeys(options.models):
            files = [*SIZES[options.size], f"configs/ablation/{model}.yaml"]
            folder = run_folder(Path(options.output) / options.size, model, number)
            arguments = [word for file in files for word in ("--config", file)]
            arguments += [f"--trainer.seed={number}", f"--trainer.run_dir={folder}", "--trainer.resume=auto", *others]
            config = parse_config(RestorerConfig, arguments)
            if not (config.trainer.max_steps or config.trainer.max_minutes):
                raise ValueError(
                    "give --trainer.max_steps or --trainer.max_minutes, by which the end of a run is known"
                )
            runs.append(Run(arguments, config))
    return runs


def is_over(run: Run) -> bool:
    """Whether nothing is left to train.

    Raises:
        ValueError: if the folder holds a run of another configuration or budget (names the key), or only damaged
            checkpoints.
    """
    trainer = run.config.trainer
    if not list_checkpoints(run.folder):
        return False
    checkpoint, state = read_newest(run.folder, stage="restorer")
    refuse_changes(state["config"], run.config, checkpoint)
    for key in ("max_steps", "max_minutes"):
        before, now = state["config"]["trainer"][key], getattr(trainer, key)
        if before != now:
            raise ValueError(
                f"{run.folder} has a run with trainer.{key} {before}, now it is {now}: give another --output"
            )
    return ablation.is_over(run.folder, state)


def train(run: Run) -> None:
    """Call `train_restorer.py`. It saves its work when it is interrupted, so it is waited for.

    Raises:
        ChildProcessError: if the training failed; it has said why.
        KeyboardInterrupt: if it was stopped before its end.
    """
    with subprocess.Popen([sys.executable, "train_restorer.py", *run.arguments]) as child:
        # The terminal sends Ctrl-C to the child as well; SIGTERM reaches this process alone.
        previous = [
            (number, signal.signal(number, handler))
            for number, handler in (
                (signal.SIGINT, lambda *_: None),
                (signal.SIGTERM, lambda number, frame: child.send_signal(number)),
            )
        ]
        try:
            status = child.wait()
        finally:
            for number, handler in previous:
                signal.signal(number, handler)
    if status in STOPPED:
        raise KeyboardInterrupt
    if status:
        raise ChildProcessError(f"the training in {run.folder} failed (exit status {status}); its message is above")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing."""
    with user_errors("commands.ablation"):
        options, others = build_parser().parse_known_args(arguments)
        runs = planned(options, others)
        over = [is_over(run) for run in runs]  # all, before the first training
        for index, (run, is_done) in enumerate(zip(runs, over, strict=True), start=1):
            print(f"{index}/{len(runs)} {run.folder}: {'is over' if is_done else 'training'}", flush=True)
            if not is_done:
                try:
                    train(run)
                except KeyboardInterrupt:
                    raise SystemExit("stopped and saved; the same command goes on from there") from None


if __name__ == "__main__":
    main()
