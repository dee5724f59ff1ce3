"""The log of a run: lines and a progress bar on the terminal, log.txt, curves, pictures and points in TensorBoard."""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from engine.distributed import Process

LINE = "%(asctime)s %(message)s"


class RunLog:
    """The log of one training run. On ranks other than 0 every call does nothing.

    Args:
        run_dir: where `log.txt` and the TensorBoard files go.
        process: this process.
        first_step: number of steps that earlier parts of the run have done.
        last_step: number of steps of the whole run. The progress bar is shown on a terminal only.
    """

    def __init__(self, run_dir: Path, process: Process, *, first_step: int = 0, last_step: int = 0) -> None:
        self.is_main = process.is_main
        self._logger = logging.getLogger("train")
        if not self.is_main:
            return
        self._handlers = [logging.StreamHandler(), logging.FileHandler(run_dir / "log.txt")]
        for handler in self._handlers:
            handler.setFormatter(logging.Formatter(LINE, "%H:%M:%S"))
            logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(logging.INFO)
        # A resumed run makes the steps after `first_step` again: TensorBoard drops what an earlier part wrote of them.
        self._writer = SummaryWriter(run_dir, purge_step=first_step + 1 if first_step else None)
        self._bar = tqdm(
            initial=first_step, total=last_step, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty()
        )
        self._redirect = logging_redirect_tqdm()
        self._redirect.__enter__()

    def line(self, text: str) -> None:
        """One line for the terminal and log.txt."""
        if self.is_main:
            self._logger.info(text)

    def advance(self) -> None:
        """Move the progress bar by a step."""
        if self.is_main:
            self._bar.update()

    def scalars(self, values: Mapping[str, float], step: int, *, group: str) -> None:
        """Named numbers as TensorBoard curves `group/name`."""
        if self.is_main:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def picture(self, name: str, image: Tensor, step: int) -> None:
        """A (C, H, W) tensor in [0, 1] as a TensorBoard picture."""
        if self.is_main:
            self._writer.add_image(name, image.clamp(0, 1), step)

    def points(self, name: str, rows: Tensor, labels: Sequence[str], step: int) -> None:
        """(N, D) rows with a label each, for TensorBoard's projector."""
        if self.is_main:
            self._writer.add_embedding(rows, metadata=list(labels), global_step=step, tag=name)

    def close(self) -> None:
        if not self.is_main:
            return
        self._redirect.__exit__(None, None, None)
        self._bar.close()
        self._writer.close()
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()


def described(values: Mapping[str, float]) -> str:
    """Numbers by name on one line: `mae 0.0123  psnr 29.04`."""
    return "  ".join(
        f"{name} {value:.4g}" if abs(value) < 1 else f"{name} {value:.3f}" for name, value in values.items()
    )
