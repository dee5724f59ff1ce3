"""Tables in README, docs and model cards, made from the results in `docs/results`.

Two lines of a page mark the place of a table:

    <!-- table scores: docs/results/fast_tiny_gray.json -->
    <!-- end -->

The text between them is made by `LAYOUTS["scores"]` from those files. Paths are relative to the project's folder.
"""

import json
import re
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

from safetensors import SafetensorError, safe_open

from common.files import sha256, write_text
from evaluation.report import NO_VALUE, as_json, as_markdown
from evaluation.scores.metrics import METRICS
from evaluation.scores.paper import sections_of
from evaluation.scores.results import num_images, num_worse
from evaluation.scores.tables import metrics_of, paper_table

RESULTS = "docs/results"
PAGES = ("README.md", "docs/*.md", "weights/*.md")
SET_TITLES = {
    "classic5": "Classic5", "live1": "LIVE1", "bsds500": "BSDS500 test", "bsds500/val": "BSDS500 val", "icb": "ICB",
}  # fmt: skip
CHANNEL_TITLES = {"gray": "luma", "color": "colour"}
PAPER_TABLES = {"gray": 1, "color": 3}  # the paper's tables with scores of other systems at Q10 to 40
PRINTED_NAMES = {"DnCNN": "DnCNN-3", "Ours": "the paper"}  # names of the paper's rows on our pages
SHORT_ROWS = ("DnCNN", "FBCNN", "Ours")
SHORT_QUALITIES = (10, 20, 30, 40)
MAX_COLUMNS = 20  # qualities side by side
FULL_ROWS = {"gray": ("DnCNN", "ARCNN", "Ours"), "color": ("QGAC", "FBCNN", "Ours")}

_MARK = re.compile(r"(<!-- table (\S+): ([^>]*?) -->)(.*?)(<!-- end -->)", re.DOTALL)


def keep_result(path: str | Path, root: str | Path) -> Path:
    """Copy a result of `evaluate` or `table` to `docs/results`, without the scores of single images.

    Args:
        path: the JSON file. The copy has the same name. The date of the file becomes "measured", of a table "date".
        root: the project's folder.

    Returns:
        The path of the copy.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a result.
    """
    path = Path(path)
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        day = str(date.fromtimestamp(path.stat().st_mtime))
        if "table" in result:
            kept = {"date": day} | result | {"measured": [_slim(one) for one in result["measured"]]}
        else:
            kept = {"measured": day} | _slim(result)
        results = [one["results"] for one in (kept["measured"] if "table" in kept else [kept])]
        if not results or not all(found and all(found.values()) for found in results):
            raise ValueError("no scores")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path} is not a result of `evaluate` or `table`; give the JSON file of one") from None
    target = Path(root) / RESULTS / path.name
    write_text(target, as_json(kept))
    return target


def pages(root: str | Path) -> list[Path]:
    """Paths of README, docs and model cards."""
    return sorted(path for pattern in PAGES for path in Path(root).glob(pattern))


