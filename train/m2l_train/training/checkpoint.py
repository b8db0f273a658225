"""Save and restore the state of a training run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from m2l_train.data.data_folder import DataFolder


def pairs_fingerprint(data: DataFolder) -> str:
    """Of the names of the pairs trained on, in order."""
    hashed = hashlib.sha256()
    for pair in data.train:
        hashed.update(f"{pair.image.name}\0{pair.mask.name}\n".encode(errors="surrogateescape"))
    return hashed.hexdigest()


def appearance_rows_in(state: dict[str, Any] | None) -> int:
    """Appearances kept in a state; 0 if it has none, or is none."""
    table = None if state is None else state["G"].get("appearance.table")
    return len(table) if isinstance(table, torch.Tensor) and table.dim() else 0


def _is_whole(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


STATE_PARTS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "config": ("text", lambda v: isinstance(v, str)),
    "data": ("text", lambda v: isinstance(v, str)),
    "epoch": ("a whole number from 1", lambda v: _is_whole(v, 1)),
    "position": ("a whole number from -1", lambda v: _is_whole(v, -1)),
    "step": ("a whole number from 0", lambda v: _is_whole(v, 0)),
    "seconds": ("a finite number from 0", lambda v: _is_finite(v) and v >= 0),
    "val_l1": ("a finite number or None", lambda v: v is None or _is_finite(v)),
    "G": ("tensors by name", lambda v: isinstance(v, dict)),
    "D": ("tensors by name", lambda v: isinstance(v, dict)),
    "optimizer_G": ("the state of an optimizer", lambda v: isinstance(v, dict)),
    "optimizer_D": ("the state of an optimizer", lambda v: isinstance(v, dict)),
    "rng_cpu": ("a tensor", lambda v: isinstance(v, torch.Tensor)),
}
"""What a state has: what is expected, and whether a value is that."""


def require_moments(optimizer: torch.optim.Adam) -> None:
    """PyTorch takes any shape over from a state, and fails in the next step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(value, torch.Tensor) or (value.dim() and value.shape != parameter.shape):
                    raise ValueError(f"size mismatch for '{key}' of an optimizer")
