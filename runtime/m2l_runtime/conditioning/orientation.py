"""Rotate and flip masks at random before a generator runs, and its images back.

A generator that was trained on rotated and flipped pairs may leave marks at fixed places of what it draws. So they lie
at other places from image to image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from m2l_runtime.conditioning.random import random_below, random_uint64

Scalar = TypeVar("Scalar", bound=np.generic)

_ROWS: Final = 1
_COLUMNS: Final = 2
_TRANSPOSED: Final = 4
_INVERSES: Final = (0, 1, 2, 3, 4, 6, 5, 7)
"""Orientations that undo each: rows and columns change places where it transposes."""


def draw_orientation(seed: int, image_size: tuple[int, int]) -> int:
    """Draw an orientation with an item's seed: 0..7 for squares, 0..3 for others.

    Of the number's bits, 4 transposes, 1 turns the order of rows around, and 2 that of columns, in this order. 0 leaves
    all as it is.

    Example:
        >>> sorted({draw_orientation(seed, (256, 256)) for seed in range(100)})
        [0, 1, 2, 3, 4, 5, 6, 7]
        >>> max(draw_orientation(seed, (256, 512)) for seed in range(100))
        3
    """
    height, width = image_size
    count = _TRANSPOSED * 2 if height == width else _TRANSPOSED
    return int(random_below(count, random_uint64(1, seed, "orientation"))[0])


def orientation_words(image_size: tuple[int, int]) -> str:
    """Say what is done to masks of a size.

    Example:
        >>> orientation_words((256, 256)), orientation_words((256, 512))
        ('rotated and flipped', 'flipped')
    """
    height, width = image_size
    return "rotated and flipped" if height == width else "flipped"


def orient(pixels: npt.NDArray[Scalar], orientations: Sequence[int]) -> npt.NDArray[Scalar]:
    """Rotate and flip each of (N, H, W, ...) as its orientation says, into a new array.

    Example:
        >>> orient(np.array([[[1, 2], [3, 4]]]), [5]).tolist()
        [[[2, 4], [1, 3]]]
    """
    made: npt.NDArray[Scalar] = np.empty_like(pixels, order="C")
    for one, to, orientation in zip(pixels, made, orientations, strict=True):
        turned = one.swapaxes(0, 1) if orientation & _TRANSPOSED else one
        to[:] = turned[:: -1 if orientation & _ROWS else 1, :: -1 if orientation & _COLUMNS else 1]
    return made


def orient_back(pixels: npt.NDArray[Scalar], orientations: Sequence[int]) -> npt.NDArray[Scalar]:
    """Undo :func:`orient`, into a new array.

    Example:
        >>> orient_back(np.array([[[2, 4], [1, 3]]]), [5]).tolist()
        [[[1, 2], [3, 4]]]
    """
    return orient(pixels, [_INVERSES[orientation] for orientation in orientations])
