"""Quantisation tables: libjpeg's, and tables drawn at random that differ from them as other encoders' tables do.

About an eighth of the JPEGs on the web have other tables than libjpeg's. Encoders choose other shapes (flat, or steeper
towards high frequencies), coarser or finer chroma, or the same table for both; cameras tune single steps.
"""

import io
from functools import cache

import numpy as np
from PIL import Image

from data.jpeg import Tables, encode

BLOCK_PX = 8
MAX_STEP = 255  # of baseline JPEG
# What is drawn; spreads are standard deviations of the logarithm of a step.
SLOPE_SPREAD = 0.5  # from the lowest to the highest frequency
LEVEL_SPREAD = 0.2  # of a whole table
MAX_ROUGHNESS = 0.25  # of each step by itself
SHARED_TABLE_ODDS = 0.25  # that chroma is coded with luma's table


@cache
def libjpeg_tables(quality: int) -> Tables:
    """The tables of luma and chroma at a quality of 1..100, as libjpeg writes them. Raises ValueError as `encode`."""
    with Image.open(io.BytesIO(encode(np.zeros((BLOCK_PX, BLOCK_PX, 3), np.uint8), quality))) as file:
        return tuple(tuple(file.quantization[index]) for index in range(2))


def foreign_tables(quality: int, rng: np.random.Generator) -> Tables:
    """Tables of luma and chroma of an invented encoder, about as coarse as libjpeg's at a quality of 1..100.

    The logarithms of libjpeg's steps are drawn towards their mean by a random share (a share of 1 gives a flat table).
    Then a slope over frequency, a level and noise are added. Chroma has a level and noise of its own.
    """
    flatness, slope = rng.random(), SLOPE_SPREAD * rng.standard_normal()
    roughness = MAX_ROUGHNESS * rng.random()
    starts = libjpeg_tables(quality)
    if rng.random() < SHARED_TABLE_ODDS:
        starts = (starts[0], starts[0])
    return tuple(_varied(np.log(start), flatness, slope, roughness, rng) for start in starts)


def _varied(
    logs: np.ndarray, flatness: float, slope: float, roughness: float, rng: np.random.Generator
) -> tuple[int, ...]:
    frequency = np.hypot(*np.indices((BLOCK_PX, BLOCK_PX))).ravel() / np.hypot(BLOCK_PX - 1, BLOCK_PX - 1)  # 0..1
    logs = (1 - flatness) * logs + flatness * logs.mean() + slope * (frequency - frequency.mean())
    logs = logs + LEVEL_SPREAD * rng.standard_normal() + roughness * rng.standard_normal(logs.size)
    return tuple(int(step) for step in np.clip(np.rint(np.exp(logs)), 1, MAX_STEP))
