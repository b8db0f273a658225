"""Lay out small drawings of one metric: the interval of synthesized images over that of real ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from m2l_train.evaluate.html_report.results import Reading, short

WIDTH: Final = 240.0
"""Of a drawing's coordinates."""
_MARGIN: Final = 8.0
_SHARES: Final = frozenset({"dice", "ssim", "precision_efflite2", "recall_efflite2"})
"""Metrics between 0 and 1, drawn on that scale."""

_WIDE: Final = 0.25
"""What differs by more than this share of the largest is drawn from 0."""


@dataclass(frozen=True)
class Strip:
    """Hold places on a drawing `WIDTH` units wide; None: nothing to draw there."""

    value: float
    low: float | None
    high: float | None
    real: float | None
    real_low: float | None
    real_high: float | None
    start: str
    """What the left and the right end stand for."""
    end: str


def draw_strip(reading: Reading) -> Strip | None:
    """Lay a metric out on a scale that holds all of it; None where there is no value, or nothing to set beside it.

    Example:
        >>> from m2l_train.evaluate.result import Interval
        >>> real = Interval(value=0.5, low=None, high=None)
        >>> strip = draw_strip(Reading("dice", 1.0, None, None, real, None, "", "near real", None, None))
        >>> strip.value, strip.real, strip.start
        (232.0, 120.0, '0.00')
    """
    if reading.value is None or not math.isfinite(reading.value):
        return None
    real = reading.real.value if reading.real is not None else None
    real_ends = (None, None) if reading.real is None else (reading.real.low, reading.real.high)
    if reading.better == "near 1":
        real, real_ends = 1.0, (None, None)
    if real is None:
        return None
    known = [x for x in (reading.value, reading.low, reading.high, real, *real_ends) if x is not None]
    bottom, top = min(known), max(known)
    if reading.name in _SHARES and bottom >= 0 and top <= 1:
        bottom, top = 0.0, 1.0
    elif reading.name == "two_sample_auc" and bottom >= 0.5:
        bottom, top = 0.5, 1.0
    else:
        pad = 0.12 * (top - bottom) or 0.5 * abs(top) or 1.0
        is_wide = bottom >= 0 and top - bottom > _WIDE * top
        bottom, top = (0.0 if is_wide else bottom - pad), top + pad

    def place(x: float | None) -> float | None:
        if x is None:
            return None
        return round(_MARGIN + (WIDTH - 2 * _MARGIN) * (x - bottom) / (top - bottom), 1)

    value = place(reading.value)
    assert value is not None  # noqa: S101 -- it was not None above
    return Strip(
        value,
        place(reading.low),
        place(reading.high),
        place(real),
        place(real_ends[0]),
        place(real_ends[1]),
        short(bottom),
        short(top),
    )
