"""Measure how near images are to the nearest training image: whether a model has memorized any.

Images are shrunk to 32x32 by area; a distance is the root mean square difference in levels, the least over the eight
ways to turn and mirror an image. What training has seen is nearer than what it has not; how near unseen real images are
is the yardstick. Near duplicates are told as :mod:`m2l_train.data.near_duplicates` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from m2l_runtime.types import Image
from m2l_train.data.near_duplicates import descriptor, near_duplicates, same_either_way

SIDE: Final = 32
_BLOCK: Final = 512

Thumbnails = npt.NDArray[np.float32]
"""float32 (N, 32, 32, 3): levels."""


@dataclass(frozen=True)
class TrainingFeatures:
    """Hold images made small, as neighbours are looked for."""

    thumbnails: Thumbnails
    descriptors: npt.NDArray[np.float32]
    """(N, 32 * 32), of :func:`m2l_train.data.near_duplicates.descriptor`."""


@dataclass(frozen=True)
class Nearest:
    """Hold the nearest training image of each image."""

    places: npt.NDArray[np.int64]
    """(N,): which one."""
    levels: npt.NDArray[np.float64]
    """(N,): its distance."""
    is_near_duplicate: npt.NDArray[np.bool_]
    """(N,): whether some training image is its near duplicate, which may be another one than the nearest."""


def shrink(images: Iterable[Image]) -> TrainingFeatures:
    """Shrink images (S, S, 3) uint8, any number."""
    thumbnails, descriptors = [], []
    for image in images:
        bands = [
            band.convert("F").resize((SIDE, SIDE), PillowImage.Resampling.BOX)
            for band in PillowImage.fromarray(image).split()
        ]
        thumbnails.append(np.stack([np.asarray(band) for band in bands], 2))
        descriptors.append(descriptor(image))
    return TrainingFeatures(np.stack(thumbnails), np.stack(descriptors))


def nearest(images: TrainingFeatures, training: TrainingFeatures) -> Nearest:
    """Find the nearest training image of each image."""
    count = len(images.thumbnails)
    best, places = np.full(count, np.inf), np.zeros(count, np.int64)
    for turned in same_either_way(images.thumbnails):
        rows = turned.reshape(count, -1)
        for start in range(0, len(training.thumbnails), _BLOCK):
            block = training.thumbnails[start : start + _BLOCK]
            squares = _square_distances(rows, block.reshape(len(block), -1))
            least = squares.argmin(1)
            distances = squares[np.arange(count), least]
            nearer = distances < best
            best[nearer], places[nearer] = distances[nearer], start + least[nearer]
    is_near = np.zeros(count, bool)
    for row, _, _ in near_duplicates(images.descriptors, training.descriptors):
        is_near[row] = True
    return Nearest(places, np.sqrt(best / (SIDE * SIDE * 3)), is_near)


def _square_distances(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return square distances (N, M) of rows (N, D) and (M, D); equal rows give about 0."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    squares: npt.NDArray[np.float64] = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2 * (a @ b.T)
    return np.maximum(squares, 0, out=squares)
