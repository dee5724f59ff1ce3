"""`summary.md` of a run's folder: what was trained, by which command and code, where, and how well."""

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
import yaml

from common.files import sha256, write_text
from common.machine import hardware, library_versions
from engine.run_log import METRICS_NAME, PICTURES_NAME

NAME = "summary.md"
PROJECT = Path(__file__).resolve().parent.parent


def origin(device: torch.device) -> dict[str, str]:
    """Where a run comes from: command, commit, machine, versions and start, as text. Ask before the training."""
    return {
        "command": f"`{shlex.join(['python', *sys.argv])}`",
        "commit": commit(PROJECT),
        "machine": ", ".join(f"{name} {value}" for name, value in hardware(device).items()),
        "versions": ", ".join(f"{name} {value}" for name, value in library_versions().items()),
        "started": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def commit(project: Path) -> str:
    """The git commit of a folder, and whether anything differs from it or is new."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(project), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        name, changed = git("rev-parse", "HEAD"), git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git, or not its working tree"
    return f"{name}, " + (f"with {len(changed.splitlines())} file(s) changed or new" if changed else "nothing changed")


def write_summary(
    run_dir: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    weights: Path,
    best: str,
    best_score: float,
    config: Mapping[str, object],
) -> None:
    """Write `summary.md`, from `facts` and what else the folder holds.

    Args:
        run_dir: the run's folder.
        title: first line.
        facts: texts by name, for the first table.
        weights: the published weights; they may not exist yet.
        best: the validation metric that chose them (larger is better).
        best_score: their score by it. Others may be higher, if the run was measured in another way before.
        config: the resolved configuration, in plain containers.
    """
    if weights.is_file():
        facts = {**facts, "weights": f"`{weights.name}`, sha256 {sha256(weights)}"}
    parts = [
        f"# {title}",
        _table([["", ""], *([name, text] for name, text in facts.items())]),
        _scores(run_dir / METRICS_NAME, best, best_score),
        *(f"![{path.stem}]({PICTURES_NAME}/{path.name})" for path in sorted((run_dir / PICTURES_NAME).glob("*.png"))),
        f"```yaml\n{yaml.safe_dump(dict(config), sort_keys=False)}```",
    ]
    write_text(run_dir / NAME, "\n\n".join(part for part in parts if part) + "\n")


def _scores(metrics: Path, best: str, best_score: float) -> str:
    """A table of all validations in `metrics.jsonl`; empty if there was none. The published one is marked."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    prefix = "validation/"
    # A run that goes on from a validation measures again: the last row of a step counts.
    rows = list({row["step"]: row for row in rows if f"{prefix}{best}" in row}.values())
    if not rows:
        return ""
    names = [name for name in rows[-1] if name.startswith(prefix)]
    # A score that is not finite (equal images) is null in the file. Of equal scores the last was published.
    chosen = (index for index, row in enumerate(rows) if _or_infinity(row[prefix + best]) == best_score)
    top = max(chosen, default=None)
    cells = [
        [f"**{row['step']:,}**" if index == top else f"{row['step']:,}", *(_number(row.get(name)) for name in names)]
        for index, row in enumerate(rows)
    ]
    header = ["step", *(name.removeprefix(prefix) for name in names)]
    return _table([header, *cells])


def _or_infinity(value: float | None) -> float:
    return math.inf if value is None else value


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
