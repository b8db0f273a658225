"""Measure the colors of lesion and skin, and how far apart they are.

Colors are CIE L*a*b* under D65 of sRGB pixels, by scikit-image. A difference is the Euclidean one, Delta E*ab of CIE
1976; about 2.3 is just noticeable (Mahy, Van Eycken, Oosterlinck, Color Research and Application 19(2), 1994).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.color import rgb2lab

from m2l_runtime.types import Image, Images, Mask, Masks
from m2l_train.evaluate.metrics.bootstrap import Estimate, estimate, of_mean
from m2l_train.evaluate.metrics.mask_fidelity import LESION_FROM
from m2l_train.evaluate.sets import in_threads

Colors = npt.NDArray[np.float64]
"""float64 (N, 3): L*, a*, b* of each image; NaN where there is no such pixel."""


@dataclass(frozen=True)
class RegionColors:
    """Hold the mean color of each image's lesion and skin."""

    lesion: Colors
    skin: Colors


def region_colors(
    images: Images, masks: Masks, *, workers: int = 1, on_image: Callable[[int], None] = lambda count: None
) -> RegionColors:
    """Compute mean colors of images (N, S, S, 3) where masks (N, S, S) are lesion, and where they are not."""

    def one(pair: tuple[Image, Mask]) -> tuple[Colors, Colors]:
        image, mask = pair
        lab = rgb2lab(image.astype(np.float32) / 255)
        inside = mask >= LESION_FROM
        return _mean(lab[inside]), _mean(lab[~inside])

    rows = []
    for row in in_threads(one, zip(images, masks, strict=True), workers):
        rows.append(row)
        on_image(1)
    both = np.array(rows, np.float64).reshape(-1, 2, 3)
    return RegionColors(both[:, 0], both[:, 1])


def _mean(pixels: npt.NDArray[np.float32]) -> Colors:
    return pixels.mean(0, dtype=np.float64) if len(pixels) else np.full(3, np.nan)


def paired_difference(generated: Colors, real: Colors, weights: npt.NDArray[np.float64]) -> Estimate:
    """Estimate the mean difference between each image and its own real one, where both have the region."""
    return of_mean(np.linalg.norm(generated - real, axis=1), weights)


def set_difference(
    one: Colors, other: Colors, weights: npt.NDArray[np.float64], other_weights: npt.NDArray[np.float64]
) -> Estimate:
    """Estimate the difference between the mean colors of two sets (N, 3) and (M, 3); weights (R, N) and (R, M)."""
    (mean, resampled, count), (other_mean, other_resampled, other_count) = (
        _moments(colors, share)[:3] for colors, share in ((one, weights), (other, other_weights))
    )
    value = float(np.linalg.norm(mean - other_mean))
    return estimate(value, np.linalg.norm(resampled - other_resampled, axis=1), min(count, other_count))


def spread_ratio(
    one: Colors, other: Colors, weights: npt.NDArray[np.float64], other_weights: npt.NDArray[np.float64]
) -> Estimate:
    """Estimate the spread of one set's colors over that of the other's.

    A spread is the root of the variances summed over L*, a* and b*.
    """
    (spread, resampled, count), (other_spread, other_resampled, other_count) = (
        (*_spread(colors, share), _moments(colors, share)[2])
        for colors, share in ((one, weights), (other, other_weights))
    )
    value = spread / other_spread if other_spread > 0 else np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        return estimate(float(value), resampled / other_resampled, min(count, other_count))


def _moments(
    colors: Colors, weights: npt.NDArray[np.float64]
) -> tuple[Colors, Colors, int, Colors, npt.NDArray[np.float64]]:
    """(mean (3,), means of the resamples (R, 3), how many images count, their colors, their weights)."""
    known = np.isfinite(colors).all(1)
    known_values, share = colors[known], weights[:, known]
    if not len(known_values):
        return np.full(3, np.nan), np.full((len(weights), 3), np.nan), 0, known_values, share
    with np.errstate(invalid="ignore"):
        return (
            known_values.mean(0),
            share @ known_values / share.sum(1, keepdims=True),
            len(known_values),
            known_values,
            share,
        )


def _spread(colors: Colors, weights: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
    mean, resampled_mean, count, found, share = _moments(colors, weights)
    if not count:
        return float("nan"), np.full(len(weights), np.nan)
    with np.errstate(invalid="ignore"):
        square = share @ np.square(found).sum(1) / share.sum(1) - np.square(resampled_mean).sum(1)
    value = float(np.sqrt(np.square(found - mean).sum(1).mean()))
    return value, np.sqrt(np.maximum(square, 0))
