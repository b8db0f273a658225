"""Measure what an image looks like beside its colors: sharpness, detail, vignette, hair, ink.

Lengths are in pixels of an image of 256 x 256, the size that the numbers were made for.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    return float(np.log10(picture.band[region].std(dtype=np.float64) + 1e-2))


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


HAIR_DEPTH: Final = 3.0
"""L* by which a hair's pixels are darker, at least, than what lies beside them."""

HAIR_DEVIATIONS: Final = 3.0
"""And that in standard deviations of the skin's pixels, so that coarse skin is no hair."""

HAIR_RIDGE: Final = 0.5
"""And of the greatest difference within 2 pixels, so that black hairs are not marked broader than brown ones."""

HAIR_LENGTH: Final = 35
"""Pixels that a hair spans at least."""

_BORDER: Final = 3
"""Pixels along the image's border that are no hair: photographs have dark lines there."""

_MARGIN: Final = 0.9
"""Of skin in the Gaussian neighborhood (2 pixels) of a pixel: less is too near the lesion's edge."""

_DARK: Final = 0.6
"""Of the skin's median L*: where the blurred L* (6 pixels) is below that, it is the frame and no skin."""


@dataclass(frozen=True)
class DarkLines:
    """Hold the dark lines on an image's skin that hair is chosen from."""

    depth: npt.NDArray[np.float32]
    """(H, W): L* by which a pixel is darker than both sides of a line through it."""
    is_ridge: npt.NDArray[np.bool_]
    """(H, W): where a line may be hair; never off the skin."""
    threshold: float
    """L* by which hair is darker at least."""
    skin_pixels: int

    def mark_hair(self, share: float = 1.0) -> npt.NDArray[np.bool_]:
        """Mark the pixels (H, W) of sets that are hair, from a share of the threshold on.

        Sets of pixels that touch are hair if they span 35 pixels or more, and have an area below 3 times their box's
        diagonal, or below 0.3 of their box where that is over 140 pixels: many hairs that cross. Straight sets are
        none: scale bars are, more often than hairs are.
        """
        sets = _filters.connected((self.depth > share * self.threshold) & self.is_ridge)
        diagonal = np.hypot(sets.height, sets.width)
        is_web = (diagonal > 140) & (sets.area < 0.3 * sets.height * sets.width)
        on_axis, length = sets.straightness(1.6)
        is_straight = (on_axis > 0.7) & (length > 45) & (length < 200)
        is_hair = (diagonal >= HAIR_LENGTH) & ((sets.area < 3 * diagonal) | is_web) & ~is_straight
        marked = np.zeros(self.depth.shape, bool)
        chosen = is_hair[sets.numbers]
        marked[sets.rows[chosen], sets.columns[chosen]] = True
        return marked

    def number(self, marked: npt.NDArray[np.bool_]) -> float:
        """Return the number of an appearance for marked pixels: log10(1 + 1000 x the fraction of the skin)."""
        return float(np.log10(1 + 1000 * marked.sum() / self.skin_pixels)) if marked.any() else 0.0


def find_dark_lines(picture: Picture) -> DarkLines:
    """Find dark lines on the skin.

    L* is blurred a little (0.7 pixels). A pixel is marked where a straight line of 15 pixels through it, in one of
    twelve directions, is darker than the lines 4 pixels to either side: by 3 L*, and 3 standard deviations of this
    difference over the skin (1.4826 times its median absolute deviation), and by half of the greatest difference within
    2 pixels. Violet ink, dark frames, the image's border and the lesion with its edge are left out.

    As DullRazor looks for hair with line elements in several directions, and keeps what is long and thin: Lee, Ng,
    Gallagher, Coldman and McLean, "DullRazor: A software approach to hair removal from images", Computers in Biology
    and Medicine 27(6), 1997. Its closing by lines is replaced by the comparison with both sides, which texture passes
    less often.
    """
    skin = picture.regions[1]
    depth = _filters.darker_lines(_filters.gaussian(picture.lightness, 0.7), 7, 4)
    margin = _filters.gaussian(skin.astype(np.float32), 2.0) > _MARGIN
    is_open = margin & ~_is_violet(picture, margin)
    if margin.any():
        usual = float(np.median(picture.lightness[margin]))
        is_open &= _filters.gaussian(picture.lightness, 6.0) > _DARK * usual
    inside = np.zeros_like(skin)
    inside[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    is_open &= inside
    values = depth[is_open] if is_open.any() else np.zeros(1)
    deviation = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return DarkLines(
        depth,
        is_open & (depth >= HAIR_RIDGE * _filters.greatest_near(depth, 2)),
        max(HAIR_DEPTH, HAIR_DEVIATIONS * deviation),
        int(margin.sum()),
    )


def hair(picture: Picture) -> float:
    """Measure dark hair on the skin: log10(1 + 1000 x the fraction of the skin's pixels that are hair).

    :func:`find_dark_lines` and :meth:`DarkLines.mark_hair` say what hair is.
    """
    lines = find_dark_lines(picture)
    return lines.number(lines.mark_hair())


def _is_violet(picture: Picture, skin: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Mark violet ink and its blurred surroundings: bluer than the skin, and no less red."""
    red, yellow = picture.soft_red_and_yellow
    usual_red, usual_yellow = _usual(picture, skin)
    is_ink = (yellow < usual_yellow - 9) & (yellow < 2) & (red > usual_red - 2)
    return _filters.gaussian(is_ink.astype(np.float32), 1.5) > 0.1


def _usual(picture: Picture, skin: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the skin's medians of a* and b*, black frames left out."""
    lit = skin & (picture.lightness > 25)
    red, yellow = np.median(picture.lab[..., 1:][lit], 0) if lit.any() else (0.0, 0.0)
    return float(red), float(yellow)


def ink(picture: Picture) -> float:
    """Measure blue and violet ink, and stickers: log10(1 + 1000 x the fraction of such pixels outside the lesion).

    Colors are blurred by 1 pixel and compared with the skin's medians where L* is above 25. A pixel is blue where b* is
    below -8 and by 9 or more below the skin's, so that bluish light is no ink. It is violet where b* is below 3 and by
    7 or more below the skin's, and a* is above 3 and by 4 or more above the skin's. It counts where L* is above 15 and
    within 0.6 sides of the middle, as the frame's dark edge may be bluish. Black ink does not count.
    """
    red, yellow = picture.soft_red_and_yellow
    skin = picture.regions[1]
    usual_red, usual_yellow = _usual(picture, skin)
    is_blue = (yellow < -8) & (yellow < usual_yellow - 9)
    is_violet = (yellow < 3) & (yellow < usual_yellow - 7) & (red > 3) & (red > usual_red + 4)
    is_ink = (is_blue | is_violet) & skin & (picture.lightness > 15) & ~_is_corner(*picture.mask.shape)
    return _share(float(is_ink.sum()), picture)
