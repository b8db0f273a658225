"""What each round gave to a median with its spread, and to ratios within rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """Something measured once a round."""

    median: float
    lowest: float
    highest: float

    @property
    def spread(self) -> float:
        """From the lowest to the highest, as a fraction of the median."""
        return (self.highest - self.lowest) / self.median if self.median else 0.0


def figure_of(values: Sequence[float]) -> Figure:
    """The figure of one value a round, at least one."""
    return Figure(statistics.median(values), min(values), max(values))


def ratio_of(values: Sequence[float], reference: Sequence[float]) -> Figure:
    """How many times the reference: each value over that of the same round, and the figure of these ratios.

    Not the ratio of two medians: what slows a round down slows both sides of it.
    """
    return figure_of([value / other for value, other in zip(values, reference, strict=True)])
