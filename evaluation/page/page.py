"""Makes the page of a report from its parts. `page.html` is its template; `page.css` and `page.js` go into it."""

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jinja2
import markdown
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from evaluation.plot_files import figure_bytes
from evaluation.report import Section

DOTS_PER_INCH = 130  # of figures with pictures: 936 pixels wide
_HERE = Path(__file__).parent
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LOCAL_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://)[^)]*\)")
_HEADING = re.compile(r"^(#+ )", re.MULTILINE)


class Comparison(NamedTuple):
    """Two versions of one picture, for a slider. Both are uint8, of one shape: (H, W) or (H, W, 3)."""

    name: str
    before_name: str
    before: np.ndarray
    after_name: str
    after: np.ndarray
    caption: str


class Drawing(NamedTuple):
    """A figure with its title and caption. One with pictures is a raster image in the page, any other one vectors."""

    title: str
    figure: Figure
    caption: str
    has_pictures: bool = False


@dataclass(frozen=True)
class Page:
    """The parts of a report, in their order.

    Args:
        title: the network's name.
        summary: what it is, in one line.
        comparisons: the sliders.
        tables: scores.
        drawings: figures.
        protocol: how the scores are taken.
        card: the model card, in Markdown; None if there is none.
        provenance: names and values: weights, device, versions, the command.
    """

    title: str
    summary: str
    comparisons: Sequence[Comparison]
    tables: Sequence[Section]
    drawings: Sequence[Drawing]
    protocol: Sequence[str]
    card: str | None
    provenance: dict[str, str]

    def html(self) -> str:
        """The page. It loads nothing, and its policy forbids a browser to load anything for it."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        return environment.get_template("page.html").render(
            page=self, style=style, script=script, script_digest=digest, image=image_address, drawing=figure_address,
            card=card_html(self.card) if self.card else None,
        )  # fmt: skip


def image_address(image: np.ndarray) -> str:
    """A uint8 image as a `data:` address: WebP without loss, so the page shows exactly the pixels that were scored."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="WEBP", lossless=True, quality=100)
    return _address("image/webp", buffer.getvalue())


def figure_address(drawing: Drawing) -> str:
    """A figure as a `data:` address."""
    if not drawing.has_pictures:
        return _address("image/svg+xml", figure_bytes(drawing.figure, "svg"))
    with Image.open(io.BytesIO(figure_bytes(drawing.figure, "png", dots_per_inch=DOTS_PER_INCH))) as picture:
        return image_address(np.asarray(picture.convert("RGB")))


def card_html(text: str) -> str:
    """A model card as HTML, below the page's own headings. Links to files of the project become plain text."""
    text = _HEADING.sub(r"##\1", _LOCAL_LINK.sub(r"\1", _COMMENT.sub("", text)))
    return markdown.markdown(text, extensions=["tables", "fenced_code"])


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
