"""The figures of docs/results.md show what `docs/results` and `paper_tables.yaml` hold."""

import json
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.program import run

KEPT = ROOT / "docs" / "figures"
RESULTS = ROOT / "docs" / "results"
LUMA = ("fast_small_gray", "fast_tiny_gray")
COLOR = ("fast_small_color", "fast_tiny_color")
SOURCES = {
    "gain": ["--results", *(RESULTS / f"{name}_val.json" for name in (*LUMA, *COLOR))],
    "cost": ["--results", *(RESULTS / f"{name}.json" for name in LUMA), "--set", "classic5"],
}


@pytest.mark.parametrize("name", SOURCES)
def test_figures_are_up_to_date(name: str, tmp_path: Path) -> None:
    run("figure", name, *SOURCES[name], "--output", tmp_path, "--dots-per-inch", 20)
    drawn, kept = (json.loads((folder / f"figure_{name}.json").read_text()) for folder in (tmp_path, KEPT))
    assert kept == drawn, "run make figures"
    assert (KEPT / f"figure_{name}.svg").stat().st_size < 200_000
