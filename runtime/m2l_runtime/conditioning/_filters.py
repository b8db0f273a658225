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


def darker_lines(values: Floats, radius: int, apart: int, directions: int = 12) -> Floats:
    """Compute by how much a pixel lies on a dark line: the most over straight lines through it in several directions.

    The mean along a line of 2 radius + 1 pixels is compared with those along the two lines beside it, `apart` pixels to
    either side; the lesser difference counts, so that edges of dark areas are no lines.

    Args:
        values: (H, W).
        radius: pixels of the line on either side.
        apart: pixels between a line and the two beside it.
        directions: number of directions, equally spaced.

    Returns:
        (H, W), negative where no direction is darker.
    """
    most = np.full(values.shape, -np.inf, values.dtype)
    padded = np.pad(values, radius + apart, "edge")
    for place in range(directions):
        angle = np.pi * place / directions
        down, right = np.sin(angle), np.cos(angle)
        steps = np.arange(-radius, radius + 1)
        wide: Floats = np.zeros_like(padded[2 * radius :, 2 * radius :])
        for y, x in zip(np.rint(steps * down).astype(int), np.rint(steps * right).astype(int), strict=True):
            wide += _moved(padded, int(y), int(x), radius)
        wide /= len(steps)
        row, column = round(apart * right), round(-apart * down)
        least = np.minimum(_moved(wide, row, column, apart), _moved(wide, -row, -column, apart))
        most = np.maximum(most, least - _moved(wide, 0, 0, apart))
    return most


def greatest_near(values: Floats, radius: int) -> Floats:
    """Take the greatest value of the square of 2 radius + 1 pixels around each pixel."""
    for axis in (0, 1):
        margin = [(radius, radius) if axis == one else (0, 0) for one in (0, 1)]
        moved = np.moveaxis(np.pad(values, margin, "edge"), axis, 0)
        size = values.shape[axis]
        greatest = moved[:size]
        for step in range(1, 2 * radius + 1):
            greatest = np.maximum(greatest, moved[step : step + size])
        values = np.moveaxis(greatest, 0, axis)
    return values


def _moved(padded: Floats, down: int, right: int, margin: int) -> Floats:
    """Return what lies (down, right) of each pixel, without a margin."""
    height, width = padded.shape
    return padded[margin + down : height - margin + down, margin + right : width - margin + right]


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
    rows: npt.NDArray[np.int64]
    """Row of each marked pixel; so `columns`, and `numbers`, the number of its set."""
    columns: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]

    @property
    def height(self) -> npt.NDArray[np.int64]:
        """Rows that each spans."""
        return self.bottom - self.top + 1

    @property
    def width(self) -> npt.NDArray[np.int64]:
        """Columns that each spans."""
        return self.right - self.left + 1

    def straightness(self, within: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Measure how straight each set is along its longer principal axis.

        Args:
            within: pixels.

        Returns:
            The share of its pixels that are nearer to the axis than `within`, and its length along the axis: sqrt(12)
            standard deviations, the length of an even line.
        """
        x, y, one = self.columns.astype(np.float64), self.rows.astype(np.float64), self.numbers

        def mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return np.bincount(one, values, minlength=len(self.area)) / self.area

        x, y = x - mean(x)[one], y - mean(y)[one]
        xx, yy, xy = mean(x * x), mean(y * y), mean(x * y)
        angle = np.arctan2(2 * xy, xx - yy) / 2
        off = np.abs(y * np.cos(angle)[one] - x * np.sin(angle)[one])
        variance = (xx + yy) / 2 + np.hypot((xx - yy) / 2, xy)
        return mean((off < within).astype(np.float64)), np.sqrt(12 * variance)


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
    ys, xs = np.nonzero(marked)
    return Components(area, top, bottom, left, right, ys, xs, np.repeat(numbers, ends - starts))


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
