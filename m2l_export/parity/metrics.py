"""Measure how far images in a lower precision are from those in fp32, and compare the metrics with limits.

Every pixel of such images may differ, so what counts is how much: PSNR image by image, and the shift of colors, which
nobody should see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.arguments import check_types
from m2l_runtime.errors import InputError
from m2l_runtime.types import Images

_IDENTICAL_DB: Final = 99.0
"""PSNR of equal images, and the largest that is reported: one byte of 256x256x3 off by one would be 101 dB."""


@check_types()
@dataclass(frozen=True)
class ParityLimits:
    """Describe how far images in a lower precision may be from those in fp32.

    Raises:
        InputError: a limit is out of range.

    Example:
        >>> from m2l_export import ParityLimits
        >>> ParityLimits(psnr_db=42).worst_psnr_db
        36.0
        >>> ParityLimits(psnr_db=120)
        Traceback (most recent call last):
        ...
        m2l_runtime.errors.ArgumentError: --min-psnr must be between 0 and 99 dB, got 120
    """

    psnr_db: float = 40.0
    """Lowest mean PSNR over images."""
    worst_psnr_db: float = 36.0
    """Lowest PSNR of an image."""
    mean_levels: float = 2.0
    """Largest mean absolute difference of a byte, 0..255."""
    colour_shift_levels: float = 1.0
    """Largest mean signed difference of red, green or blue over all images."""

    def __post_init__(self) -> None:
        for name, value in (("--min-psnr", self.psnr_db), ("--min-worst-psnr", self.worst_psnr_db)):
            if not 0 <= value <= _IDENTICAL_DB:
                raise InputError(f"{name} must be between 0 and {_IDENTICAL_DB:g} dB, got {value:g}")
        for name, value in (
            ("--max-mean-difference", self.mean_levels),
            ("--max-color-shift", self.colour_shift_levels),
        ):
            if not 0 <= value <= 255:
                raise InputError(f"{name} must be between 0 and 255 levels, got {value:g}")

    def stricter(self, by_db: float) -> ParityLimits:
        """Return the limits for squared errors that are smaller by `by_db`."""
        share = 10 ** (-by_db / 20)
        return ParityLimits(
            min(_IDENTICAL_DB, self.psnr_db + by_db),
            min(_IDENTICAL_DB, self.worst_psnr_db + by_db),
            share * self.mean_levels,
            share * self.colour_shift_levels,
        )


@dataclass(frozen=True)
class Shortfall:
    """Hold by how many dB squared errors have to fall to be within limits; 0 where they are."""

    mean_db: float
    """For all images."""
    worst_db: float
    """For the worst image."""


@dataclass(frozen=True)
class Fidelity:
    """Hold how far images are from a reference."""

    psnr_db: float
    """Over all bytes of all images."""
    mean_psnr_db: float
    worst_psnr_db: float
    worst_index: int
    max_levels: int
    mean_levels: float
    colour_shift_levels: tuple[float, float, float]

    def shortfall_db(self, limits: ParityLimits) -> Shortfall:
        """Compute by how much squared errors have to fall to be within `limits`."""
        shift = max(map(abs, self.colour_shift_levels))
        levels = ((self.mean_levels, limits.mean_levels), (shift, limits.colour_shift_levels))
        by_levels = [20 * math.log10(got / limit) if limit else _IDENTICAL_DB for got, limit in levels if got > limit]
        return Shortfall(
            mean_db=max(0.0, limits.psnr_db - self.mean_psnr_db, *(min(_IDENTICAL_DB, one) for one in by_levels)),
            worst_db=max(0.0, limits.worst_psnr_db - self.worst_psnr_db),
        )

    def misses(self, limits: ParityLimits) -> list[str]:
        """List the metrics that are not within `limits`, in words."""
        shift = max(map(abs, self.colour_shift_levels))
        checks = (
            (self.mean_psnr_db < limits.psnr_db, "mean PSNR", self.mean_psnr_db, limits.psnr_db, "dB"),
            (
                self.worst_psnr_db < limits.worst_psnr_db,
                f"worst PSNR (image {self.worst_index})",
                self.worst_psnr_db,
                limits.worst_psnr_db,
                "dB",
            ),
            (self.mean_levels > limits.mean_levels, "mean difference", self.mean_levels, limits.mean_levels, "levels"),
            (shift > limits.colour_shift_levels, "color shift", shift, limits.colour_shift_levels, "levels"),
        )
        return [
            f"{what} {got:.2f} {unit} (limit {limit:g})" for is_missed, what, got, limit, unit in checks if is_missed
        ]


def fidelity(reference: Images, images: Images) -> Fidelity:
    """Compare `images` with `reference`, both uint8 (N, H, W, 3).

    PSNR is ``10 log10(255^2 / MSE)``.
    """
    squares, levels, largest, shifts = squared_errors(reference, images), [], 0, []
    for image, wanted in zip(images, reference, strict=True):  # one by one, because hundreds of them fill the memory
        difference = image.astype(np.int32) - wanted
        levels.append(np.abs(difference).mean())
        largest = max(largest, int(np.abs(difference).max()))
        shifts.append(difference.reshape(-1, 3).mean(0))
    each = _psnr_db(squares)
    return Fidelity(
        psnr_db=float(_psnr_db(np.mean(squares))),
        mean_psnr_db=float(each.mean()),
        worst_psnr_db=float(each.min()),
        worst_index=int(each.argmin()),
        max_levels=largest,
        mean_levels=float(np.mean(levels)),
        colour_shift_levels=_triple(np.mean(shifts, 0)),
    )


def squared_errors(reference: Images, images: Images) -> npt.NDArray[np.float64]:
    """Compute the mean squared difference of each image's bytes, (N,)."""
    pairs = zip(images, reference, strict=True)
    return np.array([np.square(image.astype(np.int32) - wanted).mean() for image, wanted in pairs])


def _psnr_db(square: Any) -> Any:
    return np.minimum(10 * np.log10(255**2 / np.maximum(square, 1e-12)), _IDENTICAL_DB)


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue
