"""Filter images and find connected pixels, with NumPy alone.

Edges are reflected, the outermost pixel included (NumPy's "symmetric"; scipy.ndimage's "reflect").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
"""One channel (H, W)."""

Bools = npt.NDArray[np.bool_]
"""Marked pixels (H, W)."""

_TRUNCATE: Final = 4.0
"""Standard deviations after which a Gaussian is cut."""


def laplacian(values: Floats) -> Floats:
    """Compute the sum of the second differences along both axes: the kernel [[0, 1, 0], [1, -4, 1], [0, 1, 0]]."""
    padded = np.pad(values, 1, "symmetric")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return around - 4 * values


def gaussian(values: Floats, sigma: float) -> Floats:
    """Blur by a Gaussian of `sigma` pixels, sampled at whole pixels, cut at 4 sigma, of sum 1."""
    radius = int(_TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights /= weights[0] + 2 * weights[1:].sum()
    for axis in (0, 1):
        size = values.shape[axis]
        moved = np.moveaxis(
            np.pad(values, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)], "symmetric"), axis, 0
        )
        blurred = moved[radius : radius + size] * values.dtype.type(weights[0])
        for step in range(1, radius + 1):
            pair = moved[radius - step : radius - step + size] + moved[radius + step : radius + step + size]
            pair *= values.dtype.type(weights[step])
            blurred += pair
        values = np.moveaxis(blurred, 0, axis)
    return values


LINES: Final = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Steps (down, right) of the four lines: level, upright, falling, rising."""


def close_along(values: Floats, step: tuple[int, int], length: int) -> Floats:
    """Close by a line of `length` pixels, an odd number: the least along it of the greatest along it."""
    radius = length // 2
    return _extreme_along(_extreme_along(values, step, radius, np.maximum), step, radius, np.minimum)


def _extreme_along(values: Floats, step: tuple[int, int], radius: int, extreme: np.ufunc) -> Floats:
    """Take an extreme of the 2 radius + 1 pixels of a line around each pixel, by doubling."""
    down, right = step
    height, width = values.shape
    window = np.pad(values, radius, "symmetric")
    length, target = 1, 2 * radius + 1
    # window[y, x] holds the extreme of `length` pixels from (y, x) on, in the direction of (|down|, right).
    while length < target:
        jump = min(length, target - length)
        rows = slice(0, window.shape[0] - down * jump)
        later_rows = slice(down * jump, None)
        if right >= 0:
            columns, later_columns = slice(0, window.shape[1] - right * jump), slice(right * jump, None)
        else:
            columns, later_columns = slice(jump, None), slice(0, window.shape[1] - jump)
        window = extreme(window[rows, columns], window[later_rows, later_columns])
        length += jump
    top = 0 if down else radius
    left = 0 if right else radius
    return window[top : top + height, left : left + width]


@dataclass(frozen=True)
class Components:
    """Hold connected sets of marked pixels (8 neighbors), in any order: one entry each."""

    area: npt.NDArray[np.int64]
    """Pixels."""
    top: npt.NDArray[np.int64]
    bottom: npt.NDArray[np.int64]
    """Last row of each, inclusive; so `right`."""
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    """(H, W): number of each pixel's set, -1 where not marked."""

    @property
    def height(self) -> npt.NDArray[np.int64]:
        """Rows that each spans."""
        return self.bottom - self.top + 1

    @property
    def width(self) -> npt.NDArray[np.int64]:
        """Columns that each spans."""
        return self.right - self.left + 1

    def sums(self, values: Floats) -> npt.NDArray[np.float64]:
        """Sum values (H, W) over each set."""
        marked = self.labels >= 0
        return np.bincount(self.labels[marked], values[marked], minlength=len(self.area)).astype(np.float64)

    def marked(self, is_kept: npt.NDArray[np.bool_]) -> Bools:
        """Mark the pixels of the sets that are kept."""
        return np.append(is_kept, False)[self.labels]


def connected(marked: Bools) -> Components:
    """Find sets of marked pixels that touch, at edges or corners.

    Runs of each row are joined to those of the row above that they touch; numbers of joined runs then fall to the
    least of each set by pointer jumping: Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm",
    Journal of Algorithms 3(1), 1982.
    """
    height, width = marked.shape
    edges = np.diff(np.pad(marked.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)  # exclusive
    parents = _joined(*_touching(rows, starts, ends, width), len(rows))
    _, numbers = np.unique(parents, return_inverse=True)
    count = int(numbers.max()) + 1 if len(numbers) else 0
    top, left = np.full(count, height), np.full(count, width)
    bottom, right = np.full(count, -1), np.full(count, -1)
    np.minimum.at(top, numbers, rows)
    np.maximum.at(bottom, numbers, rows)
    np.minimum.at(left, numbers, starts)
    np.maximum.at(right, numbers, ends - 1)
    area = np.bincount(numbers, ends - starts, minlength=count).astype(np.int64)
    labels = np.full((height, width), -1)
    labels[marked] = np.repeat(numbers, ends - starts)
    return Components(area, top, bottom, left, right, labels)


def _touching(
    rows: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], width: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """List pairs of runs in neighboring rows that touch."""
    stride = width + 3  # apart, so that positions along rows never touch those of the next row
    first = np.searchsorted(rows * stride + ends, (rows - 1) * stride + starts, "left")
    last = np.searchsorted(rows * stride + starts, (rows - 1) * stride + ends, "right")
    counts = np.maximum(last - first, 0)
    lower = np.repeat(np.arange(len(rows)), counts)
    upper = np.repeat(first - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
    return lower, upper


def _joined(lower: npt.NDArray[np.int64], upper: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return for each of `count` runs the least number among those joined to it."""
    parents = np.arange(count)
    while True:
        least = np.minimum(parents[lower], parents[upper])
        if (least == parents[lower]).all() and (least == parents[upper]).all():
            return parents
        np.minimum.at(parents, parents[lower], least)
        np.minimum.at(parents, parents[upper], least)
        while (parents[parents] != parents).any():
            parents = parents[parents]
