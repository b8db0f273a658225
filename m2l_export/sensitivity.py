"""A calibrated file and limits to the layers that stay in float, by what each layer alone costs.

Rounding errors of different layers add up nearly like independent noise, so a layer's own squared error, all others in
float, says what leaving it in float would give back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from m2l_export.fidelity import Fidelity, Limits, fidelity
from m2l_export.quantise import Quantiser
from m2l_runtime.arrays import Images

LOOKED_AT: Final = 12
"""Images that layers are judged by."""
_MOST_PLACES: Final = 16
STEP: Final = 0.9
"""What is left of the error that is aimed at, from one attempt to the next."""
MARGIN_DB: Final = 0.5
"""What is asked for beyond the limits, as the gate judges by other images."""


@dataclass(frozen=True)
class LayerSensitivity:
    """A layer in int8 with all others in float."""

    layer: str
    multiplications_share: float
    """Of the network's."""
    alone_psnr_db: float
    """Over all bytes."""
    is_float: bool
    """Whether it was left in float in the end."""


@dataclass(frozen=True)
class Sensitivity:
    """What was found, and what was chosen."""

    layers: tuple[LayerSensitivity, ...]
    all_int8: Fidelity
    chosen: Fidelity
    """On the images that layers are judged by."""

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Names of the layers left in float."""
        return tuple(row.layer for row in self.layers if row.is_float)

    @property
    def float_share(self) -> float:
        """Of the multiplications, 0..1: those left in float."""
        return sum(row.multiplications_share for row in self.layers if row.is_float)

    @property
    def error_left(self) -> float:
        """Of the layers in int8, their own squared errors added up, over 255^2."""
        return sum(_error(row.alone_psnr_db) for row in self.layers if not row.is_float)


def choose_float_layers(
    quantiser: Quantiser,
    run: Callable[[bytes, Mapping[str, npt.NDArray[Any]]], Images],
    inputs: Mapping[str, npt.NDArray[Any]],
    reference: Images,
    limits: Limits,
    before: Sensitivity | None = None,
    further_db: float = 0.0,
) -> Sensitivity:
    """Leave those layers in float that bring the images within `limits` for the fewest multiplications.

    Which those are is told from the layers' own errors, and then measured; where that falls short, more is asked for.

    Args:
        quantiser: calibrated.
        run: an ONNX file and inputs to images.
        inputs: arrays by name, see :func:`looked_at`.
        reference: images of `inputs` in fp32.
        limits: to be within, with a margin. If nothing is, all layers are left in float.
        before: what was chosen and fell short on other images. What it measured of each layer is taken from it.
        further_db: by how much less the error is to be than that of `before`.
    """

    def judge(float_layers: Collection[str]) -> Fidelity:
        return fidelity(reference, run(quantiser.quantise(float_layers), inputs))

    names = [layer.name for layer in quantiser.layers]
    if before is None:
        alone = {name: judge([other for other in names if other != name]).psnr_db for name in names}
        all_int8 = judge(())
    else:
        alone, all_int8 = {row.layer: row.alone_psnr_db for row in before.layers}, before.all_int8
    total = sum(layer.multiplications for layer in quantiser.layers)
    costs = [layer.multiplications / total for layer in quantiser.layers]
    errors = [_error(alone[name]) for name in names]
    left: list[str] = []
    found, budget = all_int8, sum(errors)
    if before is not None:
        budget = before.error_left * 10 ** (-further_db / 10)
        left = [names[place] for place in cheapest(costs, errors, budget)]
        found = judge(left)
    while found.misses(limits, margin_db=MARGIN_DB) and len(left) < len(names):
        budget *= STEP
        chosen = cheapest(costs, errors, budget)
        if [names[place] for place in chosen] != left:
            left = [names[place] for place in chosen]
            found = judge(left)
    return Sensitivity(
        layers=tuple(
            LayerSensitivity(name, cost, alone[name], name in left) for name, cost in zip(names, costs, strict=True)
        ),
        all_int8=all_int8,
        chosen=found,
    )


def _error(psnr_db: float) -> float:
    return float(10 ** (-psnr_db / 10))


def looked_at(inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Up to `LOOKED_AT` rows of `inputs`, evenly chosen."""
    count = len(next(iter(inputs.values())))
    few = min(LOOKED_AT, count)
    return {name: array[[place * count // few for place in range(few)]] for name, array in inputs.items()}


def cheapest(costs: Sequence[float], errors: Sequence[float], budget: float) -> list[int]:
    """Places to leave out, of least cost in all, so that the errors of the rest sum to at most `budget`.

    Every choice is looked at where there are up to 16 places; beyond, the largest errors per cost go first.
    """
    if len(costs) > _MOST_PLACES:
        order = sorted(range(len(costs)), key=lambda place: costs[place] / errors[place])
        left: list[int] = []
        while order and sum(errors[place] for place in order) > budget:
            left.append(order.pop(0))
        return sorted(left)
    is_left: npt.NDArray[np.bool_] = (np.arange(1 << len(costs))[:, None] >> np.arange(len(costs)) & 1).astype(bool)
    remaining, cost = ~is_left @ np.asarray(errors), is_left @ np.asarray(costs)
    best = int(np.where(remaining <= budget, cost, np.inf).argmin())
    return [int(place) for place in np.flatnonzero(is_left[best])]
