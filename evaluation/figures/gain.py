"""Gain in PSNR over the JPEG against its quality, and how many images get worse: a curve for each network and set."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from evaluation.plot_files import STYLE
from evaluation.scores.documents import CHANNEL_TITLES, SET_TITLES
from evaluation.scores.results import num_images, num_worse

SIZE_INCHES = (5.0, 4.0)


class Curve(NamedTuple):
    """A network's gains on a set, in the order of the qualities.

    Attributes:
        name: for the legend.
        qualities: of the JPEGs, rising. Left out: where the mean gain is infinite, and images coded twice or at drawn
            qualities.
        gains: mean over the images, dB.
        shares_worse: share of the images with a lower PSNR than their JPEG, 0..1.
    """

    name: str
    qualities: list[int]
    gains: list[float]
    shares_worse: list[float]


def curves_of(results: Sequence[dict]) -> list[Curve]:
    """The curves of results of `evaluate`: one for each method and set. Their names say what differs between them."""
    sets = {name for result in results for name in result["results"]}
    modes = {result["channels"] for result in results}
    curves = []
    for result in results:
        for set_name, scores in result["results"].items():
            parts = [result["method"]]
            parts += [SET_TITLES.get(set_name, set_name)] if len(sets) > 1 else []
            parts += [CHANNEL_TITLES[result["channels"]]] if len(modes) > 1 else []
            curves.append(_curve(", ".join(parts), scores))
    return curves


def gain_figure(curves: Sequence[Curve]) -> Figure:
    """Draw the gains above, and the shares of images that get worse below. Both have the quality as their x axis."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        for axes in (above, below):
            axes.grid(linewidth=0.3, color="0.85")
            for curve in curves:
                values = curve.gains if axes is above else curve.shares_worse
                axes.plot(curve.qualities, values, label=curve.name, markersize=3.5, linewidth=1.1)
        above.axhline(0, color="black", linewidth=0.8, zorder=1)
        above.annotate("the JPEG", (1, 0), xytext=(2, 2), textcoords="offset points")
        above.set_ylabel("mean PSNR gain (dB)")
        above.legend(frameon=False, handlelength=3.5)
        below.set(xlabel="JPEG quality", ylabel="images that lose", xlim=(0, 101))
        below.set_ylim(0, max(0.05, *(share for curve in curves for share in curve.shares_worse)) * 1.1)
        below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        figure.align_ylabels()
    return figure


def _curve(name: str, scores: dict[str, dict]) -> Curve:
    finite = {
        int(quality): of_quality
        for quality, of_quality in scores.items()
        if quality.isdecimal() and of_quality["gain"] is not None and math.isfinite(of_quality["gain"])
    }
    qualities = sorted(finite)
    return Curve(
        name,
        qualities,
        [finite[quality]["gain"] for quality in qualities],
        [num_worse(finite[quality]) / num_images(finite[quality]) for quality in qualities],
    )
