"""Ask for skin by its individual typology angle (ITA), and turn colors onto an angle.

ITA = arctan((L* - 50) / b*) in degrees, of the skin's mean CIE L* and b*: Chardon, Cretois and Hourseau, "Skin colour
typology and suntanning pathways", International Journal of Cosmetic Science 13(4), 1991. The classes are those of Del
Bino and Bernerd, "Variations in skin colour and the biological consequences of ultraviolet radiation exposure", British
Journal of Dermatology 169(s3), 2013.

It is measured of calibrated colors there. Dermoscopic photographs are not calibrated: their light, camera and white
balance move the angle. So it orders photographs by how light their skin looks, and says little of the patient's skin.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

ITA: Final = "ita"
"""Name by which the angle is asked for. It is no number of a table; it follows from `COLUMNS`."""

COLUMNS: Final = ("skin_L", "skin_b")
"""Numbers of an appearance that the angle follows from."""

MIDDLE_L: Final = 50.0
"""L* of the angle 0."""

CLASSES: Final = {
    "very light": 65.0,
    "light": 48.0,
    "intermediate": 34.5,
    "tan": 19.0,
    "brown": -10.0,
    "dark": -45.0,
}
"""Angle in degrees that stands for each class: its middle, of the two open ones 10 and 15 degrees past the bound."""

_BOUNDS: Final = {"very light": 55.0, "light": 41.0, "intermediate": 28.0, "tan": 10.0, "brown": -30.0}
"""Angle that each class lies above, in degrees; dark is what is left."""


def ita(lightness: npt.ArrayLike, yellow: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Compute the individual typology angle in degrees.

    Where b* is not above 0, as of bluish photographs, it goes on past 90 (or -90) degrees, so that angles near one
    another are of colors near one another.

    Example:
        >>> ita(70, 20).round(3)
        np.float64(45.0)

    Args:
        lightness: CIE L*.
        yellow: CIE b*.
    """
    offset = np.asarray(lightness, np.float64) - MIDDLE_L
    angle: npt.NDArray[np.float64] = np.degrees(np.arctan2(offset, np.asarray(yellow, np.float64)))
    return angle


def skin_class(angle: float) -> str:
    """Name the class of an angle in degrees.

    Example:
        >>> [skin_class(angle) for angle in (60, 41, 0, -31)]
        ['very light', 'intermediate', 'brown', 'dark']
    """
    return next((name for name, above in _BOUNDS.items() if angle > above), "dark")


def turn_to(angle: float, lightness: float, yellow: float) -> tuple[float, float]:
    """Turn a color onto an angle, in the plane of L* and b* around (50, 0): its distance from there stays.

    Where that would lead out of L* 0..100, the distance becomes less.

    Example:
        >>> turn_to(0, 70, 0)
        (50.0, 20.0)

    Args:
        angle: in degrees, -90..90.
        lightness: CIE L*.
        yellow: CIE b*.

    Returns:
        L* and b*.
    """
    radians = np.radians(angle)
    rise, run = float(np.sin(radians)), float(np.cos(radians))
    distance = float(np.hypot(lightness - MIDDLE_L, yellow))
    distance = min(distance, MIDDLE_L / abs(rise)) if rise else distance
    return MIDDLE_L + distance * rise, distance * run
