"""Measure the shapes of masks, and compare the metrics of two sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.errors import InputError, MaskFileError
from m2l_runtime.masks.mask_set import MaskSet
from m2l_runtime.masks.sources.lesions import LESION_FROM, touches_frame
from m2l_runtime.types import Mask

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
_EIGHT: Final = np.ones((3, 3), np.int8)


@dataclass(frozen=True)
class MaskMetrics:
    """Hold the metrics of one mask; NaN where an empty mask has none."""

    area: float
    """Share of the pixels that are lesion."""
    parts: float
    """Number of connected pieces of lesion; pixels that touch at a corner are connected."""
    holes: float
    """Number of pieces of background that do not reach the frame, connected along sides."""
    roundness: float
    """``4 pi A / P^2`` of the largest part with its holes filled: 1 for a disc, less for everything else."""
    touches_frame: float
    """1 if lesion lies along the frame, else 0."""


METRICS: Final = tuple(field.name for field in fields(MaskMetrics))


@dataclass(frozen=True)
class Distribution:
    """Hold one metric over a set of masks."""

    mean: float
    quantiles: tuple[float, ...]
    """At `QUANTILES`."""
    values: npt.NDArray[np.float64]
    """The values of all masks that have the metric."""


@dataclass(frozen=True)
class Comparison:
    """Hold how one metric differs between two sets."""

    ks_statistic: float
    """Largest difference of the two cumulative distributions: 0 alike, 1 apart (Kolmogorov and Smirnov)."""
    ks_p_value: float
    """Probability of this or more if both were drawn from one distribution."""
    wasserstein: float
    """Wasserstein distance, in the metric's own unit."""


@dataclass(frozen=True)
class SetStatistics:
    """Hold the metrics of a set of masks."""

    count: int
    """Masks measured."""
    left_out: tuple[str, ...]
    """Messages about files that are not masks."""
    metrics: Mapping[str, Distribution]
    """By the names of `METRICS`."""


def measure(mask: Mask) -> MaskMetrics:
    """Measure a mask, uint8 (H, W)."""
    inside = mask >= LESION_FROM
    area = float(inside.mean())
    if area == 0:
        return MaskMetrics(0.0, 0.0, 0.0, math.nan, 0.0)
    return MaskMetrics(
        area=area,
        parts=float(count_parts(inside)),
        holes=float(count_holes(inside)),
        roundness=roundness(largest_part(inside)),
        touches_frame=float(touches_frame(inside)),
    )


def count_parts(inside: npt.NDArray[np.bool_]) -> int:
    """Count the pieces of lesion; neighbors in eight directions belong together."""
    return int(ndimage.label(inside, _EIGHT)[1])


def largest_part(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the largest piece of lesion, holes filled; there must be one."""
    labelled, _ = ndimage.label(inside, _EIGHT)
    largest = labelled == 1 + int(np.argmax(np.bincount(labelled.ravel())[1:]))
    whole: npt.NDArray[np.bool_] = ndimage.binary_fill_holes(largest)
    return whole


def count_holes(inside: npt.NDArray[np.bool_]) -> int:
    """Count the pieces of background that do not reach the frame; neighbors in four directions belong together."""
    return int(ndimage.label(~np.pad(inside, 1))[1]) - 1  # one of them is what is outside


def roundness(inside: npt.NDArray[np.bool_]) -> float:
    """Compute ``4 pi A / P^2`` of a filled shape (H, W)."""
    return float(4 * np.pi * inside.sum() / perimeter(inside) ** 2)


def perimeter(inside: npt.NDArray[np.bool_]) -> float:
    """Estimate the length of the outline in pixels, by Crofton's formula over lines in four directions.

    Legland, Kieu and Devaux, "Computation of Minkowski measures on 2D and 3D binary images", Image Analysis and
    Stereology 2007: pi / 4 of the mean, over the directions, of how often lines one pixel or 1 / sqrt 2 pixels apart
    cross the outline, times their distance.
    """
    padded = np.pad(inside, 1).astype(np.int8)
    straight = np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()
    down = np.abs(padded[1:, 1:] - padded[:-1, :-1]).sum()
    up = np.abs(padded[1:, :-1] - padded[:-1, 1:]).sum()
    return float(np.pi / 2 * (straight + (int(down) + int(up)) / math.sqrt(2)) / 4)


def describe(masks: MaskSet, side: int, *, on_mask: Callable[[], None] = lambda: None) -> SetStatistics:
    """Measure all masks of a set, squashed to (side, side).

    Raises:
        InputError: there are none, or none can be read.
    """

    def one(name: str) -> MaskMetrics | str:
        try:
            return measure(masks.read(name, (side, side)).mask)
        except MaskFileError as error:
            return str(error)

    shapes: list[MaskMetrics] = []
    left_out: list[str] = []
    with ThreadPoolExecutor(usable_cpus(), "m2l-worker") as pool:
        for shape in pool.map(one, masks.names):
            if isinstance(shape, str):
                left_out.append(shape)
            else:
                shapes.append(shape)
            on_mask()
    if not shapes:
        where = "there are no masks" if masks.base is None else f"{printable(masks.base)} has no masks to describe"
        first = f": {left_out[0]}; {plural(len(left_out), 'file')} like it" if left_out else ""
        raise InputError(f"{where}{first}")
    return SetStatistics(len(shapes), tuple(left_out), {name: _distribution(shapes, name) for name in METRICS})


def _distribution(shapes: Sequence[MaskMetrics], name: str) -> Distribution:
    values = np.array([getattr(shape, name) for shape in shapes])
    values = values[np.isfinite(values)]
    if not len(values):
        return Distribution(math.nan, (math.nan,) * len(QUANTILES), values)
    return Distribution(float(values.mean()), tuple(np.quantile(values, QUANTILES).tolist()), values)


def compare(one: Distribution, other: Distribution) -> Comparison | None:
    """Compare two distributions of one metric; None if one of them is empty."""
    if not (len(one.values) and len(other.values)):
        return None
    ks = stats.ks_2samp(one.values, other.values)
    return Comparison(
        float(ks.statistic), float(ks.pvalue), float(stats.wasserstein_distance(one.values, other.values))
    )
