"""Table 5, the ablation: its models, where their runs are, and measured means beside the printed rows."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import yaml

from evaluation.report import NO_VALUE, Score, Scores, Section
from evaluation.scores.metrics import METRICS, headings
from evaluation.scores.tables import OURS, paper_table

WEIGHTS_NAME = "restorer.safetensors"
REFERENCE = "ours"
MODELS = {  # by the names of the files in configs/ablation: the paper's row, and what is changed
    "model_1": ("model-1", "no encoder"),
    "model_2": ("model-2", "encoder not trained first"),
    "model_3a": ("model-3(a)", "convolutions for INM"),
    "model_3b": ("model-3(b)", "convolutions for INM and EFFM"),
    "model_4": ("model-4", "no FFT loss"),
    REFERENCE: (OURS, "the whole method"),
}


class Trained(NamedTuple):
    """A run that is over, or has been validated: its model, its seed, its weights, and its budget in words."""

    model: str
    seed: int
    weights: Path
    budget: str

    @property
    def about(self) -> dict:
        """What a result says of the run."""
        return {"model": self.model, "seed": self.seed, "budget": self.budget}


def run_folder(output: str | Path, model: str, seed: int) -> Path:
    """Where the run of a model and seed is."""
    return Path(output) / model / f"seed_{seed}"


def trained_models(output: str | Path) -> list[Trained]:
    """The runs under a folder that have weights, in the order of `MODELS` and of their seeds.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if a run's config cannot be read, or if the runs differ in their budget; names two of them.
    """
    found = []
    for model in MODELS:
        folders = {
            int(folder.name.removeprefix("seed_")): folder
            for folder in Path(output).glob(f"{model}/seed_*")
            if folder.name.removeprefix("seed_").isdecimal() and (folder / WEIGHTS_NAME).is_file()
        }
        found += [
            Trained(model, seed, folders[seed] / WEIGHTS_NAME, _budget(folders[seed])) for seed in sorted(folders)
        ]
    if not found:
        raise FileNotFoundError(
            f"{output} holds no trained model of Table 5; train them by python -m commands.ablation"
        )
    for other in found:
        if other.budget != found[0].budget:
            raise ValueError(
                f"{found[0].weights.parent} was trained for {found[0].budget}, {other.weights.parent} for "
                f"{other.budget}: they cannot be compared"
            )
    return found


def sections(results: Sequence[dict]) -> list[Section]:
    """Means over seeds beside the printed rows, and differences to the whole method.

    Args:
        results: of `protocol.evaluate`, each with the keys "model", "seed" and "budget" as well.
    """
    table = paper_table(5)
    metrics, set_name = table["metrics"], table["dataset"]
    qualities = list(table["rows"][OURS])
    scores = {model: _by_seed(results, model, set_name) for model in MODELS}
    heading = [f"Q{quality}" for quality in qualities]
    rows = [["model", "changed", "figures", *heading]]
    differences = [["model", "changed", "figures", *heading]]
    for model, (printed, changed) in MODELS.items():
        of_paper = table["rows"][printed]
        cells = [_cell(dict(zip(metrics, of_paper[quality], strict=True)), metrics) for quality in qualities]
        rows.append([printed, changed, "printed", *cells])
        num_seeds = len(scores[model])
        means = (_over_seeds(scores[model].values(), quality, metrics, mean) for quality in qualities)
        rows.append([printed, changed, f"mean of {num_seeds}", *means])
        if num_seeds > 1:
            spreads = (_over_seeds(scores[model].values(), quality, metrics, stdev) for quality in qualities)
            rows.append([printed, changed, "spread", *spreads])
        if model != REFERENCE:
            whole = table["rows"][OURS]
            gaps = (f"{of_paper[quality][0] - whole[quality][0]:+.2f}" for quality in qualities)
            differences.append([printed, changed, "printed", *gaps])
            pairs = [
                (scores[model][seed], scores[REFERENCE][seed]) for seed in scores[model] if seed in scores[REFERENCE]
            ]
            gaps = (_gap([own[str(q)]["psnr"] - ours[str(q)]["psnr"] for own, ours in pairs]) for q in qualities)
            differences.append([printed, changed, f"measured, {len(pairs)} seed{'s' * (len(pairs) != 1)}", *gaps])
    budgets = sorted({result["budget"] for result in results})
    notes = [
        f"Measured networks were trained for {'; '.join(budgets)}. Spread: standard deviation over seeds.",
        *(f"{MODELS[model][0]}: no trained model" for model in MODELS if not scores[model]),
    ]
    of_pairs = "Mean over seeds of the difference to the whole method with the same seed, and its standard deviation."
    return [
        Section(f"Table 5, {set_name}, {table['channels']}: {headings(metrics)}", rows, notes),
        Section(
            f"Table 5, {set_name}, {table['channels']}: PSNR (dB) minus that of the whole method",
            differences,
            [of_pairs],
        ),
    ]


def _budget(folder: Path) -> str:
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        trainer, data = config["trainer"], config["data"]
        length = f"{trainer['max_steps']} steps" if trainer["max_steps"] else f"{trainer['max_minutes']} minutes"
        return f"{length} of {data['batch_size']} patches of {data['patch_size_px']} pixels"
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.yaml'} is not the config of a run ({type(error).__name__})") from None


def _by_seed(results: Sequence[dict], model: str, set_name: str) -> dict[int, dict]:
    """{seed: {quality: scores}} of one model."""
    return {result["seed"]: result["results"][set_name] for result in results if result["model"] == model}


def _over_seeds(of_seeds: Iterable[dict], quality: int, metrics: Sequence[str], statistic) -> str:
    cells = [scores[str(quality)] for scores in of_seeds]
    return _cell({m: statistic([cell[m] for cell in cells]) for m in metrics}, metrics) if cells else NO_VALUE


def _cell(scores: dict[str, float], metrics: Sequence[str]) -> Scores:
    return Scores(Score(metric, f"{scores[metric]:.{METRICS[metric].decimals}f}") for metric in metrics)


def _gap(gaps: Sequence[float]) -> str:
    if not gaps:
        return NO_VALUE
    return f"{round(mean(gaps), 2) + 0.0:+.2f}" + (f" ±{stdev(gaps):.2f}" if len(gaps) > 1 else "")
