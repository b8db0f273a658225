"""Find marks that images of different masks share, at the same place of the picture.

A generator that takes a mask alone tends to draw the same blot, hair or grid into every picture. What is left of an
image without its blur is its detail; details of unrelated photographs have nothing to do with one another, so the mean
of their products over pairs of different images is 0, and its root is the strength of what they share. Taken over pairs
of different images it does not depend on how many there are, as the detail of a mean image does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from m2l_runtime.types import Image, Images
from m2l_train.evaluate.metrics.bootstrap import Estimate, estimate, pair_means
from m2l_train.evaluate.sets import in_threads

BLUR_FRACTION: Final = 1 / 32
"""Standard deviation of the Gaussian that is taken away, of an image's shorter side: 8 pixels of 256."""

Products = npt.NDArray[np.float64]
"""(N, N): mean product of two images' details over pixels and channels, square levels."""


def products(images: Images, *, workers: int = 1, on_image: Callable[[int], None] = lambda count: None) -> Products:
    """Compare the details of images (N, H, W, 3) uint8, at most some hundreds; the diagonal is their own power."""
    details = np.empty((len(images), math.prod(images.shape[1:])), np.float32)
    for place, detail in enumerate(in_threads(_detail, images, workers)):
        details[place] = detail.ravel()
        on_image(1)
    found: Products = (details @ details.T).astype(np.float64) / details.shape[1]
    return found


def _detail(image: Image) -> npt.NDArray[np.float32]:
    levels = image.astype(np.float32)
    sigma = min(image.shape[:2]) * BLUR_FRACTION
    detail: npt.NDArray[np.float32] = levels - gaussian_filter(levels, (sigma, sigma, 0), mode="nearest")
    return detail


def strength(matrix: Products, weights: npt.NDArray[np.float64]) -> Estimate:
    """Estimate the root mean square of the detail that images share, in levels; weights (R, N).

    Below 0 where the mean product is, as it is for unrelated images about half of the time.
    """
    value, resampled = _pair_means(matrix, weights)
    return estimate(float(_root(value)[0]), _root(resampled), len(matrix))


def correlation(matrix: Products, weights: npt.NDArray[np.float64]) -> Estimate:
    """Estimate the mean correlation of the details of two images, -1..1; an image without detail has none."""
    power = np.sqrt(np.diag(matrix))
    scale = np.divide(1, power, out=np.zeros_like(power), where=power > 0)
    value, resampled = _pair_means(matrix * scale[:, None] * scale, weights)
    return estimate(float(value[0]), resampled, len(power))


def _pair_means(
    matrix: Products, weights: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return pair_means(matrix, np.ones((1, len(matrix)))), pair_means(matrix, weights)


def _root(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    roots: npt.NDArray[np.float64] = np.sign(values) * np.sqrt(np.abs(values))
    return roots
