"""Tell two sets of images apart: a classifier two-sample test on any features.

Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", ICLR 2017: a classifier learns real from synthesized, and
how well it does on images that it has not seen says how different the sets are. Here logistic regression with a ridge
on standardized features, by folds, and the area under the ROC curve: 0.5 where the sets cannot be told apart, 1 where
each image can. The images of one mask lie in the same fold, so a mask cannot be learned by heart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from m2l_runtime.conditioning.random import random_permutation
from m2l_train.evaluate.metrics.bootstrap import Estimate, estimate

FOLDS: Final = 5
REPEATS: Final = 4
"""Divisions into folds, over which the area is averaged."""
RIDGE: Final = 0.1
"""Times half the square of the weights, beside the mean of the losses."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TwoSamples:
    """Hold what a classifier says of images that it was not trained on."""

    area: Estimate
    """Under the ROC curve, 0..1."""
    scores: Floats
    """(N,): mean log odds that each synthesized image is synthesized."""
    other_scores: Floats
    """(M,): of each real one, that it is synthesized."""


def fit_logistic(features: Floats, labels: Floats, ridge: float = RIDGE) -> tuple[Floats, float]:
    """Fit weights (D,) and a bias to rows (N, D) and labels (N,) of 0 and 1.

    Minimizes the mean logistic loss plus `ridge` / 2 times the square of the weights, the bias left out: a convex
    function with one minimum.
    """
    signs = 2 * labels - 1

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, bias = parameters[:-1], parameters[-1]
        margins = signs * (features @ weights + bias)
        pull = -signs * expit(-margins) / len(signs)
        gradient = np.append(features.T @ pull + ridge * weights, pull.sum())
        return float(np.logaddexp(0, -margins).mean() + ridge / 2 * weights @ weights), gradient

    start = np.zeros(features.shape[1] + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-6, "maxiter": 1000}).x
    return found[:-1], float(found[-1])


def tell_apart(
    features: npt.NDArray[np.floating],
    other: npt.NDArray[np.floating],
    weights: Floats,
    other_weights: Floats,
    *,
    is_paired: bool,
    seed: int,
) -> TwoSamples:
    """Train by folds and test on what was left out.

    Args:
        features: (N, D) of synthesized images.
        other: (M, D) of real ones.
        weights: (R, N), how often each resample has an image
            (:func:`m2l_train.evaluate.metrics.bootstrap.multiplicities`).
        other_weights: (R, M).
        is_paired: whether row i of both belongs to one mask; then they lie in one fold.
        seed: of the folds.

    Returns:
        The area, the mean over folds and divisions; its interval is of the images tested, for classifiers as they
        were trained. NaN where a fold has no image of one side.
    """
    one, two = features.astype(np.float64), other.astype(np.float64)
    areas: list[float] = []
    resampled = np.zeros(len(weights))
    scores, other_scores = np.zeros(len(one)), np.zeros(len(two))
    if min(len(one), len(two)) < FOLDS:
        return TwoSamples(Estimate(np.nan), scores, other_scores)
    for repeat in range(REPEATS):
        fold = _folds(len(one), seed, "folds", repeat)
        other_fold = fold if is_paired else _folds(len(two), seed, "other folds", repeat)
        for held in range(FOLDS):
            ours, theirs = fold == held, other_fold == held
            score, other_score = _test(one, two, ours, theirs)
            scores[ours] += score / REPEATS
            other_scores[theirs] += other_score / REPEATS
            wins = (score[:, None] > other_score) + 0.5 * (score[:, None] == other_score)
            areas.append(float(wins.mean()))
            resampled += _weighted(wins, weights[:, ours], other_weights[:, theirs])
    area = estimate(float(np.mean(areas)), resampled / len(areas), min(len(one), len(two)))
    return TwoSamples(area, scores, other_scores)


def _folds(count: int, seed: int, name: str, repeat: int) -> npt.NDArray[np.int64]:
    fold = np.zeros(count, np.int64)
    fold[random_permutation(count, seed, "evaluate", "two samples", name, repeat)] = np.arange(count) % FOLDS
    return fold


def _test(
    one: Floats, two: Floats, held: npt.NDArray[np.bool_], other_held: npt.NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Train on what is not held out; return the log odds of what is."""
    learned = np.concatenate([one[~held], two[~other_held]])
    labels = np.repeat([1.0, 0.0], [int((~held).sum()), int((~other_held).sum())])
    mean, spread = learned.mean(0), learned.std(0)
    scale = 1 / np.where(spread > 1e-6, spread, np.inf)
    slope, bias = fit_logistic((learned - mean) * scale, labels)
    first, second = (((rows - mean) * scale) @ slope + bias for rows in (one[held], two[other_held]))
    return first, second


def _weighted(wins: Floats, weights: Floats, other_weights: Floats) -> Floats:
    """Return the area of each resample (R,); NaN where it has no image of one side."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.einsum("rn,rn->r", weights, other_weights @ wins.T) / (weights.sum(1) * other_weights.sum(1))
    return found
