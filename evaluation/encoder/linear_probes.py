"""Reads qualities off representations: linear probes and clustering scores. Re-encoding reads them without learning."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import calinski_harabasz_score, silhouette_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from data.jpeg import jpeg_roundtrip

RIDGE_ALPHAS = np.logspace(-2, 4, 7)
NUM_FOLDS = 5


class Probes(NamedTuple):
    """Linear readers of a representation. Both standardise its columns over the rows that they were fitted on."""

    classifier: BaseEstimator  # logistic regression, one class a quality
    ridge: BaseEstimator  # ridge regression, to the quality as a number


def fit_probes(rows: np.ndarray, qualities: np.ndarray, images: np.ndarray) -> Probes:
    """Fit both probes.

    Cross-validation chooses the strength of the ridge among `RIDGE_ALPHAS`, by the least absolute error. A fold leaves
    whole images out, so knowing an image does not help.

    Args:
        rows: (N, D) representations, as the encoder gives them.
        qualities: (N,) labels; two qualities or more.
        images: (N,) the image of each row; two images or more.
    """
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        {"ridge__alpha": RIDGE_ALPHAS},
        cv=GroupKFold(min(NUM_FOLDS, len(np.unique(images)))),
        scoring="neg_mean_absolute_error",
    )
    with threadpool_limits(1):  # with several threads and a busy core, such small matrices take ten times as long
        ridge = search.fit(rows, qualities, groups=images).best_estimator_
        return Probes(classifier.fit(rows, qualities), ridge)


def probe_scores(probes: Probes, rows: np.ndarray, qualities: np.ndarray) -> dict[str, float]:
    """Scores of the probes on rows that they were not fitted on.

    Returns:
        "probe_accuracy": share of rows whose quality the classifier names. "quality_mae": mean absolute error of the
        ridge's estimate, clipped to 1..100, in quality points.
    """
    estimates = probes.ridge.predict(rows).clip(1, 100)
    return {
        "probe_accuracy": float(np.mean(probes.classifier.predict(rows) == qualities)),
        "quality_mae": float(np.mean(np.abs(estimates - qualities))),
    }


def clustering(rows: np.ndarray, qualities: np.ndarray) -> dict[str, float]:
    """How well the qualities form clusters, by Euclidean distance.

    Args:
        rows: (N, D).
        qualities: (N,) labels, of two qualities or more.

    Returns:
        "silhouette": -1..1, higher is better. "calinski_harabasz": dispersion between the qualities divided by the
        dispersion within them, from 0 up. It is infinite where each quality is one point, and 0 where all rows are.
    """
    groups = [rows[qualities == quality] for quality in np.unique(qualities)]
    is_one_point_each = all((group == group[0]).all() for group in groups)
    if is_one_point_each:  # scikit-learn answers 1.0 here, which reads as a poor score
        dispersion = 0.0 if (rows == rows[0]).all() else np.inf
    else:
        dispersion = float(calinski_harabasz_score(rows, qualities))
    return {"silhouette": float(silhouette_score(rows, qualities)), "calinski_harabasz": dispersion}


def reencoded_quality(pixels: np.ndarray, candidates: Sequence[int], *, workers: int = 1) -> np.ndarray:
    """The quality at which coding an image once more changes its pixels least (mean squared change).

    An image cut on the JPEG grid hardly changes at its own quality. It may not change at finer qualities either. So
    among equal ones the lowest quality, which has the coarsest steps, is the answer.

    Args:
        pixels: (N, H, W) or (N, H, W, 3) uint8.
        candidates: the qualities to try.
        workers: threads.

    Returns:
        (N,) int64, each one of the candidates.
    """
    tried = sorted(candidates)

    def read(image: np.ndarray) -> int:
        before = image.astype(np.int32)
        return tried[int(np.argmin([np.square(jpeg_roundtrip(image, quality) - before).sum() for quality in tried]))]

    with ThreadPoolExecutor(workers) as pool:
        return np.array(list(pool.map(read, pixels)))
