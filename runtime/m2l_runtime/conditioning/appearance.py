"""Measure the colors of lesion and skin in a photograph, and their spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from m2l_runtime.errors import InputError
from m2l_runtime.types import NAMES, Appearance, Image, Mask, list_names

MEAN_NAMES: Final = (NAMES[:3], NAMES[6:9])
"""Names of the mean colors of lesion and skin, which contrast is told from."""

MAX_CONTRAST: Final = 100.0
"""Delta E*ab that may be asked for at most."""

LESION_FROM: Final = 128
"""Levels of a mask from here on are lesion; the others are skin."""

_WHITE: Final = np.array([0.95047, 1.0, 1.08883])

TO_XYZ: Final = (
    np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    / _WHITE[:, None]
).astype(np.float32)
"""Matrix from linear sRGB (IEC 61966-2-1) to CIE XYZ, each row divided by the D65 white (CIE 1931, 2 degrees)."""

_LEVELS: Final = np.arange(256) / 255.0

LINEAR: Final = np.where(_LEVELS > 0.04045, ((_LEVELS + 0.055) / 1.055) ** 2.4, _LEVELS / 12.92).astype(np.float32)
"""Linear light 0..1 of the sRGB levels 0..255."""


def lab(image: Image) -> npt.NDArray[np.float32]:
    """Convert sRGB, uint8 (..., 3), to CIE 1976 L*a*b* under D65, float32 (..., 3), L* in 0..100.

    Source: CIE 15:2004, section 8.2.1, after IEC 61966-2-1.
    """
    linear = LINEAR[image]
    scaled = np.stack([(linear * row).sum(-1, dtype=np.float32) for row in TO_XYZ], -1)
    f = np.where(scaled > 0.008856, np.cbrt(scaled), np.float32(7.787) * scaled + np.float32(16 / 116))
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1).astype(np.float32)


def measure(image: Image, mask: Mask) -> Appearance:
    """Measure the appearance of one photograph.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W); lesion from `LESION_FROM` on. A region without a pixel gets the numbers of the other.

    Returns:
        float32 (12,), in the order of :data:`m2l_runtime.types.NAMES`.

    Raises:
        ValueError: the sizes differ.
    """
    if image.shape != (*mask.shape, 3):
        raise ValueError(f"image must be {(*mask.shape, 3)} as its mask is {mask.shape}, got {image.shape}")
    return measure_colors(lab(image), mask)


def measure_colors(colors: npt.NDArray[np.float32], mask: Mask) -> Appearance:
    """Measure an appearance as :func:`measure` does, in an image that is L*a*b* already: float32 (H, W, 3)."""
    is_lesion = mask >= LESION_FROM
    is_one = is_lesion.all() or not is_lesion.any()
    regions = [colors.reshape(-1, 3)] * 2 if is_one else [colors[is_lesion], colors[~is_lesion]]
    numbers = [f for region in regions for f in (region.mean(0, np.float64), region.std(0, np.float64))]
    return np.concatenate(numbers).astype(np.float32)


def contrast(appearances: npt.NDArray[np.float32], names: Sequence[str] = NAMES) -> npt.NDArray[np.float64]:
    """Compute the distance of the mean colors of lesion and skin, in Delta E*ab (CIE 1976): (N, K) to (N,).

    Example:
        >>> grey_on_white = np.array([[50, 0, 0, 80, 0, 0]], np.float32)
        >>> contrast(grey_on_white, ("lesion_L", "lesion_a", "lesion_b", "skin_L", "skin_a", "skin_b"))
        array([30.])

    Args:
        appearances: (N, K).
        names: what the K numbers are; those of `MEAN_NAMES` among them.

    Raises:
        ValueError: one of them is missing.
    """
    lesion, skin = (appearances[:, [names.index(name) for name in means]].astype(np.float64) for means in MEAN_NAMES)
    distance: npt.NDArray[np.float64] = np.linalg.norm(lesion - skin, axis=1)
    return distance


def rows_of_contrast(
    appearances: npt.NDArray[np.float32], names: Sequence[str], least: float
) -> npt.NDArray[np.float32]:
    """Return the rows of appearances (N, K) whose lesion and skin differ by so much at least, in Delta E*ab.

    Raises:
        InputError: there is none, or the names have no colors to tell it from.
    """
    if not least:
        return appearances
    if not {name for means in MEAN_NAMES for name in means} <= set(names):
        raise InputError(
            f"appearances have no colors to tell a contrast from ({list_names(names)}); leave out the least contrast"
        )
    found = contrast(appearances, names)
    rows: npt.NDArray[np.float32] = appearances[found >= least]
    if not len(rows):
        raise InputError(
            f"no appearance has a contrast of {least:g} Delta E, the largest is {found.max(initial=0):.1f}; "
            "give a lower one"
        )
    return rows
