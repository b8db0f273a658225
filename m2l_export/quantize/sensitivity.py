"""Choose the layers that stay in float, by what each layer alone costs in int8.

Rounding errors of different layers add up nearly like independent noise. So the squared error of one layer in int8,
with all others in float, says what leaving it in float would give back: on an average image, and on the worst image,
where it is often another layer. How nearly is measured as well: the errors are scaled so that their sum is that of all
layers in int8.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from m2l_export.parity.metrics import Fidelity, ParityLimits, fidelity, squared_errors
from m2l_export.quantize.quantizer import Layer
from m2l_runtime.types import Images

_MAX_PLACES: Final = 16
STEP: Final = 0.9
"""By what the error that is aimed at shrinks from one attempt to the next."""
_MIN_ERROR: Final = 1e-12


@dataclass(frozen=True)
class LayerErrors:
    """Hold the errors of each layer in int8 with all others in float, and of all layers in int8."""

    layers: tuple[Layer, ...]
    alone: tuple[Fidelity, ...]
    """For each layer."""
    squared: npt.NDArray[np.float64]
    """(layers, images): the mean squared error that each layer adds to each image, in squared levels of 0..255."""
    floor: npt.NDArray[np.float64]
    """(images,): the mean squared error with all layers in float, where equalization is not exact."""
    together: npt.NDArray[np.float64]
    """(images,): the mean squared error with all layers in int8, `floor` included."""
    all_int8: Fidelity

    def shares(self) -> npt.NDArray[np.float64]:
        """Compute `squared`, scaled in each image to add up to `together` above `floor`: (layers, images)."""
        total = np.maximum(self.together - self.floor, _MIN_ERROR)
        shares: npt.NDArray[np.float64] = self.squared * (total / self.squared.sum(0))
        return shares


@dataclass(frozen=True)
class LayerSensitivity:
    """Hold what a layer costs in int8 with all others in float."""

    layer: str
    multiplications_share: float
    """Share of the network's multiplications, 0..1."""
    alone_psnr_db: float
    """Mean PSNR over images."""
    alone_worst_psnr_db: float
    """PSNR of the worst image."""
    is_float: bool
    """Whether it was left in float in the end."""


@dataclass(frozen=True)
class Sensitivity:
    """Hold what each layer costs in int8, and which layers were chosen to stay in float."""

    layers: tuple[LayerSensitivity, ...]
    all_int8: Fidelity
    chosen: Fidelity
    """With the chosen layers in float, on the images that layers are chosen by."""

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Names of the layers left in float."""
        return tuple(row.layer for row in self.layers if row.is_float)

    @property
    def float_share(self) -> float:
        """Share of the multiplications that are left in float, 0..1."""
        return sum(row.multiplications_share for row in self.layers if row.is_float)


def measure_layers(
    layers: Sequence[Layer], images: Callable[[Collection[str]], Images], reference: Images
) -> LayerErrors:
    """Put each layer alone into int8, then none, then all of them.

    Args:
        layers: all layers of the network.
        images: makes images, given the names of layers left in float.
        reference: the same images in fp32.
    """
    names = [layer.name for layer in layers]
    alone = [images([other for other in names if other != name]) for name in names]
    floor = squared_errors(reference, images(names))
    all_int8 = images(())
    return LayerErrors(
        layers=tuple(layers),
        alone=tuple(fidelity(reference, one) for one in alone),
        squared=np.maximum(np.stack([squared_errors(reference, one) for one in alone]) - floor, _MIN_ERROR),
        floor=floor,
        together=squared_errors(reference, all_int8),
        all_int8=fidelity(reference, all_int8),
    )


def choose_float_layers(
    errors: LayerErrors, evaluate: Callable[[Collection[str]], Fidelity], aim: ParityLimits
) -> Sensitivity:
    """Leave those layers in float that bring the images within `aim` for the fewest multiplications.

    The layers are chosen by their own errors, and the choice is measured. Where it falls short, smaller errors are
    aimed at: of the sum of relative errors if the mean over the images falls short, of the worst image if that does.

    Args:
        errors: the result of :func:`measure_layers`.
        evaluate: measures images, given the names of layers left in float.
        aim: limits to be within. If no choice is, all layers are left in float.
    """
    names = [layer.name for layer in errors.layers]
    multiplications = [layer.multiplications for layer in errors.layers]
    costs = [one / sum(multiplications) for one in multiplications]
    # A first criterion for the mean of PSNRs, whose slope is the relative error, then one for each image.
    shares = errors.shares()
    relative = (shares / (shares.sum(0) + errors.floor)).mean(1)
    criteria = np.column_stack([relative / relative.sum(), shares])
    budgets = np.full(criteria.shape[1], np.inf)
    worst = 255**2 * 10 ** (-aim.worst_psnr_db / 10) / STEP
    left: list[str] = []
    current = errors.all_int8
    while current.misses(aim) and len(left) < len(names):
        if current.worst_psnr_db < aim.worst_psnr_db:
            worst *= STEP
            budgets[1:] = np.maximum(0, worst - errors.floor)
        else:
            budgets[0] = STEP * min(1.0, budgets[0])
        chosen = [names[place] for place in cheapest(costs, criteria, budgets)]
        if chosen != left:
            left = chosen
            current = evaluate(left)
    return Sensitivity(
        layers=tuple(
            LayerSensitivity(name, cost, one.mean_psnr_db, one.worst_psnr_db, name in left)
            for name, cost, one in zip(names, costs, errors.alone, strict=True)
        ),
        all_int8=errors.all_int8,
        chosen=current,
    )


def cheapest(costs: Sequence[float], errors: npt.NDArray[np.float64], budgets: npt.NDArray[np.float64]) -> list[int]:
    """Find the places to leave out at the least cost, so that the errors of the rest are within the budgets.

    Every choice is tried where there are up to 16 places. Beyond, what takes most of an excess per cost goes first, and
    at the end what can stay after all is taken back, the dearest first.

    Args:
        costs: cost of each place.
        errors: (places, criteria), which add up over the places.
        budgets: (criteria,).
    """
    if len(costs) > _MAX_PLACES:
        rest = list(range(len(costs)))
        while rest and (errors[rest].sum(0) > budgets).any():
            exceeded = errors[rest].sum(0) > budgets
            taken = (errors[:, exceeded] / errors[rest][:, exceeded].sum(0)).sum(1)
            rest.remove(max(rest, key=lambda place: taken[place] / costs[place]))
        left = [place for place in range(len(costs)) if place not in rest]
        for place in sorted(left, key=lambda place: -costs[place]):
            if (errors[[*rest, place]].sum(0) <= budgets).all():
                rest.append(place)
                left.remove(place)
        return left
    is_left: npt.NDArray[np.bool_] = (np.arange(1 << len(costs))[:, None] >> np.arange(len(costs)) & 1).astype(bool)
    is_within = (~is_left @ errors <= budgets).all(1)
    best = int(np.where(is_within, is_left @ np.asarray(costs), np.inf).argmin())
    return [int(place) for place in np.flatnonzero(is_left[best])]
