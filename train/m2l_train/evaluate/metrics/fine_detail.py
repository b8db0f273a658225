"""Measure the finest detail of images: how sharp they are, and whether its colors go together.

Sharpness is the variance of the Laplacian (Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR
2000) of the grey image. In photographs light and shadow make the finest detail, so red and green have it in common, all
the more after JPEG with halved color; a generator draws noise in each channel for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import laplace
from scipy.stats import wasserstein_distance

from m2l_runtime.types import Image, Images
from m2l_train.evaluate.sets import in_threads

MIN_VARIANCE: Final = 1e-3
"""Square levels; an image without any detail counts as having this."""
_LUMA: Final = (0.299, 0.587, 0.114)

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FineDetail:
    """Hold a value for each image."""

    sharpness: Values
    """(N,): variance of the Laplacian, square levels."""
    red_green: Values
    """(N,): correlation of the Laplacians of red and green, -1..1; NaN where one is flat."""


def measure(images: Images, *, workers: int = 1, on_image: Callable[[int], None] = lambda count: None) -> FineDetail:
    """Measure images (N, S, S, 3) uint8."""
    rows = []
    for row in in_threads(_measure, images, workers):
        rows.append(row)
        on_image(1)
    values = np.array(rows, np.float64).reshape(-1, 2)
    return FineDetail(values[:, 0], values[:, 1])


def _measure(image: Image) -> tuple[float, float]:
    levels = image.astype(np.float64)
    grey = laplace(levels @ np.array(_LUMA), mode="nearest")
    red, green = (laplace(levels[:, :, channel], mode="nearest") for channel in (0, 1))
    red, green = red - red.mean(), green - green.mean()
    power = float(np.sqrt(np.square(red).mean() * np.square(green).mean()))
    return float(grey.var()), float((red * green).mean()) / power if power > 0 else float("nan")


def distance(one: Values, other: Values) -> float:
    """Return how far apart two sets' sharpness (N,) and (M,) is, in octaves: Wasserstein's distance of log2."""
    return float(wasserstein_distance(*(np.log2(np.maximum(values, MIN_VARIANCE)) for values in (one, other))))
