"""Measure how well lesions agree with their masks: Dice coefficient, boundary distance and rates of pixels.

Dice 2|A and B| / (|A| + |B|) (Dice 1945). Boundary distance: the average symmetric surface distance (Heimann et al.,
IEEE Transactions on Medical Imaging 28(8), 2009), the mean over the boundary pixels of both of the distance to the
nearest boundary pixel of the other. A boundary pixel is one of the lesion with a side neighbour, or the frame, outside
of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt

from m2l_runtime.types import Masks
from m2l_train.evaluate.sets import in_threads

SIDE: Final = 256
"""Pixels of the image that boundary distances are told in, whatever the size of the images is."""
LESION_FROM: Final = 128
"""Level of a mask from which on a pixel belongs to the lesion."""
LIKELY_FROM: Final = 0.5

Lesion = npt.NDArray[np.bool_]
"""bool (S, S)."""


@dataclass(frozen=True)
class Fidelity:
    """Hold one value for each image."""

    dice: npt.NDArray[np.float64]
    """0..1; 1 where both are empty."""
    boundary_px: npt.NDArray[np.float64]
    """In pixels of a 256x256 image; 0 where both are empty, the image's diagonal where one is."""
    one_empty: int
    """Images where the mask or the lesion found is empty, and the other is not."""


def dice(one: Lesion, other: Lesion) -> float:
    """Return the Dice coefficient; 1 if both are empty."""
    size = int(one.sum()) + int(other.sum())
    return 1.0 if size == 0 else 2 * int((one & other).sum()) / size


def jaccard(one: Lesion, other: Lesion) -> float:
    """Return the Jaccard index |A and B| / |A or B| (Jaccard 1901); 1 if both are empty."""
    union = int((one | other).sum())
    return 1.0 if union == 0 else int((one & other).sum()) / union


def sensitivity(expected: Lesion, predicted: Lesion) -> float:
    """Return the share of the lesion's pixels that are found; 1 if there are none."""
    size = int(expected.sum())
    return 1.0 if size == 0 else int((expected & predicted).sum()) / size


def specificity(expected: Lesion, predicted: Lesion) -> float:
    """Return the share of the pixels outside the lesion that are not taken for it; 1 if there are none."""
    return sensitivity(~expected, ~predicted)


def boundary_distance(one: Lesion, other: Lesion) -> float:
    """Return the average symmetric surface distance in pixels; 0 if both are empty, the diagonal if one is."""
    if not one.any() or not other.any():
        return 0.0 if one.any() == other.any() else math.hypot(*one.shape)
    edges = [lesion & ~binary_erosion(lesion) for lesion in (one, other)]
    there, back = (distance_transform_edt(~edges[1 - i])[edges[i]] for i in (0, 1))
    return float((there.sum() + back.sum()) / (there.size + back.size))


def compare(
    masks: Masks,
    lesions: npt.NDArray[np.float32],
    *,
    workers: int = 1,
    on_image: Callable[[int], None] = lambda count: None,
) -> Fidelity:
    """Compare masks (N, H, W) uint8 with probabilities of lesion (N, H, W) of 0..1."""

    def one(pair: tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]) -> tuple[float, float, bool]:
        expected, predicted = pair[0] >= LESION_FROM, pair[1] >= LIKELY_FROM
        return (
            dice(expected, predicted),
            boundary_distance(expected, predicted),
            bool(expected.any() != predicted.any()),
        )

    rows = []
    for row in in_threads(one, zip(masks, lesions, strict=True), workers):
        rows.append(row)
        on_image(1)
    table = np.array(rows, np.float64).reshape(-1, 3)
    return Fidelity(table[:, 0], table[:, 1] * SIDE / min(masks.shape[1:]), int(table[:, 2].sum()))
