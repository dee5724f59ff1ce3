"""`test.py report`: what the page says, how it behaves in a browser, and mistakes."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.jpeg import jpeg_roundtrip
from evaluation.scores import protocol
from evaluation.scores.image_sets import read_clean
from evaluation.scores.metrics import psnr
from restoration import load
from restoration.tiling import restore_image
from tests.browser import Tab, find_chromium, open_tab
from tests.networks import save_tiny, tiny_restorer
from tests.program import run
from tests.synthetic import picture, save, write_pictures

WIDTH, HEIGHT = 160, 152  # of the first picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report of a colour network that changes something, with sliders for two pictures."""
    folder = tmp_path_factory.mktemp("report")
    write_pictures(folder / "data" / "live1", ["b"], size=48)
    save(folder / "data" / "live1" / "a.png", picture(HEIGHT, WIDTH))
    save(folder / "photo.jpg", picture(60, 80, seed=5))
    save_tiny(folder / "tiny.safetensors", tiny_restorer(3, tail_std=0.3))
    (folder / "tiny.md").write_text("# tiny\n\nA card with **words**.\n")
    run(*words(folder, "--photos", folder / "photo.jpg"))
    return folder


def words(folder: Path, *arguments: object) -> list:
    named = ["--weights", folder / "tiny.safetensors", "--output", folder / "report.html", "--quality", 10, 40]
    here = ["--data-root", folder / "data", "--cache", folder / "scores", "--device", "cpu"]
    return ["report", *named, *here, *arguments]


@pytest.fixture(scope="module")
def tab(folder: Path) -> Iterator[Tab]:
    """A browser; tests are skipped where there is none."""
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("needs a Chromium (apt-get install chromium)")
    with open_tab(chromium, folder / "browser") as tab:
        yield tab


@pytest.fixture
def opened(tab: Tab, folder: Path) -> Tab:
    """The report, as wide as a screen, in light colours."""
    tab.open(folder / "report.html", width=1000)
    return tab


def slider(tab: Tab) -> tuple[float, float, float, float]:
    """Left, top, width and height of the first picture, in pixels of the window."""
    return tuple(
        tab.evaluate(
            "(() => { const box = document.querySelector('.comparison').getBoundingClientRect();"
            " return [box.left, box.top, box.width, box.height]; })()"
        )
    )


def value(tab: Tab) -> int:
    return int(tab.evaluate("document.querySelector('.comparison input').value"))


