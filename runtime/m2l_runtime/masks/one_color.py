"""Take the shades of one color on black as greys: masks that were drawn in red, say, with soft edges or as JPEG."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from m2l_runtime.masks.row_parts import row_parts

_FULL_FROM: Final = 0.94
"""Share of the brightest sample from which a pixel counts as having the color in full."""
_MIN_BRIGHTEST: Final = 64
_SMEARED: Final = 100
"""Levels by which JPEG moves a color at an edge: its chroma is kept for squares of 2x2 pixels."""
_MAX_SMEARED: Final = 0.05
"""Share of pixels where it may."""
_MIN_LUMA: Final = 64.0


def shades_of_one_color(
    levels: npt.NDArray[np.generic], tolerance: int, *, is_noisy: bool
) -> npt.NDArray[np.uint8] | None:
    """Return the share of one color in each pixel, 0 to 255; None unless all are shades between black and it.

    Example:
        >>> import numpy as np
        >>> shades_of_one_color(np.array([[[0, 0, 0], [100, 0, 0], [200, 0, 0]]]), 8, is_noisy=False).tolist()
        [[0, 128, 255]]

    Args:
        levels: (H, W, 3), 0 to 255.
        tolerance: levels that a pixel may be off such a shade.
        is_noisy: it is a JPEG or WebP file: more, at a few pixels on edges.
    """
    if levels.shape[2] != 3:
        return None
    brightest = levels.reshape(-1, 3).max(axis=0).astype(np.float32)
    channel = int(brightest.argmax())
    if brightest[channel] < _MIN_BRIGHTEST:
        return None
    full = levels[levels[:, :, channel] >= _FULL_FROM * brightest[channel]]
    color = np.array([np.median(full[:, each]) for each in range(3)], np.float32)
    luma = np.array((0.299, 0.587, 0.114), np.float32)
    by_luma = is_noisy and float(color @ luma) >= _MIN_LUMA  # which JPEG keeps for every pixel
    shades = np.empty(levels.shape[:2], np.uint8)
    most, far_count = _SMEARED if is_noisy else tolerance, 0
    for rows in row_parts(levels):
        colors = levels[rows].astype(np.float32)
        share = np.minimum(colors[:, :, channel] / color[channel], 1)
        off = np.abs(colors - share[:, :, None] * color).max(axis=2)
        if float(off.max()) > most:
            return None
        far_count += int((off > 2 * tolerance).sum())
        if by_luma:
            share = np.clip(colors @ luma / float(color @ luma), 0, 1)
        shades[rows] = np.round(share * 255)
    if is_noisy and far_count > _MAX_SMEARED * shades.size:
        return None
    return shades
