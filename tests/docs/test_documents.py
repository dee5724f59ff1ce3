"""Tables in pages: those of the project are up to date, and `document` makes them from results."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import save_file

from common.files import sha256
from evaluation.scores.documents import pages, updated
from tests.places import ROOT
from tests.program import run

GRAY = {"psnr": 29.254, "ssim": 0.7941, "psnrb": 29.017}
JPEG = {"psnr": 27.82, "ssim": 0.76, "psnrb": 25.2}


# The project's own pages.


def test_tables_of_the_project_are_up_to_date() -> None:
    stale = [page for page in pages(ROOT) if page.read_text(encoding="utf-8") != updated(page, ROOT)]
    assert not stale, f"{[str(page.relative_to(ROOT)) for page in stale]}: run make tables"


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/results/*.json")), ids=lambda path: path.name)
def test_results_are_of_the_weights_that_are_shipped(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    results = content["measured"] if "table" in content else [content]
    shipped = [result["provenance"] for result in results if "model" not in result]  # those of Table 5 are not
    for made in shipped:
        if "weights" in made:  # not the JPEG
            assert made["weights_sha256"] == sha256(ROOT / "weights" / made["weights"]), "run make results"


@pytest.mark.parametrize("path", sorted(ROOT.glob("weights/*.safetensors")), ids=lambda path: path.name)
def test_every_weight_file_has_its_checksum_in_a_card(path: Path) -> None:
    cards = "".join(card.read_text(encoding="utf-8") for card in ROOT.glob("weights/*.md"))
    assert f"<!-- table weights: weights/{path.name} -->" in cards
    assert f"`{path.name}`, " in cards and sha256(path) in cards


def test_readme_shows_two_pictures_that_are_small() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](docs/figure_6.png)" in text and "](docs/stages.svg)" in text
    assert max((ROOT / "docs" / name).stat().st_size for name in ("figure_6.png", "stages.svg")) < 300_000


def test_readme_example_restores_a_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in ("README.md", "docs/photos.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        (example,) = (block.split("```")[0] for block in text.split("```python\n")[1:])
        gradient = np.tile(np.arange(64, dtype=np.uint8), (40, 1)) * 4
        Image.fromarray(np.dstack([gradient, gradient.T[:40, :40].repeat(2, axis=1)[:, :64], gradient])).save(
            tmp_path / "photo.jpg", quality=10
        )
        monkeypatch.chdir(tmp_path)
        exec(compile(example, page, "exec"), {})
        with Image.open(tmp_path / "photo.jpg") as photo, Image.open(tmp_path / "photo.png") as restored:
            assert restored.size == photo.size == (64, 40) and restored.mode == "RGB"
            assert not np.array_equal(np.asarray(restored), np.asarray(photo))


def test_citation_names_the_paper_and_no_invented_author() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "preferred-citation"} <= set(citation)
    assert [set(author) for author in citation["authors"]] == [{"name"}]
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Wang", "Fu", "Zhu", "Zha"]
    assert paper["title"] in (ROOT / "README.md").read_text(encoding="utf-8")


# The command.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project's folder: a README without marks, an empty weights folder."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "README.md").write_text("# A project\n")
    return tmp_path


@pytest.fixture
def refused(root: Path, refusal: Callable) -> Callable:
    """Run `document`, which must fail and write nothing; returns the line."""
    return lambda *arguments: refusal("document", "--root", root, *arguments)


def evaluated(folder: Path, name: str, *, set_name: str = "classic5", color_mode: str = "gray") -> Path:
    """A JSON as `evaluate --json` writes it, of one set at Q10 and Q20."""
    images = {"a": GRAY | {"gain": 1.5}, "b": GRAY | {"gain": -0.25}}
    scores = GRAY | {"gain": 1.434, "worst_gain": -0.25, "jpeg": JPEG, "images": images}
    made = {"weights": f"{name}.safetensors", "weights_sha256": "ab" * 32, "device": "cpu", "precision": "float32"}
    result = {"method": name, "channels": color_mode, "protocol": "as ever", "provenance": made}
    result["results"] = {set_name: {"10": scores, "20": scores}}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result))
    os.utime(path, (1_000_000_000, 1_000_000_000))  # 2001-09-09
    return path


def table_of(root: Path, layout: str, *files: str) -> list[str]:
    """The lines that `document` puts between the marks of one page, which are kept."""
    page = root / "README.md"
    page.write_text(f"before\n\n<!-- table {layout}: {' '.join(files)} -->\nold\n<!-- end -->\n\nafter\n")
    run("document", "--root", root)
    before, start, *lines, end, after = [line for line in page.read_text().splitlines() if line]
    assert (before, end, after) == ("before", "<!-- end -->", "after") and start.startswith("<!-- table ")
    return lines


def test_a_result_is_kept_without_single_images(root: Path, capsys: pytest.CaptureFixture) -> None:
    run("document", "--root", root, evaluated(root, "mine"))
    kept = json.loads((root / "docs" / "results" / "mine.json").read_text())
    scores = kept["results"]["classic5"]["10"]
    assert scores == GRAY | {"gain": 1.434, "worst_gain": -0.25, "jpeg": JPEG, "num_images": 2, "num_worse": 1}
    assert kept["measured"] == "2001-09-09" and kept["provenance"]["weights_sha256"] == "ab" * 32
    assert "mine.json" in capsys.readouterr().out


def test_an_infinite_loss_is_counted_and_an_infinite_gain_is_not(root: Path) -> None:
    """JSON has null for both. A network that changes an image without error loses; one that removes all error gains."""
    result = json.loads(evaluated(root, "mine").read_text())
    images = {"spoilt": GRAY | {"gain": None}, "perfect": GRAY | {"psnr": None, "gain": None}}
    result["results"]["classic5"]["10"]["images"] = images
    (root / "mine.json").write_text(json.dumps(result))
    run("document", "--root", root, root / "mine.json")
    kept = json.loads((root / "docs" / "results" / "mine.json").read_text())
    assert kept["results"]["classic5"]["10"]["num_worse"] == 1


def test_results_of_one_file_name_are_refused(root: Path, refused: Callable) -> None:
    (root / "other").mkdir()
    line = refused(evaluated(root, "mine"), evaluated(root / "other", "mine"))
    assert "two results would both become" in line and "mine.json; rename one" in line


def test_card_table(root: Path) -> None:
    run("document", "--root", root, evaluated(root, "mine"))
    assert table_of(root, "scores", "docs/results/mine.json") == [
        "| set | Q | JPEG | `mine` | gain | lowest of an image |",
        "|---|---|---|---|---|---|",
        "| Classic5 | 10 | 27.82/0.760/25.20 | 29.25/0.794/29.02 | +1.43 dB | -0.25 dB |",
        "| Classic5 | 20 | 27.82/0.760/25.20 | 29.25/0.794/29.02 | +1.43 dB | -0.25 dB |",
        "Measured 2001-09-09: cpu, float32, weights sha256 `abababababab`.",
    ]


def test_short_table_has_printed_columns_of_either_kind(root: Path) -> None:
    run("document", "--root", root, evaluated(root, "mine"))
    run("document", "--root", root, evaluated(root, "other", set_name="live1", color_mode="color"))
    *_, luma, color = table_of(root, "short", "docs/results/mine.json", "docs/results/other.json")
    dncnn, ours = "29.40 / 31.63 / 32.91 / 33.77", "**29.25 / 29.25 / - / -**"
    assert luma.startswith(f"| Classic5, luma | 27.82 / 27.82 / - / - | {ours} | {dncnn} | 30.12 / ")
    assert color.startswith(f"| LIVE1, colour | 27.82 / 27.82 / - / - | {ours} | - | 27.77 / ")


def test_full_table_has_the_qualities_that_are_printed(root: Path) -> None:
    path = evaluated(root, "mine")
    content = json.loads(path.read_text())
    content["results"]["classic5"]["15"] = content["results"]["classic5"]["10"]
    content["results"]["my_photos"] = content["results"]["classic5"]
    path.write_text(json.dumps(content))
    run("document", "--root", root, path)
    header, _, *rows, note = table_of(root, "full", "docs/results/mine.json")
    assert header == "| set | Q | JPEG | `mine` | DnCNN-3, printed | ARCNN, printed | the paper, printed |"
    assert note.startswith("Measured ") and "weights sha256 `abababababab`" in note
    assert [row.split(" | ")[:2] for row in rows] == [["| Classic5", "10"], ["| Classic5", "20"]]
    assert rows[0].endswith("| 29.40/0.803/29.13 | 29.03/0.793/28.76 | 30.16/0.822/29.85 |")


def test_gains_table_counts_the_images_that_lose(root: Path) -> None:
    run("document", "--root", root, evaluated(root, "mine", set_name="bsds500/val"))
    assert table_of(root, "gains", "docs/results/mine.json") == [
        "| Q | 10 | 20 |",
        "|---|---|---|",
        "| gain, mean of 2 images (dB) | +1.43 | +1.43 |",
        "| lowest of an image (dB) | -0.25 | -0.25 |",
        "`mine`, BSDS500 val, luma, mean PSNR gain over these qualities: +1.43 dB; images that lose: 2 of 4; lowest "
        "of an image: -0.25 dB. Measured 2001-09-09: cpu, float32, weights sha256 `abababababab`.",
    ]


def test_a_table_of_the_paper_is_shown_as_the_command_prints_it(root: Path) -> None:
    scores = {"lpips": 0.15434, "fid": 101.5, "images": {"a": {"lpips": 0.15434}}}
    made = {"device": "cpu", "precision": "float32", "weights": "mine.safetensors", "weights_sha256": "ab" * 32}
    result = {"method": "mine", "results": {"classic5": {"10": scores}}, "provenance": made}
    path = root / "table_2.json"
    path.write_text(json.dumps({"table": 2, "measured": [result], "missing": {"live1": "it is not there"}}))
    os.utime(path, (1_000_000_000, 1_000_000_000))
    run("document", "--root", root, path)
    kept = json.loads((root / "docs" / "results" / "table_2.json").read_text())
    assert kept["date"] == "2001-09-09" and kept["measured"][0]["results"]["classic5"]["10"] == {
        "lpips": 0.15434, "fid": 101.5
    }  # fmt: skip
    lines = table_of(root, "printed", "docs/results/table_2.json")
    assert "| mine | measured | **0.1543** / **101.50** | - | - | - |" in lines[:7]
    assert "| minus the paper | difference | -0.0002 / -0.18 | - | - | - |" in lines
    assert "live1: not measured, it is not there" in lines
    assert lines[-1] == "Measured 2001-09-09: cpu, float32, sha256 of mine.safetensors `abababababab`."


def test_infinite_scores_are_no_value(root: Path) -> None:
    path = evaluated(root, "mine")
    content = json.loads(path.read_text())
    content["results"]["classic5"]["10"] |= {"gain": None, "worst_gain": None, "psnr": None}
    path.write_text(json.dumps(content))
    run("document", "--root", root, path)
    row = table_of(root, "scores", "docs/results/mine.json")[2]
    assert row == "| Classic5 | 10 | 27.82/0.760/25.20 | -/0.794/29.02 | - dB | - dB |"
    assert "+1.43" not in table_of(root, "gains", "docs/results/mine.json")[-1]


def test_a_weight_file_is_described_within_its_line(root: Path) -> None:
    save_file({"a": np.zeros(500_000, dtype=np.float16)}, root / "weights" / "mine.safetensors")
    card = root / "weights" / "mine.md"
    card.write_text("| file | <!-- table weights: weights/mine.safetensors -->?<!-- end --> |\n")
    run("document", "--root", root)
    assert (
        f"-->`mine.safetensors`, float16, 1.0 MB, sha256 `{sha256(root / 'weights' / 'mine.safetensors')}`<!--"
        in card.read_text()
    )


def test_check_finds_what_is_not_up_to_date(root: Path, refused: Callable) -> None:
    run("document", "--root", root, evaluated(root, "mine"))
    table_of(root, "scores", "docs/results/mine.json")
    run("document", "--root", root, "--check")
    page = root / "README.md"
    page.write_text(page.read_text().replace("29.25", "29.26", 1))
    line = refused("--check")
    assert "README.md" in line and "run test.py document" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table scores: docs/results/none.json -->\n<!-- end -->", "none.json is missing"),
        ("<!-- table scroes: README.md -->\n<!-- end -->", "no table 'scroes'; there are short, full"),
        ("<!-- table scores: README.md -->\n", "has no '<!-- end -->'"),
        ("<!-- table scores: README.md -->\n<!-- end -->", "can be made from README.md (it is not JSON"),
        ("<!-- table scores: results.json -->\n<!-- end -->", "can be made from results.json ('results')"),
        ("<!-- table weights: README.md -->\n<!-- end -->", "no table 'weights' can be made from README.md"),
    ],
)
def test_marks_that_cannot_be_read_are_named(root: Path, refused: Callable, text: str, message: str) -> None:
    (root / "README.md").write_text(text)
    (root / "results.json").write_text("{}")
    line = refused()
    assert "README.md" in line and message in line


def test_mistakes_are_named(root: Path, refused: Callable, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert "is not a result of `evaluate` or `table`" in refused(root / "README.md")
    assert "nothing.json" in refused(root / "nothing.json")
    assert "--check writes nothing" in refused("--check", "x.json")
    assert "holds no README.md" in refused("--root", tmp_path_factory.mktemp("empty"))


@pytest.mark.parametrize(
    "content",
    [
        '{"method": "mine", "channels": "gray", "results": {}}',
        '{"method": "mine", "channels": "gray", "results": {"classic5": {}}}',
        '{"table": 5, "measured": []}',
        '{"table": 2, "measured": [{"results": {}}]}',
        "[" * 100_000,
    ],
)
def test_a_result_without_scores_replaces_none(root: Path, refused: Callable, content: str) -> None:
    good = evaluated(root, "mine")
    run("document", "--root", root, good)
    before = (root / "docs" / "results" / "mine.json").read_bytes()
    good.write_text(content)
    assert "mine.json is not a result of `evaluate` or `table`" in refused(good)
    assert (root / "docs" / "results" / "mine.json").read_bytes() == before


def test_a_result_that_a_page_cannot_show_leaves_the_old_one(root: Path, refused: Callable) -> None:
    run("document", "--root", root, evaluated(root, "mine"))
    (root / "README.md").write_text("<!-- table scores: docs/results/mine.json --><!-- end -->")
    changed = json.loads((root / "mine.json").read_text())
    del changed["channels"], changed["method"]
    (root / "mine.json").write_text(json.dumps(changed))
    (root / "new.json").write_text(json.dumps(changed))
    assert "no table 'scores' can be made" in refused(root / "new.json", root / "mine.json")


def test_a_mark_left_open_in_one_page_changes_no_other(root: Path, refused: Callable) -> None:
    (root / "weights" / "open.md").write_text("<!-- table scores: x.json -->")
    save_file({"a": np.zeros(2, dtype=np.float32)}, root / "weights" / "mine.safetensors")
    (root / "README.md").write_text("<!-- table weights: weights/mine.safetensors --><!-- end -->")
    assert "open.md" in refused()
