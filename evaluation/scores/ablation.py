"""Table 5, the ablation: its models, where their runs are, and measured means beside the printed rows."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from engine.run import Progress
from engine.run_folder import list_checkpoints, read_newest
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
    """A run that is over: its model, its seed, its weights, and its budget in words."""

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


def is_over(folder: Path, state: dict) -> bool:
    """Whether a run has come to the end of its own schedule, by its folder and its newest checkpoint."""
    trainer = state["config"]["trainer"]
    share = Progress(**state["progress"]).share(trainer["max_steps"] or sys.maxsize, trainer["max_minutes"])
    return share >= 1 and (folder / WEIGHTS_NAME).is_file()


def trained_models(output: str | Path) -> list[Trained]:
    """The runs under a folder that are over, in the order of `MODELS` and of their seeds.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if a checkpoint cannot be read, or if the runs differ in their budget; names two of them.
    """
    found = []
    for model in MODELS:
        names = (folder.name.removeprefix("seed_") for folder in Path(output).glob(f"{model}/seed_*"))
        for seed in sorted(int(name) for name in names if name.isdecimal()):
            folder = run_folder(output, model, seed)
            if list_checkpoints(folder):
                _, state = read_newest(folder, stage="restorer")
                if is_over(folder, state):
                    found.append(Trained(model, seed, folder / WEIGHTS_NAME, _budget(state["config"])))
    if not found:
        raise FileNotFoundError(
            f"{output} holds no trained model of Table 5; train some by python -m commands.ablation"
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
        results: of `protocol.evaluate`, each with the keys of `Trained.about` as well.
    """
    table = paper_table(5)
    qualities = list(table["rows"][OURS])
    scores = {model: _by_seed(results, model, table["dataset"]) for model in MODELS}
    heading = ["model", "changed", "figures", *(f"Q{quality}" for quality in qualities)]
    rows, differences = [heading], [heading]
    for model, (printed, changed) in MODELS.items():
        rows += [[printed, changed, *cells] for cells in _score_rows(table, printed, scores[model])]
        if model != REFERENCE:
            cells = _difference_rows(table, printed, scores[model], scores[REFERENCE])
            differences += [[printed, changed, *row] for row in cells]
    budgets = sorted({result["budget"] for result in results})
    notes = [
        f"Measured networks were trained for {'; '.join(budgets)}. Spread: standard deviation over seeds.",
        *(f"{MODELS[model][0]}: no trained model" for model in MODELS if not scores[model]),
    ]
    of_pairs = "Mean over seeds of the difference to the whole method with the same seed, and its standard deviation."
    title = f"Table 5, {table['dataset']}, {table['channels']}: "
    return [
        Section(title + headings(table["metrics"]), rows, notes),
        Section(title + "PSNR (dB) minus that of the whole method", differences, [of_pairs]),
    ]


def _score_rows(table: dict, printed: str, of_seeds: dict[int, dict]) -> Iterator[list[str]]:
    """The printed row of a model, the means over its seeds, and the spread if there are several: kind and cells."""
    metrics, cells = table["metrics"], table["rows"][printed]
    yield ["printed", *(_cell(dict(zip(metrics, scores, strict=True)), metrics) for scores in cells.values())]
    statistics = {f"mean of {len(of_seeds)}": mean} | ({"spread": stdev} if len(of_seeds) > 1 else {})
    for kind, statistic in statistics.items():
        yield [kind, *(_over_seeds(of_seeds, quality, metrics, statistic) for quality in cells)]


def _difference_rows(
    table: dict, printed: str, of_seeds: dict[int, dict], whole: dict[int, dict]
) -> Iterator[list[str]]:
    """PSNR of a model minus that of the whole method, as printed and as measured: kind and cells."""
    cells, of_whole = table["rows"][printed], table["rows"][OURS]
    psnr = table["metrics"].index("psnr")
    yield ["printed", *(f"{cells[quality][psnr] - of_whole[quality][psnr]:+.2f}" for quality in cells)]
    seeds = sorted(of_seeds.keys() & whole.keys())
    row = [f"measured, {len(seeds)} seed{'s' * (len(seeds) != 1)}"]
    for quality in map(str, cells):
        row.append(_gap([of_seeds[seed][quality]["psnr"] - whole[seed][quality]["psnr"] for seed in seeds]))
    yield row


def _budget(config: dict) -> str:
    trainer, data = config["trainer"], config["data"]
    length = f"{trainer['max_steps']} steps" if trainer["max_steps"] else f"{trainer['max_minutes']} minutes"
    return f"{length} of {data['batch_size']} patches of {data['patch_size_px']} pixels"


def _by_seed(results: Sequence[dict], model: str, set_name: str) -> dict[int, dict]:
    """{seed: {quality: scores}} of one model."""
    return {result["seed"]: result["results"][set_name] for result in results if result["model"] == model}


def _over_seeds(
    of_seeds: dict[int, dict], quality: int, metrics: Sequence[str], statistic: Callable[[Sequence[float]], float]
) -> str:
    cells = [scores[str(quality)] for scores in of_seeds.values()]
    return _cell({name: statistic([cell[name] for cell in cells]) for name in metrics}, metrics) if cells else NO_VALUE


def _cell(scores: dict[str, float], metrics: Sequence[str]) -> Scores:
    return Scores(Score(metric, f"{scores[metric]:.{METRICS[metric].decimals}f}") for metric in metrics)


def _gap(gaps: Sequence[float]) -> str:
    if not gaps:
        return NO_VALUE
    return f"{round(mean(gaps), 2) + 0.0:+.2f}" + (f" ±{stdev(gaps):.2f}" if len(gaps) > 1 else "")