def shown(tab: Tab) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A part of the first picture that no handle covers: before, after, and as the browser shows it.

    The first row is left out: where the picture begins between two pixels, the browser blends both versions there.
    """
    rows = slice(1, HEIGHT // 3)
    versions = []
    for version in ("before", "after"):
        address = tab.evaluate(f"document.querySelector('.comparison .{version}').src")
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as found:
            versions.append(np.asarray(found.convert("RGB"))[rows])
    left, top, width, _ = map(round, slider(tab))
    return *versions, tab.screenshot()[top : top + HEIGHT, left : left + width][rows]


def test_page_has_all_parts(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert headings == ["Before and after", "Scores", "Figures", "Protocol", "Model card", "How this page was made"]
    titles = re.findall(r"<figure>\s*<h3>(.*?)</h3>", text)
    assert titles == ["Magnified", "Photos of unknown quality", "Gain against JPEG quality", "PSNR against arithmetic"]
    assert text.count('type="range"') == 2 and "<strong>words</strong>" in text
    assert "Table 3, live1, color" in text and "weights_sha256" in text and "uint8 RGB, 4:2:0 JPEG" in text
    assert len(text) < 1_000_000


def test_scores_are_measured_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluated(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(protocol, "evaluate", evaluated)
    run(*words(folder, "--photos", folder / "photo.jpg", "--output", folder / "again.html"))
    first, second = ((folder / name).read_text() for name in ("report.html", "again.html"))
    assert first == second


def test_it_asks_for_nothing_and_the_browser_complains_of_nothing(opened: Tab, folder: Path) -> None:
    assert set(opened.requested) == {(folder / "report.html").as_uri()} and opened.complaints == []
    assert opened.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert opened.evaluate("fetch('data:,').then(() => 'loaded', () => 'refused')") == "refused"
    opened.complaints.clear()  # of what was just refused


def test_dragging_the_handle_shows_the_jpeg_on_its_left_and_the_restored_on_its_right(opened: Tab) -> None:
    left, top, width, height = slider(opened)
    assert (width, height) == (WIDTH, HEIGHT) and value(opened) == 50
    opened.mouse("mousePressed", left + width / 2, top + height / 2)
    opened.mouse("mouseMoved", left + width / 4, top + height / 2)
    opened.mouse("mouseReleased", left + width / 4, top + height / 2)
    assert abs(value(opened) - 25) <= 1
    before, after, seen = shown(opened)
    edge = WIDTH // 4
    assert (before != after).any(axis=2).mean() > 0.5
    np.testing.assert_allclose(seen[:, : edge - 5], before[:, : edge - 5], atol=1)
    np.testing.assert_allclose(seen[:, edge + 5 :], after[:, edge + 5 :], atol=1)


def test_the_pictures_are_those_that_are_scored(opened: Tab, folder: Path) -> None:
    clean = read_clean(folder / "data" / "live1" / "a.png", "color")
    before, after, _ = shown(opened)
    restored = restore_image(load(folder / "tiny.safetensors"), jpeg_roundtrip(clean, 10))
    np.testing.assert_array_equal(before, jpeg_roundtrip(clean, 10)[1 : HEIGHT // 3])
    np.testing.assert_allclose(after.astype(int), restored[1 : HEIGHT // 3], atol=1)  # another memory format
    psnrs = [f"{psnr(image, clean):.2f} dB" for image in (jpeg_roundtrip(clean, 10), restored)]
    caption = opened.evaluate("document.querySelector('figcaption').innerText")
    assert re.findall(r"[\d.]+ dB", caption) == psnrs and "Shown are" not in caption  # the whole picture


def test_the_keyboard_reaches_and_moves_a_slider(opened: Tab) -> None:
    opened.press("Tab")
    assert opened.evaluate("document.activeElement.getAttribute('aria-label')").startswith(
        "live1/a: share that is shown as"
    )
    outline = "getComputedStyle(document.querySelector('.comparison')).outlineStyle"
    assert opened.evaluate(outline) == "solid"
    for key, expected in (("ArrowRight", 51), ("ArrowRight", 52), ("ArrowLeft", 51), ("End", 100), ("Home", 0)):
        opened.press(key)
        assert value(opened) == expected
    _, after, seen = shown(opened)
    np.testing.assert_allclose(seen[:, 5:], after[:, 5:], atol=1)


def test_light_and_dark(tab: Tab, folder: Path) -> None:
    for is_dark in (False, True):
        tab.open(folder / "report.html", width=1000, is_dark=is_dark)
        corner, ink = tab.screenshot()[0, 0], tab.evaluate("getComputedStyle(document.body).color")
        assert (corner.max() < 60) if is_dark else (corner.min() > 240)
        assert (max(map(int, re.findall(r"\d+", ink)[:3])) > 200) == is_dark


def test_it_fits_a_phone(tab: Tab, folder: Path) -> None:
    tab.open(folder / "report.html", width=320)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 320
    left, _, width, _ = slider(tab)
    assert left >= 0 and left + width <= 320


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "report.pdf"], "report.pdf must end in .html or .htm"),
        (["--weights", "no_such"], "no weights 'no_such'"),
        (["--weights", "net_{quality}.mat"], "report is about one network; name one of the files that net_{quality}"),
        (["--sets", "no_such"], "no_such"),
        (["--images", "live1/no_such"], "no image 'live1/no_such'"),
        (["--photos", "no_such.jpg"], "no_such.jpg"),
        (["--data-root", "no_such"], "no_such holds none of live1"),
    ],
)  # fmt: skip
def test_mistakes_are_named(folder: Path, refusal: Callable, arguments: list, message: str) -> None:
    assert message in refusal(*words(folder, *arguments))


def test_an_output_that_cannot_be_written(folder: Path, refusal: Callable) -> None:
    assert "is a folder; name a file to write" in refusal(*words(folder, "--output", make(folder / "folder.html")))
    assert "cannot be written" in refusal(*words(folder, "--output", "/proc/report.html"))


def test_a_card_that_is_no_text(folder: Path, refusal: Callable) -> None:
    save_tiny(folder / "other.safetensors", tiny_restorer(3)).with_suffix(".md").write_bytes(b"\xff\xfe")
    line = refusal(*words(folder, "--weights", folder / "other.safetensors"))
    assert "other.md is not a text in UTF-8; replace or remove this model card" in line


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder
