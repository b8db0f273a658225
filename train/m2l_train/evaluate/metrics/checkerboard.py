"""Measure checkerboard artefacts: power at the frequencies of a network's strides over that beside them.

Transposed convolutions draw grids whose periods are their strides and products of them (Odena, Dumoulin, Olah,
"Deconvolution and Checkerboard Artifacts", Distill 2016). In the spectrum of an image of S pixels those are points at
multiples of S / stride along each side. For each point: the mean power in the 3x3 bins around it, over the geometric
mean of the power in the bins at Chebyshev distance 3 to 6. The logarithm of a spectrum that falls as any power of the
frequency has no mean slope over a ring (log |f| is harmonic in the plane), so without a grid the ratio is about 1
wherever the point is; an arithmetic mean would be drawn up by the side of the ring that faces the origin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.fft

from m2l_runtime._utils.sides import both_sides
from m2l_runtime.types import Images
from m2l_train.evaluate.metrics.bootstrap import Estimate, estimate

STRIDES: Final = (2, 4, 8, 16)
MIN_BINS_APART: Final = 16
"""Between two points; nearer ones would stand in each other's rings."""
CORE_REACH: Final = 1
RING_FROM: Final = 3
RING_REACH: Final = 6
_LUMA: Final = (0.299, 0.587, 0.114)
_RESAMPLES_AT_ONCE: Final = 100
_TINY: Final = 1e-6

Points = list[tuple[int, int]]


@dataclass(frozen=True)
class Spectra:
    """Hold the power around the points of every stride, for each image."""

    strides: npt.NDArray[np.int64]
    """(F,): the smallest stride that has each point."""
    core: npt.NDArray[np.float32]
    """(N, F, 9)."""
    ring: npt.NDArray[np.float32]
    """(N, F, 144)."""


def measured_strides(size: int | tuple[int, int]) -> tuple[int, ...]:
    """Return those of `STRIDES` that an image of this side, or (height, width), has room for."""
    sides = both_sides(size)
    return tuple(s for s in STRIDES if all(side % s == 0 and side // s >= MIN_BINS_APART for side in sides))


def points(size: int | tuple[int, int]) -> dict[int, Points]:
    """Return row and column of the points of each stride in the spectrum.

    One of each pair that the symmetry of a real image's spectrum makes equal, under the smallest stride that has it.
    """
    height, width = both_sides(size)
    seen = {(0, 0)}
    points_by_stride: dict[int, Points] = {}
    for stride in measured_strides(size):
        points_by_stride[stride] = []
        for row in range(0, height, height // stride):
            for column in range(0, width, width // stride):
                if (row, column) not in seen:
                    points_by_stride[stride].append((row, column))
                    seen |= {(row, column), (-row % height, -column % width)}
    return points_by_stride


def measure(images: Images, *, on_image: Callable[[int], None] = lambda count: None) -> Spectra:
    """Compute spectra of images (N, H, W, 3): grey (ITU-R BT.601), less their mean, under a Hann window."""
    height, width = images.shape[1:3]
    frequencies = points((height, width))
    places = np.array([place for some in frequencies.values() for place in some], np.int64).reshape(-1, 2)
    strides = np.repeat(np.array(list(frequencies), np.int64), [len(some) for some in frequencies.values()])
    reach = np.arange(-RING_REACH, RING_REACH + 1)
    rows, columns = (np.repeat(reach, len(reach)), np.tile(reach, len(reach)))
    away = np.maximum(abs(rows), abs(columns))
    down, across = (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in (height, width))
    window = (down[:, None] * across[None]).astype(np.float32)
    cores, rings = [], []
    for image in images:
        gray = image @ np.array(_LUMA, np.float32)
        power = np.square(np.abs(scipy.fft.fft2((gray - gray.mean()) * window)))
        around = power[(places[:, :1] + rows) % height, (places[:, 1:] + columns) % width]
        cores.append(around[:, away <= CORE_REACH])
        rings.append(around[:, away >= RING_FROM])
        on_image(1)
    return Spectra(strides, np.stack(cores), np.stack(rings))


def energy(spectra: Spectra, weights: npt.NDArray[np.float64]) -> dict[int | None, Estimate]:
    """Estimate the mean ratio over the points of each stride, and under None over all.

    Spectra are averaged over images first.

    Args:
        spectra: of N images.
        weights: (R, N), of :func:`m2l_train.evaluate.metrics.bootstrap.multiplicities`.
    """
    count = len(spectra.core)
    value = _ratios(spectra, np.ones((1, count)))
    blocks = [weights[i : i + _RESAMPLES_AT_ONCE] for i in range(0, len(weights), _RESAMPLES_AT_ONCE)]
    resampled = np.concatenate([_ratios(spectra, block) for block in blocks])
    estimates: dict[int | None, Estimate] = {}
    for stride in (None, *np.unique(spectra.strides).tolist()):
        chosen = slice(None) if stride is None else spectra.strides == stride
        estimates[stride] = estimate(float(value[0, chosen].mean()), resampled[:, chosen].mean(1), count)
    return estimates


def _ratios(spectra: Spectra, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (R, F) ratios; 1 where there is no power at all."""
    share = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    core, ring = (
        (share @ power.reshape(len(power), -1)).reshape(len(share), *power.shape[1:]).astype(np.float64)
        for power in (spectra.core, spectra.ring)
    )
    ratios: npt.NDArray[np.float64] = (core.mean(2) + _TINY) / np.exp(np.log(ring + _TINY).mean(2))
    return ratios
