"""Deform given masks, smoothly or in the ways that the masks differ.

After Hamarneh, Jassi and Tang, "Simulation of ground-truth validation data via physically- and statistically-based
warps", MICCAI 2008 (DeformIt): the displacement of the control points is a mixture of a vibrational part, the smooth
modes of an elastic sheet, and a variational part, the modes in which the shapes of a set of masks differ. As there,
and in Cootes and Taylor, "Combining point distribution models with shape models based on finite element analysis",
Image and Vision Computing 1995, one number mixes the two.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.text import printable
from m2l_runtime.conditioning.random import check_seed, normal, uniform
from m2l_runtime.errors import InputError
from m2l_runtime.masks.mask_file import resize
from m2l_runtime.masks.mask_folder import mask_set
from m2l_runtime.masks.mask_set import MaskSet
from m2l_runtime.masks.sources.freeform import NEVER_FOLDS, Field, basis, pixel_places, spread, stretch, vibrations
from m2l_runtime.masks.sources.lesions import LESION_FROM, Lesion, Lesions, read_lesions, touches_frame
from m2l_runtime.masks.sources.mask_source import check_number, check_size
from m2l_runtime.masks.sources.shape_modes import BOX_RADII, Variation, fit_variation
from m2l_runtime.masks.sources.statistics import count_parts
from m2l_runtime.types import Mask

OVERSAMPLING: Final = 2
"""Masks are deformed at so many times their size, then resized as in training."""

MAX_ATTEMPTS: Final = 100
"""Attempts for one mask before an error."""

_ALL: Final = slice(None)
_CLIPPED_AT: Final = 2.5
"""Standard deviations at which coefficients of the variational part end."""


@check_types()
@dataclass(frozen=True)
class DeformOptions:
    """Hold the options of deformations.

    Raises:
        InputError: a value is out of range.
    """

    control_points: int = 6
    """Control points along each side of the frame, spaced 1 / (control_points + 1) of it."""
    range: float = 0.45
    """Largest displacement of a control point in the vibrational part, as a fraction of their spacing. Each mask's is
    random between half of this and this. Up to `freeform.NEVER_FOLDS` nothing can fold."""
    modes: int = 20
    """Number of modes of each part, the smoothest or most varying first. More are finer."""
    alpha: float = 1.0
    """Share of the vibrational part; the rest is the variational one. 1: nothing is learned from the masks."""
    size: int = 256
    """Side of the masks in pixels."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_size(self.size)
        check_seed(self.seed)
        if not 2 <= self.control_points <= 32:
            raise InputError(f"the control points along a side must be between 2 and 32, got {self.control_points}")
        if not 0 < self.range <= 10:
            raise InputError(f"the range must be above 0 and at most 10 control point spacings, got {self.range:g}")
        if not 1 <= self.modes <= 2 * self.control_points**2:
            raise InputError(
                f"{self.control_points} x {self.control_points} control points have {2 * self.control_points**2} "
                f"modes; expected from 1 to that many, got {self.modes}"
            )
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha must be between 0 (variational) and 1 (vibrational), got {self.alpha:g}")


def open_deformations(
    masks: str | os.PathLike[str] | MaskSet, options: DeformOptions, *, on_mask: Callable[[], None] = lambda: None
) -> Deformations:
    """Read masks, and learn how they differ if `options` ask for that.

    Args:
        masks: mask file, folder searched to its depth, or a set of masks.
        options: how to deform them.
        on_mask: called after each mask is read.

    Raises:
        InputError: there is no mask to deform, or there are too few to learn from.
    """
    lesions = read_lesions(mask_set(masks), OVERSAMPLING * options.size, on_mask=on_mask)
    return Deformations(lesions, options, fit_variation(lesions, options.modes) if options.alpha < 1 else None)


class Deformations:
    """Draw deformed masks, from the given ones by turns: a MaskSource."""

    def __init__(self, lesions: Lesions, options: DeformOptions, variation: Variation | None = None) -> None:
        """Check the inputs.

        Args:
            lesions: the masks, at `OVERSAMPLING` times the size.
            options: how to deform them.
            variation: how the masks' shapes differ; needed if ``options.alpha`` is below 1.

        Raises:
            InputError: it is needed and not given, or the masks have another size.
        """
        if lesions.side != OVERSAMPLING * options.size:
            raise InputError(f"the masks must be read at {OVERSAMPLING * options.size} pixels, got {lesions.side}")
        if options.alpha < 1 and variation is None:
            raise InputError("a variational part (alpha below 1) needs what was learnt from masks")
        self.left_out: Final = lesions.left_out
        """Messages about masks that cannot be deformed."""
        self.mask_count: Final = len(lesions.lesions)
        self.seed: Final = options.seed
        self._lesions, self._options, self._variation = lesions.lesions, options, variation
        self._modes, self._deviations = vibrations(options.control_points, options.modes)

    def label(self, number: int) -> str:
        """See :class:`m2l_runtime.masks.sources.mask_source.MaskSource`."""
        check_number(number)
        return self._lesions[number % len(self._lesions)].label

    def draw(self, number: int) -> Mask:
        """See :class:`m2l_runtime.masks.sources.mask_source.MaskSource`.

        Raises:
            InputError: every draw folds, or takes the lesion out of the frame.
        """
        check_number(number)
        lesion = self._lesions[number % len(self._lesions)]
        source = lesion.mask()
        parts = count_parts(source >= LESION_FROM)
        folded = 0
        for attempt in range(MAX_ATTEMPTS):
            warp = self.warp(lesion, number, attempt)
            if warp.folds():
                folded += 1
                continue
            deformed = warp.apply(source)
            inside = deformed >= LESION_FROM
            is_inside = lesion.touches_frame or not touches_frame(inside, OVERSAMPLING)
            if is_inside and 1 <= count_parts(inside) <= parts:  # more come in from beyond the frame
                return resize(deformed, (self._options.size, self._options.size))
        raise InputError(
            f"{printable(lesion.label)}: none of {MAX_ATTEMPTS} deformations can be used: {folded} fold, "
            f"{MAX_ATTEMPTS - folded} take the lesion out of the frame or apart; give a smaller --range (up to "
            f"{NEVER_FOLDS} nothing folds, got {self._options.range:g}) or fewer --modes"
        )

    def warp(self, lesion: Lesion, number: int, attempt: int) -> Warp:
        """Draw the deformation of mask `number`, at the given attempt (from 0)."""
        options = self._options
        alpha, spacing = options.alpha, 1 / (options.control_points + 1)
        swing = normal(len(self._modes), options.seed, "deform vibrational", number, attempt)
        control = np.einsum("k,kaij->aij", swing * self._deviations, self._modes)
        share = float(uniform(1, options.seed, "deform range", number, attempt)[0])
        farthest = options.range * spacing * (0.5 + 0.5 * share)
        control *= alpha * farthest / np.abs(control).max()
        if self._variation is None or alpha == 1:
            return Warp(control, None, lesion)
        count = len(self._variation.modes)
        coefficients = normal(count, options.seed, "deform variational", number, attempt)
        coefficients = np.clip(coefficients, -_CLIPPED_AT, _CLIPPED_AT)
        return Warp(control, (1 - alpha) * self._variation.sample(coefficients), lesion)


