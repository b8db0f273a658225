"""Measure how much of one set of images lies within the other, on any features.

Kynkaanniemi, Karras, Laine, Lehtinen, Aila, "Improved Precision and Recall Metric for Assessing Generative Models",
NeurIPS 2019, arXiv:1904.06991: a set's manifold is the union of balls around its images, each as large as the distance
to the image's k-th nearest neighbour in the same set, k = 3. Precision is the share of synthesized images inside the
manifold of the real ones, recall the share of real images inside the manifold of the synthesized ones. Both depend on
how many images there are: compare only columns of equal sizes.

Intervals are the jackknife's, not the bootstrap's: an image drawn twice is its own nearest neighbour, so resamples have
smaller balls. Both sets lose each of their images in turn; the variances add up (Efron and Stein 1981 show that it errs
on the large side).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from m2l_train.evaluate.metrics.bootstrap import MIN_IMAGES, NORMAL, Estimate

NEIGHBORS: Final = 3
_SAME: Final = 1e-9

Distances = npt.NDArray[np.float64]


def square_distances(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> Distances:
    """Return square Euclidean distances (N, M) of rows (N, D) and (M, D); those that rounding makes of 0 are 0."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None]
    squares: Distances = norms - 2 * (a @ b.T)
    squares[squares < _SAME * norms] = 0
    return squares


def precision(images: npt.NDArray[np.floating], real: npt.NDArray[np.floating]) -> Estimate:
    """Estimate the share of images (N, D) inside the manifold of real ones (M, D)."""
    return covered(images, real)


def recall(images: npt.NDArray[np.floating], real: npt.NDArray[np.floating]) -> Estimate:
    """Estimate the share of real images (M, D) inside the manifold of images (N, D)."""
    return covered(real, images)


def covered(
    points: npt.NDArray[np.floating], centers: npt.NDArray[np.floating], *, neighbors: int = NEIGHBORS
) -> Estimate:
    """Estimate the share of points (N, D) inside the balls around centers (M, D), M above `neighbors`.

    Returns:
        The share, 0..1. NaN for too few centers; no interval where all points are inside or all outside, as there is
        no spread to tell one from.
    """
    if len(centers) <= neighbors:
        return Estimate(np.nan)
    within = square_distances(centers, centers)
    np.fill_diagonal(within, -1)  # an image is no neighbour of its own
    nearest = np.argsort(within, axis=1, kind="stable")[:, 1 : neighbors + 2]
    radii = np.take_along_axis(within, nearest, 1)
    across = square_distances(centers, points)
    inside = across <= radii[:, neighbors - 1 : neighbors]
    count = inside.sum(0)
    share = float((count > 0).mean())
    if min(len(points), len(centers)) < MIN_IMAGES or len(centers) < neighbors + 2:
        return Estimate(share)
    grown = inside | (across <= radii[:, neighbors:])  # balls with one of their neighbours gone
    without = np.array([_share_without(j, nearest[:, :neighbors], inside, grown, count) for j in range(len(centers))])
    others = (len(points) * share - (count > 0)) / (len(points) - 1)
    if share in (0, 1):
        return Estimate(share, left_out=(others, without))
    variance = share * (1 - share) / (len(points) - 1)
    variance += (len(centers) - 1) / len(centers) * float(np.square(without - without.mean()).sum())
    reach = NORMAL * float(np.sqrt(variance))
    return Estimate(share, max(0.0, share - reach), min(1.0, share + reach), left_out=(others, without))


def _share_without(
    center: int,
    nearest: npt.NDArray[np.int64],
    inside: npt.NDArray[np.bool_],
    grown: npt.NDArray[np.bool_],
    count: npt.NDArray[np.int64],
) -> float:
    """Return the share that is covered where a center is gone and the balls that it had limited are larger."""
    limited = (nearest == center).any(1)
    left = count - inside[center] + (grown[limited] & ~inside[limited]).sum(0)
    return float((left > 0).mean())
