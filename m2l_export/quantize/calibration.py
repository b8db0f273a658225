"""Split masks into those that int8 is calibrated on and those that it is evaluated on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from m2l_export.graph.onnx_writer import MASK
from m2l_export.parity.gate import PROBES, ROLE_ROWS, Inputs, interrupt_uniform
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.conditioning.conditions import Appearances
from m2l_runtime.errors import InputError
from m2l_runtime.masks.mask_folder import find_masks
from m2l_runtime.masks.sources.spec import is_spec, open_source
from m2l_runtime.types import Mask, Masks

_EVALUATED_ON: Final = "judged on"
"""Name of the random numbers that evaluation's inputs are drawn with. Another name would give others."""

MIN_MASKS: Final = 16
"""Fewest different masks that a calibration takes."""
MAX_CALIBRATION_MASKS: Final = 64
MIN_EVALUATION_MASKS: Final = 100
MAX_EVALUATION_MASKS: Final = 200
SELECTION_MASKS: Final = 12
"""Masks of the calibration that layers are chosen by."""
MAX_READ_MASKS: Final = 1000
"""Most masks read, evenly over the folder, to find enough different ones."""
_GENERATED_MASKS: Final = "shapes:{count},seed=20190716"


@dataclass(frozen=True)
class Calibration:
    """Hold inputs as arrays by name, one row for each image."""

    calibration_inputs: Inputs
    selection_inputs: Inputs
    """What layers are chosen by: a few masks of `calibration_inputs`, and black and white, whose errors have other
    causes."""
    evaluation_inputs: Inputs
    """Masks that nothing was calibrated on, then black, white and the inputs of the golden images."""
    source: str
    """Words for generated masks: '' for those of a folder, or ' (drawn: shapes)'."""
    drawn_count: int
    """Generated shapes among the evaluation masks, for what the folder lacks."""

    @property
    def evaluation_mask_count(self) -> int:
        """Rows of `evaluation_inputs`."""
        return len(self.evaluation_inputs[MASK])


def read_calibration(
    masks: str,
    specs: Sequence[TensorSpec],
    table: Appearances | None,
    golden: Inputs,
    is_uniform_defined: bool = True,
) -> Calibration:
    """Read masks: a third to calibrate on, the rest to evaluate on, with generated shapes if these are too few.

    Each mask gets a random appearance and random dropout bits, where the generator takes them. The golden images, which
    `m2l verify` replays, are evaluated too, so that no file is shipped that fails there.

    Args:
        masks: a folder of masks, or a mask source such as ``shapes:200``.
        specs: the generator's inputs, the mask first.
        table: float32 (count, numbers), where there are appearances.
        golden: inputs of the bundle's golden images.
        is_uniform_defined: see :func:`m2l_export.parity.gate.defines_uniform`; if not, a disc is drawn into the
            black and the white mask.

    Raises:
        InputError: a mask cannot be read or is a photograph, or there are too few that differ.
        EngineNotInstalled: the mask source needs SciPy.
    """
    side = specs[0].shape[1:]
    size = (int(side[0]), int(side[1]))
    plain = [PROBES[name](size) for name in ("black", "white")]
    always = {_hash(mask) for mask in (*plain, *golden[MASK])}
    distinct_masks = _read(masks, size, MAX_CALIBRATION_MASKS + MAX_EVALUATION_MASKS, always)
    if len(distinct_masks) < MIN_MASKS:
        raise InputError(
            f"calibration takes at least {MIN_MASKS} different masks that are neither black nor white, got "
            f"{len(distinct_masks)} "
            f"from {printable(masks)}; give a folder of more, such as those trained on, or have them drawn: "
            "--calibrate shapes:200"
        )
    tuned_count = min(MAX_CALIBRATION_MASKS, len(distinct_masks) // 3)
    tuned_places = set(_spread(len(distinct_masks), tuned_count))
    evaluated = [mask for place, mask in enumerate(distinct_masks) if place not in tuned_places]
    missing = max(0, MIN_EVALUATION_MASKS - len(evaluated))
    drawn: list[Mask] = []
    if missing:
        words = _GENERATED_MASKS.format(count=2 * missing + len(distinct_masks))
        drawn = _read(words, size, missing, always | {_hash(mask) for mask in distinct_masks})
    if not is_uniform_defined:
        plain = list(interrupt_uniform(np.stack(plain)))
    mine = _inputs(np.stack(evaluated + drawn + plain), specs, table, _EVALUATED_ON)
    tuned = _inputs(np.stack([distinct_masks[place] for place in sorted(tuned_places)]), specs, table, "tuned on")
    few = _spread(tuned_count, min(SELECTION_MASKS, tuned_count))
    extremes = _inputs(np.stack(plain), specs, table, "looked at")
    return Calibration(
        calibration_inputs=tuned,
        selection_inputs={name: np.concatenate([array[few], extremes[name]]) for name, array in tuned.items()},
        evaluation_inputs={name: np.concatenate([array, golden[name]]) for name, array in mine.items()},
        source=f" (drawn: {masks.partition(':')[0].lower()})" if is_spec(masks) else "",
        drawn_count=len(drawn),
    )


def _read(masks: str, size: tuple[int, int], wanted: int, without: Collection[bytes]) -> list[Mask]:
    """Read up to `wanted` different masks (H, W), evenly chosen, without those whose hashes are in `without`."""
    mask_set = open_source(masks, min(size)) if is_spec(masks) else find_masks(masks)
    names = mask_set.names
    first = _spread(len(names), min(wanted, len(names)))
    others = sorted(set(_spread(len(names), min(MAX_READ_MASKS, len(names)))).difference(first))
    masks_by_hash: dict[bytes, tuple[int, Mask]] = {}
    for place in (*first, *others):
        if len(masks_by_hash) == wanted:
            break
        mask = mask_set.read(names[place], size).mask
        if (key := _hash(mask)) not in without:
            masks_by_hash.setdefault(key, (place, mask))
    return [mask for _, mask in sorted(masks_by_hash.values(), key=lambda one: one[0])]


def _hash(mask: Mask) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(mask).tobytes()).digest()


def _spread(count: int, wanted: int) -> list[int]:
    """Choose `wanted` of `count` places evenly."""
    return [place * count // wanted for place in range(wanted)]


def _inputs(masks: Masks, specs: Sequence[TensorSpec], table: Appearances | None, purpose: str) -> Inputs:
    inputs: dict[str, npt.NDArray[Any]] = {MASK: masks}
    for spec in specs[1:]:
        inputs[spec.name] = ROLE_ROWS[spec.role].random(spec, table, len(masks), ("calibration", purpose))
    return inputs


def describe_calibration(calibration: Calibration, *, is_calibrated: bool) -> str:
    """Describe what a file is evaluated on, and calibrated on if it is.

    The text is part of the manifest.
    """
    is_mixed = calibration.drawn_count and not calibration.source
    drawn = f", {calibration.drawn_count} of them drawn" if is_mixed else ""
    if not is_calibrated:
        return f"evaluated on {calibration.evaluation_mask_count} masks{calibration.source}{drawn}"
    tuned = plural(len(calibration.calibration_inputs[MASK]), "mask")
    return f"tuned on {tuned}{calibration.source}, evaluated on {calibration.evaluation_mask_count} others{drawn}"
