"""The page of a report: all of it is inside, its pixels are exact, and words cannot become markup."""

import base64
import hashlib
import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from evaluation.page.page import Comparison, Drawing, Page, card_html, image_address
from evaluation.report import Score, Scores, Section
from tests.synthetic import noise


def page(**parts: object) -> Page:
    gray = noise(20, 30)
    given = {
        "title": "net", "summary": "a network",
        "comparisons": [Comparison("bikes", "JPEG", gray, "net", 255 - gray, "bikes, quality 10")],
        "tables": [Section("scores", [["set", "PSNR"], ["live1", "30.00"]], ["a note"])],
        "drawings": [Drawing("curve", Figure(), "a curve"), Drawing("crops", Figure(figsize=(1, 1)), "crops", True)],
        "protocol": ["no border cropped"], "card": "# net\n\ntext", "provenance": {"torch": "2.11"},
    }  # fmt: skip
    return Page(**given | parts)


def test_everything_is_inside() -> None:
    text = page().html()
    addresses = re.findall(r"(?:src|href|url|action)\s*[=(]\s*[\"']?([^\"'\s>)]*)", text)
    assert len(addresses) == 5 and all(address.startswith("data:") for address in addresses)
    for part in ("a network", "bikes, quality 10", "30.00", "a note", "a curve", "no border cropped", "2.11"):
        assert part in text


def test_the_policy_allows_this_script_and_no_other() -> None:
    text = page().html()
    script = re.search(r"<script>(.*)</script>", text, flags=re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in text or f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'; img-src data:;" in text


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3)])
def test_pictures_keep_every_pixel(shape: tuple[int, ...]) -> None:
    image = noise(*shape)
    kind, _, content = image_address(image).partition(";base64,")
    with Image.open(io.BytesIO(base64.b64decode(content))) as found:
        pixels = np.asarray(found)
    assert kind == "data:image/webp"
    np.testing.assert_array_equal(pixels if image.ndim == 3 else pixels[..., 0], image)


def test_best_scores_are_bold_and_second_best_underlined() -> None:
    cell = Scores([Score("psnr", "30.1", 1), Score("ssim", "0.9", 2), Score("psnrb", "<3")])
    text = page(tables=[Section("scores", [["method", "Q10"], ["net", cell]], [])]).html()
    assert "<td>net</td><td><b>30.1</b> / <u>0.9</u> / &lt;3</td>" in text


def test_words_do_not_become_markup() -> None:
    name = '<img src=x onerror="alert(1)">'
    text = page(title=name, provenance={"command": name}, protocol=[name]).html()
    assert name not in text and text.count("&lt;img src=x") == 4


def test_a_card_loses_marks_and_links_to_files_and_its_headings_move_down() -> None:
    card = "# net\n\n<!-- table x: y -->\n\n| a | b |\n|---|---|\n| 1 | [the page](docs/results.md) |\n\n[web](https://a.org)"
    html = card_html(card)
    assert "<h3>net</h3>" in html and "<td>the page</td>" in html and "table x" not in html
    assert '<a href="https://a.org">web</a>' in html and "results.md" not in html
    assert "no model card beside it" in page(card=None).html()
