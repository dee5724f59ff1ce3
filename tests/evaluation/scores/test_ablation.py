"""Table 5: means and spread over seeds against values worked out by hand, and the runs that are found."""

from pathlib import Path

import pytest

from engine.checkpoint import save_checkpoint
from engine.run_folder import checkpoint_name
from evaluation.scores.ablation import MODELS, WEIGHTS_NAME, run_folder, sections, trained_models
from evaluation.scores.paper import sections_of
from evaluation.scores.tables import paper_table
from tests.places import CONFIGS


def result(model: str, seed: int, psnr: float) -> dict:
    scores = {"psnr": psnr, "ssim": 0.8, "psnrb": psnr - 1}
    cells = {str(quality): scores for quality in (10, 20, 30, 40)}
    return {"model": model, "seed": seed, "budget": "9 steps", "results": {"classic5": cells}}


RESULTS = [
    *(result("ours", seed, 30.0 + 0.1 * seed) for seed in (0, 1, 2)),
    *(result("model_1", seed, 29.9 + 0.1 * seed + 0.01 * (seed == 2)) for seed in (0, 1, 2)),
    result("model_4", 1, 29.0),
]


def row(section_rows: list[list[str]], model: str, figures: str) -> list[str]:
    (found,) = (row for row in section_rows if row[0] == model and row[2] == figures)
    return found[3:]


def test_means_and_spread_stand_below_the_printed_row() -> None:
    table, _ = sections(RESULTS)
    assert row(table.rows, "Ours", "printed")[0] == "30.16 / 0.822 / 29.85"
    assert row(table.rows, "Ours", "mean of 3") == ["30.10 / 0.800 / 29.10"] * 4
    assert row(table.rows, "Ours", "spread") == ["0.10 / 0.000 / 0.10"] * 4
    assert row(table.rows, "model-4", "mean of 1") == ["29.00 / 0.800 / 28.00"] * 4
    assert not [line for line in table.rows if line[0] == "model-4" and line[2] == "spread"]
    assert row(table.rows, "model-2", "mean of 0") == ["-"] * 4 and "model-2: no trained model" in table.notes
    assert "9 steps" in table.notes[0]


def test_differences_are_taken_seed_by_seed() -> None:
    _, differences = sections(RESULTS)
    assert row(differences.rows, "model-1", "printed") == ["-0.19", "-0.16", "-0.12", "-0.12"]
    # -0.10, -0.10, -0.09: mean -0.0967, standard deviation 0.0058; that of the scores themselves would be 0.1
    assert row(differences.rows, "model-1", "measured, 3 seeds") == ["-0.10 ±0.01"] * 4
    assert row(differences.rows, "model-4", "measured, 1 seed") == ["-1.10"] * 4
    assert row(differences.rows, "model-2", "measured, 0 seeds") == ["-"] * 4


def test_the_models_are_the_rows_of_the_paper_and_the_files_of_configs() -> None:
    assert [printed for printed, _ in MODELS.values()] == list(paper_table(5)["rows"])
    assert all((CONFIGS / "ablation" / f"{model}.yaml").is_file() for model in MODELS)
    assert sections_of({"table": 5, "measured": RESULTS}) == sections(RESULTS)


def write_run(output: Path, model: str, seed: int, *, max_steps: int = 9, step: int | None = None) -> None:
    """Leave what a training leaves after that step, or after its last."""
    folder = run_folder(output, model, seed)
    step = max_steps if step is None else step
    folder.mkdir(parents=True)
    config = {
        "trainer": {"max_steps": max_steps, "max_minutes": None},
        "data": {"batch_size": 4, "patch_size_px": 48},
    }
    state = {"stage": "restorer", "config": config, "progress": {"step": step, "best": 1.0}}
    save_checkpoint(folder / checkpoint_name(step), state)
    (folder / WEIGHTS_NAME).touch()


def test_runs_that_are_over_are_found_in_order(tmp_path: Path) -> None:
    for model, seed in (("ours", 0), ("model_1", 10), ("model_1", 2)):
        write_run(tmp_path, model, seed)
    write_run(tmp_path, "model_2", 0, step=8)
    write_run(tmp_path, "model_2", 1)
    (run_folder(tmp_path, "model_2", 1) / WEIGHTS_NAME).unlink()
    (tmp_path / "model_3a" / "seed_x").mkdir(parents=True)
    (tmp_path / "model_3a" / "seed_0").mkdir(parents=True)
    found = trained_models(tmp_path)
    assert [(run.model, run.seed) for run in found] == [("model_1", 2), ("model_1", 10), ("ours", 0)]
    assert found[0].budget == "9 steps of 4 patches of 48 pixels" and found[0].weights.is_file()


def test_runs_of_two_budgets_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, "ours", 0)
    write_run(tmp_path, "ours", 1, max_steps=10)
    with pytest.raises(ValueError, match=r"seed_0 was trained for 9 .*seed_1 for 10 .*cannot be compared"):
        trained_models(tmp_path)


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no trained model of Table 5; train some by python -m commands"):
        trained_models(tmp_path)
