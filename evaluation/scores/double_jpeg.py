"""Published scores of images coded twice, and measured ones below them."""

from collections.abc import Mapping, Sequence

from evaluation.report import NO_VALUE, Section
from evaluation.scores.degradations import Degradation, Jpeg
from evaluation.scores.metrics import METRICS, headings
from evaluation.scores.tables import paper_tables


def beside_published(results: Sequence[dict], degradations: Sequence[Degradation]) -> list[Section]:
    """A table for each set of which scores are published for one of these degradations: their rows, and ours.

    Args:
        results: of `protocol.evaluate`, one for each system, on the same sets with these degradations.
    """
    published = paper_tables()["double_jpeg"]
    if results[0]["channels"] != published["channels"]:
        return []
    shift, (metric,) = tuple(published["shift"]), published["metrics"]
    labels = [each.label for each in degradations if isinstance(each, Jpeg) and each.shift == shift]
    sections = []
    for set_name, first in results[0]["results"].items():
        printed = {
            name: {label: score for label, (score,) in of_sets.get(set_name, {}).items()}
            for name, of_sets in published["rows"].items()
        }
        shown = [label for label in labels if any(label in scores for scores in printed.values())]
        if shown:
            measured = {"jpeg": {label: first[label]["jpeg"][metric] for label in shown}}
            for result in results:
                measured[result["method"]] = {label: result["results"][set_name][label][metric] for label in shown}
            rows = [["method", "figures", *shown]]
            rows += [_row(name, "printed", scores, shown, metric) for name, scores in printed.items()]
            rows += [_row(name, "measured", scores, shown, metric) for name, scores in measured.items()]
            title = f"JPEG twice, {set_name}, {published['channels']}: {headings([metric])}"
            sections.append(Section(title, rows, published["notes"]))
    return sections


def _row(name: str, figures: str, scores: Mapping[str, float], labels: Sequence[str], metric: str) -> list[str]:
    decimals = METRICS[metric].decimals
    cells = [f"{scores[label]:.{decimals}f}" if label in scores else NO_VALUE for label in labels]
    return [name, figures, *cells]
