"""Measure how much the images of a set differ among each other.

The difference of two images is the mean absolute one in levels of 0..255, after both were shrunk to 64x64 by area, so
that noise does not pass for variety. Of a set, the mean over all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from scipy.spatial.distance import pdist, squareform

from m2l_runtime.types import Images
from m2l_train.evaluate.metrics.bootstrap import Estimate, estimate, of_mean, pair_means

SIDE: Final = 64


def differences(images: Images) -> npt.NDArray[np.float64]:
    """Return the differences (N, N), in levels, of all pairs of images (N, S, S, 3)."""
    small = [PillowImage.fromarray(image).resize((SIDE, SIDE), PillowImage.Resampling.BOX) for image in images]
    rows = np.stack([np.asarray(picture, np.float64).ravel() for picture in small])
    found: npt.NDArray[np.float64] = squareform(pdist(rows, "cityblock")) / rows.shape[1]
    return found


def of_set(matrix: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> Estimate:
    """Estimate the mean over pairs of :func:`differences` (N, N), N at least 2; weights (R, N)."""
    value = float(pair_means(matrix, np.ones((1, len(matrix))))[0])
    return estimate(value, pair_means(matrix, weights), len(matrix))


def ratio(
    one: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    other_weights: npt.NDArray[np.float64],
) -> Estimate:
    """Estimate the variety of one set over that of another."""
    ones = (np.ones((1, len(one))), np.ones((1, len(other))))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(pair_means(one, ones[0])[0] / pair_means(other, ones[1])[0])
        resampled = pair_means(one, weights) / pair_means(other, other_weights)
    return estimate(value, resampled, min(len(one), len(other)))


def of_samples(samples: Sequence[Images], weights: npt.NDArray[np.float64]) -> Estimate:
    """Estimate the mean over masks of the variety among the samples of each.

    Args:
        samples: at least two sets (N, S, S, 3), in the order of the same masks.
        weights: (R, N), over masks.
    """
    per_mask = [
        float(pair_means(differences(np.stack(generated)), np.ones((1, len(samples))))[0])
        for generated in zip(*samples, strict=True)
    ]
    return of_mean(np.array(per_mask), weights)
