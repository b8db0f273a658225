"""Walk over the rows of a large picture by parts, so that what is computed of them takes little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_PIXELS: Final = 1 << 20


def row_parts(samples: npt.NDArray[np.generic]) -> Iterator[slice]:
    """Yield slices of the first axis, each of about a million pixels.

    Example:
        >>> list(row_parts(np.zeros((3, 1 << 19))))
        [slice(0, 2, None), slice(2, 4, None)]
    """
    step = max(1, _PIXELS // max(1, samples.shape[1]))
    for start in range(0, len(samples), step):
        yield slice(start, start + step)


def extremes(samples: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int]:
    """Return the highest channel of each pixel (H, W), and the largest difference of two channels of one pixel.

    Example:
        >>> highest, difference = extremes(np.array([[[1, 5, 2], [7, 7, 7]]], np.uint8))
        >>> highest.tolist(), difference
        ([[5, 7]], 4)
    """
    first = samples[:, :, 0]
    if samples.shape[2] == 1:
        return first, 0
    highest = np.empty_like(first)
    difference = 0
    for rows in row_parts(samples):
        channels = np.moveaxis(samples[rows], 2, 0)
        np.maximum.reduce(channels, axis=0, out=highest[rows])
        difference = max(difference, int((highest[rows] - np.minimum.reduce(channels, axis=0)).max()))
    return highest, difference
