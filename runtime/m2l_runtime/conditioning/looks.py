"""Measure what an image looks like beside its colors: sharpness, detail, vignette, hair, ink.

Lengths are in pixels of an image of 256 x 256, the size that the numbers were made for.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from m2l_runtime.conditioning import _filters
from m2l_runtime.conditioning.picture import Picture


def sharpness(picture: Picture) -> float:
    """Measure sharpness: log10 of the variance of the Laplacian of L*, over the whole image.

    Source: Pech-Pacheco, Cristobal, Chamorro-Martinez and Fernandez-Valdivia, "Diatom autofocusing in brightfield
    microscopy: a comparative study", ICPR 2000. 0.001 is added before the logarithm.
    """
    return float(np.log10(_filters.laplacian(picture.lightness).var(dtype=np.float64) + 1e-3))


def _detail(picture: Picture, region: npt.NDArray[np.bool_]) -> float:
    fine, coarse = (_filters.gaussian(picture.lightness, sigma) for sigma in (1.0, 4.0))
    return float(np.log10((fine - coarse)[region].std(dtype=np.float64) + 1e-2))


def lesion_detail(picture: Picture) -> float:
    """Measure fine structure of the lesion.

    It is log10 of 0.01 plus the standard deviation, over the lesion, of a band of L*: a Gaussian blur of 1 pixel less
    one of 4 pixels.
    """
    return _detail(picture, picture.regions[0])


def skin_detail(picture: Picture) -> float:
    """Measure fine structure of the skin, as :func:`lesion_detail` does of the lesion."""
    return _detail(picture, picture.regions[1])


CORNER: Final = 0.6
"""Distance from the middle, in sides of the image, from which on pixels are corners."""


def _is_corner(height: int, width: int) -> npt.NDArray[np.bool_]:
    down = (np.arange(height) - (height - 1) / 2) / height
    right = (np.arange(width) - (width - 1) / 2) / width
    corner: npt.NDArray[np.bool_] = np.hypot(down[:, None], right) > CORNER
    return corner


def vignette(picture: Picture) -> float:
    """Measure how much darker the corners are, in L*: the skin's median less the corners' mean, at least 0."""
    lightness, corner = picture.lightness, _is_corner(*picture.mask.shape)
    if not corner.any():
        return 0.0
    usual = float(np.median(lightness[picture.regions[1]]))
    return max(0.0, usual - float(lightness[corner].mean(dtype=np.float64)))


def _share(count: float, picture: Picture) -> float:
    """Return log10(1 + 1000 x the fraction of the image's pixels): 0 to 3."""
    return float(np.log10(1 + 1000 * count / picture.mask.size))


HAIR_LINE: Final = 11
"""Pixels of the lines that hairs are closed along; what is wider in all directions is no hair."""

HAIR_DEPTH: Final = 8.0
"""L* by which hairs are darker than what the closing fills them with."""


def hair(picture: Picture) -> float:
    """Measure dark hair: log10(1 + 1000 x the fraction of pixels in thin, long, dark structures).

    L* is blurred a little (0.7 pixels) and closed along lines of 11 pixels in four directions; where the greatest
    closing is lighter by 8 L* or more, pixels are marked. Sets of marked pixels that touch count if they span 20
    pixels or more and are thin. After DullRazor: Lee, Ng, Gallagher, Coldman and McLean, "DullRazor: A software
    approach to hair removal from images", Computers in Biology and Medicine 27(6), 1997.
    """
    smooth = _filters.gaussian(picture.lightness, 0.7)
    closed = np.max([_filters.close_along(smooth, step, HAIR_LINE) for step in _filters.LINES], 0)
    sets = _filters.connected(closed - smooth > HAIR_DEPTH)
    longest = np.maximum(sets.height, sets.width)
    is_hair = (longest >= 20) & (sets.area < 0.35 * sets.height * sets.width + 3 * longest)
    return _share(float(sets.area[is_hair].sum()), picture)


def ink(picture: Picture) -> float:
    """Measure ink of markers: log10(1 + 1000 x the fraction of bluish pixels)."""
    is_ink = (picture.lab[..., 2] < -8) & (picture.lightness > 15)
    return _share(float(is_ink.sum()), picture)
