"""List the numbers that an appearance may have: what each means, its range, and how it is measured.

A new number is an entry of `NUMBERS` and its name in :data:`m2l_runtime.types.KNOWN_NAMES`, which bundles are checked
against. Which numbers a generator takes, and in which order, stands in its bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from m2l_runtime.conditioning import looks
from m2l_runtime.conditioning.picture import Picture
from m2l_runtime.types import LOOK_NAMES, NAMES, STYLE_NAMES, Appearance, Image, Mask


@dataclass(frozen=True)
class AppearanceNumber:
    """Describe one number of an appearance.

    Example:
        >>> number = NUMBERS["skin_L"]
        >>> number.low, number.high, number.unit
        (0.0, 100.0, 'L*')
    """

    name: str
    meaning: str
    """In one line, for `m2l inspect`."""
    unit: str
    low: float
    """Least possible value."""
    high: float
    """Greatest possible value."""
    measure: Callable[[Picture], float] | None
    """Measures it in a photograph; None where only training can."""


def _color(place: int, name: str) -> AppearanceNumber:
    region, *spread, channel = name.split("_")
    low, high = (0.0, 128.0) if spread else (0.0, 100.0) if channel == "L" else (-128.0, 127.0)
    what = "standard deviation" if spread else "mean"

    def measure(picture: Picture) -> float:
        return float(picture.colors[place])

    return AppearanceNumber(name, f"{what} of {channel}* over the {region}", f"{channel}*", low, high, measure)


_LOOKS: Final = (
    AppearanceNumber("sharpness", "variance of the Laplacian of L*", "log10", -3.0, 6.0, looks.sharpness),
    AppearanceNumber("lesion_detail", "fine structure of the lesion", "log10 L*", -2.0, 2.0, looks.lesion_detail),
    AppearanceNumber("skin_detail", "fine structure of the skin", "log10 L*", -2.0, 2.0, looks.skin_detail),
    AppearanceNumber("vignette", "how much darker than skin the corners are", "L*", 0.0, 100.0, looks.vignette),
    AppearanceNumber("hair", "dark hair, of the skin's pixels", "log10(1 + per mille)", 0.0, 3.01, looks.hair),
    AppearanceNumber("ink", "blue or violet ink, of the image's pixels", "log10(1 + per mille)", 0.0, 3.01, looks.ink),
)

_STYLES: Final = tuple(
    AppearanceNumber(name, f"principal component {place} of image features", "deviations", -8.0, 8.0, None)
    for place, name in enumerate(STYLE_NAMES, 1)
)

NUMBERS: Final[Mapping[str, AppearanceNumber]] = {
    number.name: number for number in (*(_color(place, name) for place, name in enumerate(NAMES)), *_LOOKS, *_STYLES)
}
"""Every number that a bundle may have, by name."""

MEASURED_NAMES: Final = (*NAMES, *LOOK_NAMES)
"""Numbers that :func:`measure_numbers` measures."""


def measure_numbers(image: Image, mask: Mask, names: Sequence[str] = MEASURED_NAMES) -> Appearance:
    """Measure numbers of a photograph.

    Example:
        >>> image, mask = np.full((64, 64, 3), 128, np.uint8), np.zeros((64, 64), np.uint8)
        >>> measure_numbers(image, mask, ("skin_L", "hair")).round(2).tolist()
        [53.59000015258789, 0.0]

    Args:
        image: uint8 (H, W, 3) RGB, at the model's size.
        mask: uint8 (H, W); lesion from 128 on.
        names: some of `MEASURED_NAMES`.

    Returns:
        float32 (len(names),), in the order of `names`.

    Raises:
        ValueError: the sizes differ, or a number is unknown or cannot be measured.
    """
    picture = Picture(image, mask)
    values = []
    for name in names:
        number = NUMBERS.get(name)
        if number is None or number.measure is None:
            raise ValueError(
                f"'{name}' cannot be measured in a photograph; expected some of {', '.join(MEASURED_NAMES)}"
            )
        values.append(number.measure(picture))
    return np.array(values, np.float32)
