"""Compute intervals of metrics with the percentile bootstrap of Efron and Tibshirani (1993, chapter 13).

A resample draws as many images as there are, with replacement. A mean takes every image as often as it was drawn. A
mean over pairs of images takes only pairs of different originals: an image drawn twice is not a pair of equal images,
which would make every set look less varied than it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from m2l_runtime.conditioning.random import random_below, random_uint64

RESAMPLES: Final = 1000
COVERAGE: Final = 0.95
MIN_IMAGES: Final = 5
"""An interval from fewer images would be of a handful of values."""
NORMAL: Final = 1.959964
"""97.5 % quantile of the normal distribution."""

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Estimate:
    """Hold a value with its interval."""

    value: float
    low: float | None = None
    """Ends of the 95 % interval; None: there is none."""
    high: float | None = None
    resampled: Floats | None = field(default=None, compare=False, repr=False)
    """(R,): the value of each resample, from which differences of two estimates get their interval; None: unknown."""
    left_out: tuple[Floats, ...] | None = field(default=None, compare=False, repr=False)
    """The value with each image left out in turn, (N,) of every set that it is of, where the interval is the
    jackknife's; None: it is not."""

    def times(self, factor: float) -> Estimate:
        """Return the same in another unit; `factor` above 0."""
        low, high = (None if end is None else factor * end for end in (self.low, self.high))
        resampled = None if self.resampled is None else factor * self.resampled
        left_out = None if self.left_out is None else tuple(factor * values for values in self.left_out)
        return Estimate(factor * self.value, low, high, resampled, left_out)


def resample_indices(count: int, seed: int, *names: str | int, resamples: int = RESAMPLES) -> npt.NDArray[np.int64]:
    """Draw the places of the images of each resample: (resamples, count), 0..count-1.

    Sets that belong together image by image take the same `names`, and so the same resamples.
    """
    return random_below(count, random_uint64(resamples * count, seed, "evaluate", "bootstrap", *names)).reshape(
        resamples, count
    )


def multiplicities(places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Count how often each image is in each resample: (resamples, count)."""
    resamples, count = places.shape
    offset = np.arange(resamples)[:, None] * count
    return np.bincount((places + offset).ravel(), minlength=resamples * count).reshape(resamples, count).astype(float)


def estimate(value: float, resampled: Floats, image_count: int) -> Estimate:
    """Return `value` with the interval between percentiles of the resamples' values; NaN are left out."""
    known = resampled[np.isfinite(resampled)]
    if image_count < MIN_IMAGES or len(known) < len(resampled) / 2 or not math.isfinite(value):
        return Estimate(value)
    low, high = np.quantile(known, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Estimate(value, float(low), float(high), resampled)


def combine(function: Callable[..., Any], *estimates: Estimate) -> Estimate:
    """Estimate a function of several estimates that share their resamples, such as the difference of two.

    Of estimates with resampled values, the interval is between percentiles of the function of each resample. Of
    estimates with images left out in turn it is the jackknife's (Efron and Stein 1981): normal, its variance the sum
    over sets of (n - 1) / n times the squares' sum.

    Example:
        >>> import numpy as np
        >>> weights = multiplicities(resample_indices(40, 0))
        >>> one, other = (of_mean(np.arange(40.0) + shift, weights) for shift in (0, 3))
        >>> combine(lambda a, b: b - a, one, other)  # the same images are drawn, so their spread goes
        Estimate(value=3.0, low=3.0, high=3.0)

    Args:
        function: of a number, or an array, for each estimate.
        estimates: drawn with the same resamples, or with the same images left out.

    Returns:
        The value; without an interval where the estimates have neither in common.
    """
    value = float(function(*(one.value for one in estimates)))
    drawn = [one.resampled for one in estimates if one.resampled is not None]
    left = [one.left_out for one in estimates if one.left_out is not None]
    if len(drawn) == len(estimates):
        return estimate(value, np.asarray(function(*drawn)), MIN_IMAGES)
    if len(left) == len(estimates) and len({tuple(map(len, one)) for one in left}) == 1 and math.isfinite(value):
        variance = 0.0
        for columns in zip(*left, strict=True):
            without = np.asarray(function(*columns))
            variance += (len(without) - 1) / len(without) * float(np.square(without - without.mean()).sum())
        reach = NORMAL * math.sqrt(variance)
        return Estimate(value, value - reach, value + reach)
    return Estimate(value)


def of_mean(values: Floats, weights: npt.NDArray[np.float64]) -> Estimate:
    """Estimate the mean of a value for each image (N,) without NaN; `weights` of :func:`multiplicities`."""
    known = np.isfinite(values)
    if not known.any():
        return Estimate(math.nan)
    share = weights[:, known]
    with np.errstate(invalid="ignore"):
        resampled = share @ values[known].astype(np.float64) / share.sum(1)
    return estimate(float(values[known].mean(dtype=np.float64)), resampled, int(known.sum()))


def of_quantile(values: Floats, quantile: float, places: npt.NDArray[np.int64]) -> Estimate:
    """Estimate a quantile (0..1) of a value for each image (N,); `places` of :func:`resample_indices`."""
    return estimate(float(np.quantile(values, quantile)), np.quantile(values[places], quantile, axis=1), len(values))


def of_median_ratio(
    values: Floats, other: Floats, places: npt.NDArray[np.int64], other_places: npt.NDArray[np.int64]
) -> Estimate:
    """Estimate the median of values (N,) over that of others (M,); `places` of :func:`resample_indices`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.median(values) / np.median(other)
        resampled = np.median(values[places], axis=1) / np.median(other[other_places], axis=1)
    return estimate(float(value), resampled, min(len(values), len(other)))


def pair_means(matrix: Floats, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean over pairs of different originals within each resample.

    Args:
        matrix: (N, N), one value for each pair; the diagonal is not looked at.
        weights: (R, N).

    Returns:
        (R,); NaN where a resample holds one original alone.
    """
    off = matrix.astype(np.float64)
    np.fill_diagonal(off, 0)
    summed = np.einsum("rn,rn->r", weights @ off, weights)
    count = weights.sum(1) ** 2 - np.square(weights).sum(1)
    means: npt.NDArray[np.float64] = np.full(len(weights), np.nan)
    np.divide(summed, count, out=means, where=count > 0)
    return means