def updated(page: str | Path, root: str | Path) -> str:
    """The text of a page, with its tables made again.

    Raises:
        FileNotFoundError: if a file that a table is made from is missing.
        ValueError: if a mark cannot be read, or a table cannot be made. Both errors name the page.
    """
    text = Path(page).read_text(encoding="utf-8")
    if text.count("<!-- table ") != len(_MARK.findall(text)):
        raise ValueError(f"{page}: a mark '<!-- table LAYOUT: FILES -->' has no '<!-- end -->', or no files")

    def made(match: re.Match) -> str:
        start, layout, files, _, end = match.groups()
        if layout not in LAYOUTS:
            raise ValueError(f"{page}: no table '{layout}'; there are {', '.join(LAYOUTS)}")
        paths = [Path(root) / file for file in files.split()]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"{page}: {missing[0]} is missing, which the table '{layout}' is made from")
        try:
            return f"{start}{LAYOUTS[layout](paths)}{end}"
        except (ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{page}: no table '{layout}' can be made from {files} ({reason})") from None

    return _MARK.sub(made, text)


def short_table(paths: Sequence[Path]) -> str:
    """PSNR at four qualities, with a row for each set: the JPEG, ours, and other systems as the paper prints them."""
    rows = [["set", "JPEG", "here", *(PRINTED_NAMES.get(name, name) for name in SHORT_ROWS)]]
    for result in map(_read, paths):
        printed = paper_table(PAPER_TABLES[result["channels"]])["rows"]
        for set_name, found in result["results"].items():
            ours = [_psnrs(found, keys) for keys in (("jpeg", "psnr"), ("psnr",))]
            others = [_printed_psnrs(printed.get(name, {}).get(set_name, {})) for name in SHORT_ROWS]
            rows.append(
                [f"{_title(set_name)}, {CHANNEL_TITLES[result['channels']]}", ours[0], f"**{ours[1]}**", *others]
            )
    return _block(rows)


def full_table(paths: Sequence[Path]) -> str:
    """PSNR / SSIM / PSNR-B, with a row for each set and quality of the paper's table and three of its systems."""
    parts = []
    for result in map(_read, paths):
        names = FULL_ROWS[result["channels"]]
        table, metrics = paper_table(PAPER_TABLES[result["channels"]]), metrics_of(result)
        rows = [["set", "Q", "JPEG", f"`{result['method']}`", *(f"{PRINTED_NAMES.get(n, n)}, printed" for n in names)]]
        for set_name, quality, scores in _cells(result):
            cells = [table["rows"][name].get(set_name, {}).get(int(quality)) for name in names]
            if cells[-1] is not None:
                named = [dict(zip(table["metrics"], cell, strict=True)) if cell else {} for cell in cells]
                others = [_joined(printed, metrics) if printed else NO_VALUE for printed in named]
                ours = f"**{_joined(scores, metrics)}**"
                rows.append([_title(set_name), quality, _joined(scores["jpeg"], metrics), ours, *others])
        parts.append(_block(rows, _origin(result)))
    return "".join(parts)


def scores_table(paths: Sequence[Path]) -> str:
    """The table of a model card: PSNR / SSIM / PSNR-B of the JPEG and of the network, and the gain in PSNR."""
    parts = []
    for result in map(_read, paths):
        metrics = metrics_of(result)
        rows = [["set", "Q", "JPEG", f"`{result['method']}`", "gain", "lowest of an image"]]
        for set_name, quality, scores in _cells(result):
            gains = [f"{_number(scores[name], '+.2f')} dB" for name in ("gain", "worst_gain")]
            joined = [_joined(values, metrics) for values in (scores["jpeg"], scores)]
            rows.append([_title(set_name), quality, *joined, *gains])
        parts.append(_block(rows, _origin(result)))
    return "".join(parts)


def gains_table(paths: Sequence[Path]) -> str:
    """Gains in PSNR at each quality; one table for each set, or several if there are many qualities."""
    parts = []
    for result in map(_read, paths):
        for set_name, found in result["results"].items():
            of_all = list(found.values())
            num_images = of_all[0]["num_images"]
            qualities = list(found)
            pieces = [qualities[start : start + MAX_COLUMNS] for start in range(0, len(qualities), MAX_COLUMNS)]
            blocks = [_gain_rows({quality: found[quality] for quality in piece}, num_images) for piece in pieces]
            gains = [scores["gain"] for scores in of_all]
            mean = None if None in gains else sum(gains) / len(gains)
            lowest = min((scores["worst_gain"] for scores in of_all if scores["worst_gain"] is not None), default=None)
            num_worse = sum(scores["num_worse"] for scores in of_all)
            note = (
                f"`{result['method']}`, {_title(set_name)}, {CHANNEL_TITLES[result['channels']]}, mean PSNR gain over "
                f"these qualities: {_number(mean, '+.2f')} dB; images that lose: "
                f"{num_worse} of {num_images * len(of_all)}; lowest of an image: {_number(lowest, '+.2f')} dB."
            )
            parts += [_block(rows) for rows in blocks[:-1]] + [_block(blocks[-1], f"{note} {_origin(result)}")]
    return "".join(parts)


def printed_tables(paths: Sequence[Path]) -> str:
    """Results of the command `table`, as it prints them."""
    parts = []
    for content in map(_read, paths):
        made = [one["provenance"] for one in content["measured"]]
        settings = {f"{one['device']}, {one['precision']}" for one in made if "device" in one}
        digests = {f"{one['weights']} `{one['weights_sha256'][:12]}`" for one in made if "weights" in one}
        origin = [f"Measured {content['date']}: {'; '.join(sorted(settings))}"]
        if content["table"] != 5:  # of which nobody has the networks
            origin += [f"sha256 of {digest}" for digest in sorted(digests)]
        parts += ["\n\n", "\n".join(map(as_markdown, sections_of(content))), "\n", ", ".join(origin), ".\n\n"]
    return "".join(parts)


def weight_files(paths: Sequence[Path]) -> str:
    """Name, number type, size and checksum of each weight file, all on one line."""
    described = []
    for path in paths:
        with safe_open(path, framework="numpy") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a dict
        stored = "float16" if "F16" in kinds else "float32"
        described.append(f"`{path.name}`, {stored}, {path.stat().st_size / 1e6:.1f} MB, sha256 `{sha256(path)}`")
    return "; ".join(described)


LAYOUTS: dict[str, Callable[[Sequence[Path]], str]] = {
    "short": short_table,
    "full": full_table,
    "scores": scores_table,
    "gains": gains_table,
    "printed": printed_tables,
    "weights": weight_files,
}


def _slim(result: dict) -> dict:
    """A result of `protocol.evaluate` without the scores of single images."""
    return result | {
        "results": {
            set_name: {quality: _without_images(scores) for quality, scores in qualities.items()}
            for set_name, qualities in result["results"].items()
        }
    }


def _without_images(scores: dict) -> dict:
    if "gain" not in scores:  # of Table 2
        return {name: value for name, value in scores.items() if name != "images"}
    counts = {"num_images": num_images(scores), "num_worse": num_worse(scores)}
    return {name: value for name, value in scores.items() if name != "images"} | counts


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError("it is not JSON; docs/results.md says how to make it again") from None


def _cells(result: dict) -> list[tuple[str, str, dict]]:
    return [(name, quality, scores) for name, found in result["results"].items() for quality, scores in found.items()]


def _gain_rows(found: dict[str, dict], num_images: int) -> list[list[str]]:
    return [
        ["Q", *found],
        [f"gain, mean of {num_images} images (dB)", *(_number(scores["gain"], "+.2f") for scores in found.values())],
        ["lowest of an image (dB)", *(_number(scores["worst_gain"], "+.2f") for scores in found.values())],
    ]


def _title(set_name: str) -> str:
    return SET_TITLES.get(set_name, set_name)


def _psnrs(found: dict, keys: Sequence[str]) -> str:
    """PSNR at the four qualities. `keys` is the path to it in the scores of a quality."""
    values = []
    for quality in map(str, SHORT_QUALITIES):
        value = found.get(quality)
        for key in keys:
            value = None if value is None else value[key]
        values.append(_number(value, ".2f"))
    return " / ".join(values)


def _printed_psnrs(cells: dict[int, list[float]]) -> str:
    if not cells:
        return NO_VALUE
    return " / ".join(f"{cells[quality][0]:.2f}" if quality in cells else NO_VALUE for quality in SHORT_QUALITIES)


def _joined(scores: dict[str, float], metrics: Sequence[str]) -> str:
    return "/".join(_number(scores.get(metric), f".{METRICS[metric].decimals}f") for metric in metrics)


def _number(value: float | None, form: str) -> str:
    return NO_VALUE if value is None else format(value, form)  # null stands for an infinite score


def _origin(result: dict) -> str:
    made = result["provenance"]
    return (
        f"Measured {result['measured']}: {made['device']}, {made['precision']}, weights sha256 "
        f"`{made['weights_sha256'][:12]}`."
    )


def _block(rows: Sequence[Sequence[str]], note: str = "") -> str:
    header, *body = ("| " + " | ".join(row) + " |" for row in rows)
    lines = [header, "|" + "---|" * len(rows[0]), *body, *(["", note] if note else [])]
    return "\n\n" + "\n".join(lines) + "\n\n"
