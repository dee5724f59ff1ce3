"""Speed as ratios. Two ways of doing one thing are measured in turns in one run, because machines differ and are noisy.

`evaluation.speed.loader` measures the loader, `evaluation.speed.networks` the networks.
"""

import statistics
from collections.abc import Sequence
from datetime import date

import torch

from common.machine import hardware, library_versions
from evaluation.report import Section


def rates_row(
    name: str, ours: Sequence[float], baseline: Sequence[float], unit: str, *, work: float = 1, baseline_work: float = 1
) -> dict:
    """A row of the benchmark: work per second, ours over the baseline.

    Args:
        name: what is measured, and against what.
        ours: seconds of one piece of work, one number for each round.
        baseline: the same for the baseline, in the same rounds.
        unit: unit of the rates.
        work: size of one piece of our work, in that unit.
        baseline_work: size of one piece of the baseline's work.

    Returns:
        {"name", "ours", "baseline", "unit", "ratio", "spread", "rounds"}: the rates are work by the median of the
        seconds, the ratio is ours / baseline, and the spread is the lowest and highest ratio of one round.

    Raises:
        ValueError: if the rounds disagree in number, or there is none.
    """
    if not ours or len(ours) != len(baseline):
        raise ValueError(f"a row needs as many rounds of both, at least one; got {len(ours)} and {len(baseline)}")
    ratios = [(work / seconds) / (baseline_work / others) for seconds, others in zip(ours, baseline, strict=True)]
    return {
        "name": name,
        "ours": (rate := work / statistics.median(ours)),
        "baseline": (baseline_rate := baseline_work / statistics.median(baseline)),
        "unit": unit,
        "ratio": rate / baseline_rate,
        "spread": [min(ratios), max(ratios)],
        "rounds": len(ours),
    }


def memory_row(name: str, ours: int, baseline: int) -> dict:
    """A row on peak memory, given in bytes. It is measured once, so it has no spread. A smaller ratio is better."""
    megabytes, baseline_megabytes = ours / 1e6, baseline / 1e6
    return {
        "name": name,
        "ours": megabytes,
        "baseline": baseline_megabytes,
        "unit": "MB",
        "ratio": megabytes / baseline_megabytes,
        "spread": None,
        "rounds": 1,
    }


def section(result: dict) -> Section:
    """The table of a result, {"machine", "versions", "date", "settings", "rows"}, with the circumstances below it."""
    rows = [["", "ours", "baseline", "unit", "ratio", "lowest..highest"]]
    for row in result["rows"]:
        spread = "-" if row["spread"] is None else "..".join(f"{ratio:.3g}" for ratio in row["spread"])
        numbers = [f"{row['ours']:.4g}", f"{row['baseline']:.4g}", row["unit"], f"{row['ratio']:.3g}", spread]
        rows.append([row["name"], *numbers])
    notes = [
        f"{title}: " + ", ".join(f"{name} {value}" for name, value in result[title].items())
        for title in ("machine", "versions", "settings")
    ]
    return Section("Speed", rows, [*notes, f"date: {result['date']}"])


def circumstances(device: torch.device) -> dict:
    """Where, with what and when a benchmark runs: {"machine", "versions", "date"}."""
    machine = hardware(device)
    return {"machine": machine, "versions": library_versions(), "date": date.today().isoformat()}
