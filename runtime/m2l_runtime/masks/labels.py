"""Tell maps of class labels from masks, by the values that are present and whether they fill areas.

Greys of a mask come from resampling: they lie on its edges and are many. Class labels are few and fill areas. A
maximum of 255 tells nothing: it is the 'void' label on the borders of Pascal VOC, Cityscapes and others. What JPEG has
left of black and white may look alike, of few values near both; whether it is that is computed
(:mod:`m2l_runtime.masks.jpeg_noise`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.text import plural
from m2l_runtime.errors import MaskFileError
from m2l_runtime.masks.jpeg_noise import is_jpeg_of_black_and_white

_Values = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

GRAY_AREAS: Final = "gray areas"
"""Note of a mask with an area of one grey, smaller than what is white."""

_DARK_BELOW: Final = 16
_BRIGHT_FROM: Final = 240
_MAX_DARK_LABELS: Final = 16
"""Values up to which a file with several dark ones may be a map of labels; noise of JPEG leaves more."""
_FEW: Final = 4
_MANY: Final = 8
"""Values above which areas are looked for after undoing an enlargement."""
_PART: Final = 1 << 20
_MIN_AREA_SHARE: Final = 0.75
_MIN_AREA_SHARE_OF_FEW: Final = 0.3
"""Of the pixels of middle greys, those in areas (2x2 pixels of one value), above which they are no edges. Edges that
were enlarged eightfold without interpolation have 0.77, but then more than `_FEW` values."""


def check_is_no_label_map(values: _Values) -> str | None:
    """Refuse a map of class labels; return `GRAY_AREAS` for a mask that has such.

    Example:
        >>> import numpy as np
        >>> labels = np.zeros((8, 8), np.uint8)
        >>> labels[2:6, 2:6] = 1
        >>> labels[2, 2:6] = 255
        >>> check_is_no_label_map(labels)
        Traceback (most recent call last):
        ...
        m2l_runtime.errors.MaskFileError: holds 0 (48 pixels), 1 (12), 255 (4), as a map of class labels does, ...

    Args:
        values: samples as they are in the file, (H, W), at least three of them different.

    Raises:
        MaskFileError: they are class labels; the message has the values and how often they are there.
    """
    try:
        return _check(values)
    except MaskFileError:
        if is_jpeg_of_black_and_white(values):
            return None
        raise


def _check(values: _Values) -> str | None:
    """Do what `check_is_no_label_map` does, by values and areas alone."""
    counts = _counts(values)
    present = np.flatnonzero(counts)
    levels = _levels(values, present)
    if levels[-1] < _DARK_BELOW:
        raise _labels(counts, present)
    values = _shrunk(values) if len(present) > _MANY else values
    square = values[:-1, :-1]
    is_area = (square == values[1:, :-1]) & (square == values[:-1, 1:]) & (square == values[1:, 1:])
    areas = _counts(square[is_area], len(counts))[present]
    of_each = _counts(values, len(counts))[present]
    dark, bright = levels < _DARK_BELOW, levels >= _BRIGHT_FROM
    is_few = len(present) <= _FEW
    if len(present) == 3 and (dark.sum() == 2 or bright.sum() == 2):
        raise _labels(counts, present)
    is_clean = bright.sum() <= 1  # noise would be there, too
    if len(present) <= _MAX_DARK_LABELS and is_clean and (areas[dark][1:] > 0).any():
        raise _labels(counts, present)
    middle = ~dark & ~bright
    least = _MIN_AREA_SHARE_OF_FEW if is_few else _MIN_AREA_SHARE
    if not middle.any() or areas[middle].sum() <= least * of_each[middle].sum():
        return None
    if int((areas[middle] > 0).sum()) == 1 and of_each[bright].sum() > of_each[middle].sum():
        return GRAY_AREAS
    if len(present) > 64:  # a picture with even areas, which is told of otherwise
        return None
    raise _labels(counts, present)


def _counts(values: npt.NDArray[np.generic], length: int = 0) -> npt.NDArray[np.intp]:
    """Count each value, by parts: NumPy makes a copy of eight bytes a pixel."""
    length = length or int(values.max(initial=0)) + 1
    flat = values.ravel()
    total = np.zeros(length, np.intp)
    for start in range(0, flat.size, _PART):
        total += np.bincount(flat[start : start + _PART], minlength=length)
    return total


def _shrunk(values: _Values) -> _Values:
    """Undo an enlargement that repeated each pixel: it makes areas of the greys on edges."""
    for factor in (2, 2, 2, 2, 3, 5):
        if values.shape[0] % factor or values.shape[1] % factor:
            continue
        small = values[::factor, ::factor]
        if np.array_equal(small.repeat(factor, 0).repeat(factor, 1), values):
            values = small
    return values


def _levels(values: npt.NDArray[np.generic], present: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    """Return the 8-bit level of each value present."""
    if values.dtype == np.uint16 and int(present[-1]) > 255:
        return np.round(present / 257).astype(np.int64)
    return present.astype(np.int64)


def _labels(counts: npt.NDArray[np.intp], present: npt.NDArray[np.intp]) -> MaskFileError:
    shown = [f"{value} ({counts[value]:,})" for value in present[:5]]
    shown[0] = f"{present[0]} ({plural(int(counts[present[0]]), 'pixel')})"
    if len(present) > 5:
        shown += ["..."] * (len(present) > 6) + [f"{present[-1]} ({counts[present[-1]]:,})"]
    return MaskFileError(
        f"holds {', '.join(shown)}, as a map of class labels does, of which none is known to be the lesion; expected 0 "
        "(background) and 255 (lesion), with greys on edges alone: write 255 where the label is the lesion's, and 0 "
        "elsewhere"
    )
