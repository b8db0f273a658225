"""Take the shades of one color on black as greys: masks that were drawn in red, say, with soft edges or as JPEG."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

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
    colors = levels.astype(np.float32)
    if colors.shape[2] != 3:
        return None
    brightest = colors.reshape(-1, 3).max(axis=0)
    channel = int(brightest.argmax())
    if brightest[channel] < _MIN_BRIGHTEST:
        return None
    color = np.median(colors[colors[:, :, channel] >= _FULL_FROM * brightest[channel]], axis=0)
    share = np.minimum(colors[:, :, channel] / color[channel], 1)
    off = np.abs(colors - share[:, :, None] * color).max(axis=2)
    if is_noisy:
        far = off > 2 * tolerance
        if float(off.max()) > _SMEARED or float(far.mean()) > _MAX_SMEARED:
            return None
        luma = np.array((0.299, 0.587, 0.114), np.float32)
        if float(color @ luma) >= _MIN_LUMA:
            share = np.clip(colors @ luma / float(color @ luma), 0, 1)  # it is kept for every pixel
    elif float(off.max()) > tolerance:
        return None
    shades: npt.NDArray[np.uint8] = np.round(share * 255).astype(np.uint8)
    return shades