@dataclass(frozen=True)
class Warp:
    """Hold a displacement of the frame: pixel p of the deformed mask shows what was at p + displacement."""

    control: Field
    """(2, n, n): displacements of control points over the whole frame, in fractions of its side."""
    own: Field | None
    """(2, n, n): displacements of control points around the lesion, in radii of the lesion."""
    lesion: Lesion

    def displacement(self, size: int, rows: slice = _ALL, columns: slice = _ALL) -> Field:
        """Compute displacements (2, size, size) in pixels of a frame of that side, or of its `rows` and `columns`."""
        weights = _frame_basis(self.control.shape[-1], size, slope=False)
        field = spread(self.control, weights[rows], weights[columns]) * size
        if self.own is not None:
            own_rows, own_columns = self._own_basis(size, slope=False)
            field = field + spread(self.own, own_rows[rows], own_columns[columns]) * self._radius(size)
        return field

    def stretch(self, size: int) -> npt.NDArray[np.float64]:
        """Compute by how much areas change, (size, size); below 0 where the frame folds."""
        n = self.control.shape[-1]
        plain, slope = _frame_basis(n, size, slope=False), _frame_basis(n, size, slope=True)
        along_y, along_x = spread(self.control, slope, plain), spread(self.control, plain, slope)
        if self.own is not None:
            rows, columns = self._own_basis(size, slope=False)
            row_slopes, column_slopes = self._own_basis(size, slope=True)
            scale = 1 / (2 * BOX_RADII)  # from radii to sides of the box
            along_y = along_y + spread(self.own, row_slopes, columns) * scale
            along_x = along_x + spread(self.own, rows, column_slopes) * scale
        return stretch(along_y, along_x)

    def folds(self) -> bool:
        """Tell whether the Jacobian's determinant changes sign, checked at four places for every control point."""
        finest = max(4 * (self.control.shape[-1] + 1), 64)
        return bool(self.stretch(finest).min() <= 0)

    def apply(self, mask: Mask) -> Mask:
        """Deform a mask (S, S) into one of 0 and 255 (S, S)."""
        size = len(mask)
        rows, columns = (self._within_reach(np.atleast_1d(mask.any(axis)), size) for axis in (1, 0))
        at = self.displacement(size, rows, columns)
        at += np.mgrid[rows, columns]
        shown = ndimage.map_coordinates(mask, at, np.float32, order=1, mode="nearest")
        deformed = np.zeros_like(mask)
        deformed[rows, columns] = np.where(shown >= LESION_FROM, np.uint8(255), np.uint8(0))
        return deformed

    def _within_reach(self, is_lesion: npt.NDArray[np.bool_], size: int) -> slice:
        """Find rows or columns that may show lesion: a B-spline moves nothing farther than its control points."""
        reach = float(np.abs(self.control).max()) * size + 2
        if self.own is not None:
            reach += float(np.abs(self.own).max()) * self._radius(size)
        first, last = np.flatnonzero(is_lesion)[[0, -1]]
        return slice(max(0, int(first - reach)), min(size, int(last + reach) + 1))

    def _radius(self, size: int) -> float:
        return self.lesion.pose.radius * size / self._side

    @property
    def _side(self) -> int:
        return self.lesion.side

    def _own_basis(self, size: int, *, slope: bool) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        assert self.own is not None  # noqa: S101 - only called where there is one
        pose, scale, n = self.lesion.pose, size / self._side, self.own.shape[-1]
        box = 2 * BOX_RADII * pose.radius * scale
        places = pixel_places(size) * size
        rows, columns = (
            basis((places - center * scale) / box + 0.5, n, clamped=False, slope=slope) for center in (pose.y, pose.x)
        )
        return rows, columns


@functools.cache
def _frame_basis(n: int, size: int, *, slope: bool) -> npt.NDArray[np.float64]:
    return basis(pixel_places(size), n, clamped=True, slope=slope)
