"""The log of a run: lines and a progress bar on the terminal, and log.txt; metrics.jsonl; the latest pictures as PNG;
curves, pictures and points in TensorBoard.
"""

import contextlib
import json
import logging
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.files import write_text
from engine.distributed import Process

LINE = "%(asctime)s %(message)s"
METRICS_NAME = "metrics.jsonl"  # a line for each group of numbers: {"step": 50, "loss/total": 0.01, ...}
PICTURES_NAME = "pictures"  # a folder
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"  # its ETA is ours: tqdm knows no minutes


class _LogFile(logging.FileHandler):
    """A log file that says once that it cannot be written."""

    has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self.has_failed and sys.stderr is not None:
            print(f"{self.baseFilename} cannot be written: {sys.exception()}; its lines are lost", file=sys.stderr)
        self.has_failed = True


class RunLog:
    """The log of one training run. On ranks other than 0 every call does nothing.

    Args:
        run_dir: where the files go.
        process: this process.
        first_step: number of steps that earlier parts of the run have done.
        last_step: number of steps of the whole run. The progress bar is shown on a terminal only.
    """

    def __init__(self, run_dir: Path, process: Process, *, first_step: int = 0, last_step: int = 0) -> None:
        self.is_main = process.is_main
        self._logger = logging.getLogger("train")
        if not self.is_main:
            return
        self._handlers = [logging.StreamHandler(), _LogFile(run_dir / "log.txt")]
        for handler in self._handlers:
            handler.setFormatter(logging.Formatter(LINE, "%H:%M:%S"))
            logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(logging.INFO)
        # A resumed run makes the steps after `first_step` again: TensorBoard drops what an earlier part wrote of them.
        self._writer = SummaryWriter(run_dir, purge_step=first_step + 1 if first_step else None)
        self._metrics = _metrics_until(first_step, run_dir / METRICS_NAME)
        self._pictures = run_dir / PICTURES_NAME
        self._bar = tqdm(
            initial=first_step,
            total=last_step,
            unit="step",
            dynamic_ncols=True,
            bar_format=BAR,
            disable=not sys.stderr.isatty(),
        )
        self._redirect = logging_redirect_tqdm()
        self._redirect.__enter__()

    def line(self, text: str) -> None:
        """One line for the terminal and log.txt."""
        if self.is_main:
            self._logger.info(text)

    def advance(self, last_step: int, note: str = "") -> None:
        """Move the progress bar by a step.

        Args:
            last_step: the step that the run is now expected to end with.
            note: what stands behind the bar.
        """
        if self.is_main:
            self._bar.total = last_step
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()

    def scalars(self, values: Mapping[str, float], step: int, *, group: str) -> None:
        """Named numbers as TensorBoard curves `group/name`, and as a line of `metrics.jsonl`."""
        if self.is_main:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
            finite = {f"{group}/{name}": value if math.isfinite(value) else None for name, value in values.items()}
            self._metrics.write(json.dumps({"step": step} | finite, allow_nan=False) + "\n")
            self._metrics.flush()

    def picture(self, name: str, image: Tensor, step: int) -> None:
        """A (C, H, W) tensor in [0, 1] as a TensorBoard picture, and as a PNG that replaces the earlier one."""
        if self.is_main:
            self._writer.add_image(name, image.clamp(0, 1), step)
            levels = (255 * image.detach().clamp(0, 1)).round().byte().permute(1, 2, 0).squeeze(2).cpu()  # (H, W[, 3])
            self._pictures.mkdir(exist_ok=True)
            Image.fromarray(levels.numpy()).save(self._pictures / f"{re.sub(r'[^a-z0-9]+', '_', name.lower())}.png")

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
        self._metrics.close()
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()


def _metrics_until(last_step: int, path: Path) -> TextIO:
    """The file of metrics, open for adding to. It keeps its lines up to a step, without one that was cut off."""
    kept = []
    if last_step and path.is_file():
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                if json.loads(line)["step"] <= last_step:
                    kept.append(f"{line}\n")
    write_text(path, "".join(kept))
    return path.open("a")


def described(values: Mapping[str, float]) -> str:
    """Numbers by name on one line: `mae 0.0123  psnr 29.04`."""
    return "  ".join(
        f"{name} {value:.4g}" if abs(value) < 1 else f"{name} {value:.3f}" for name, value in values.items()
    )
