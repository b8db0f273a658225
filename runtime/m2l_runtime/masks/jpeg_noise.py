"""Tell whether a picture is what JPEG makes of black and white, whatever format it has been saved in since."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

_BLOCK: Final = 8
_MAX_BLOCKS: Final = 32
_QUALITIES: Final = range(1, 101)
_Levels = npt.NDArray[np.uint8]


def is_jpeg_of_black_and_white(values: npt.NDArray[np.generic]) -> bool:
    """Tell whether some quality of JPEG turns the black and white picture nearest to this one into exactly this one.

    It is computed, for each quality of the tables in the JPEG standard (ITU-T T.81, annex K), which most writers have.
    Blocks of 8x8 pixels are coded alone, so a few that are neither black nor white rule out most qualities, and what is
    left is tried on the whole. A map of class labels does not pass: nothing makes its areas of one dark value out of
    what is bright beside them.

    Example:
        >>> import numpy as np
        >>> labels = np.zeros((16, 16), np.uint8)
        >>> labels[3:12, 3:12] = 1
        >>> labels[7, 7] = 255
        >>> is_jpeg_of_black_and_white(labels)
        False
        >>> sharp = np.where(labels > 0, np.uint8(255), np.uint8(0))
        >>> is_jpeg_of_black_and_white(jpeg(sharp, 80))
        True

    Args:
        values: samples (H, W); of other types than uint8 the answer is no.
    """
    if values.dtype != np.uint8:
        return False
    levels = values.astype(np.uint8)
    nearest = np.where(levels < 128, np.uint8(0), np.uint8(255))
    if nearest.min() == nearest.max():
        return False
    some, before = _noisy_blocks(levels, nearest)
    return some.size > 0 and any(
        np.array_equal(jpeg(before, quality), some) and np.array_equal(jpeg(nearest, quality), levels)
        for quality in _QUALITIES
    )


def jpeg(levels: _Levels, quality: int) -> _Levels:
    """Write greys (H, W) as JPEG and read them again.

    Example:
        >>> import numpy as np
        >>> jpeg(np.zeros((8, 8), np.uint8), 90).max()
        np.uint8(0)
    """
    file = io.BytesIO()
    PillowImage.fromarray(levels).save(file, "JPEG", quality=quality)
    with PillowImage.open(file, formats=["JPEG"]) as picture:
        return np.array(picture)


def _noisy_blocks(levels: _Levels, nearest: _Levels) -> tuple[_Levels, _Levels]:
    """Return some whole blocks that differ from black and white, beside one another, and what they are nearest to."""
    rows, columns = (side // _BLOCK for side in levels.shape)
    cut = [
        one[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK).swapaxes(1, 2)
        for one in (levels, nearest)
    ]
    places = np.argwhere((cut[0] != cut[1]).any((2, 3)))[:_MAX_BLOCKS]
    some, before = (one[places[:, 0], places[:, 1]].swapaxes(0, 1).reshape(_BLOCK, -1) for one in cut)
    return some, before
