"""Find even areas in what JPEG and WebP have stored: noise is on edges, and an area of one grey was there before."""

from __future__ import annotations

from typing import Final

import numpy as np

from m2l_runtime.errors import MaskFileError
from m2l_runtime.masks.labels import GRAY_AREAS
from m2l_runtime.types import Mask

_CELL: Final = 4
_NOISE: Final = 8
"""Levels above those of the background that a square beside a bright one may be left with, at low qualities."""
_WHITES: Final = 16
"""Levels below the brightest that are as bright."""
_BRIGHT: Final = 128
_NEAR: Final = 2
_MIN_SHARE: Final = 0.05
"""Of the even squares that are bright, how many an area of grey has at least."""
_MIN_SHARE_OF_ONE: Final = 0.6
"""Of the even squares that are grey, how many have one grey, within `_NEAR` levels; on wide edges there are many."""


def even_squares(gray: Mask) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Count, for each of the 256 levels, the squares of 4x4 pixels that have no other.

    Example:
        >>> gray = np.zeros((8, 8), np.uint8)
        >>> gray[:4, :4] = 15
        >>> even_squares(gray)[[0, 15]].tolist()
        [3, 1]
    """
    rows, columns = (side - side % _CELL for side in gray.shape)
    first = gray[:rows:_CELL, :columns:_CELL]
    is_even = np.ones(first.shape, np.bool_)
    for row in range(_CELL):
        for column in range(_CELL):
            is_even &= gray[row:rows:_CELL, column:columns:_CELL] == first
    return np.bincount(first[is_even], minlength=256)


def check_areas(gray: Mask, dark_below: int, bright_from: int) -> str | None:
    """Refuse an area of a grey that is no lesion's, as class labels have it; return `GRAY_AREAS` for a smaller one.

    Args:
        gray: (H, W), of a JPEG or WebP file, bright somewhere.
        dark_below, bright_from: levels that are taken for black, and for white.

    Raises:
        MaskFileError: it is nearly black, or there is more of it than of white.
    """
    counts = even_squares(gray)
    black = int(counts[:dark_below].argmax())
    brightest = int(np.flatnonzero(counts).max(initial=0))
    white = min(bright_from, brightest - _WHITES) if brightest >= _BRIGHT else bright_from  # else a thin border alone
    bright = int(counts[white:].sum())
    grays = counts.copy()
    grays[: black + _NOISE] = grays[white:] = 0
    level = int(grays.argmax())
    area = int(grays[max(level - _NEAR, 0) : level + _NEAR + 1].sum())
    if area <= max(1, _MIN_SHARE * bright) or area < _MIN_SHARE_OF_ONE * grays.sum():
        return None
    if level >= dark_below and area < bright:
        return GRAY_AREAS
    raise MaskFileError(
        f"has an area of the grey {level}, of 255, beside black and white, as a map of class labels does, of which "
        "none is known to be the lesion; expected 0 (background) and 255 (lesion), with greys on edges alone: write "
        "255 where the label is the lesion's, and 0 elsewhere"
    )
