"""Comparisons that tests of data sets share."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def contents(pairs: Any) -> list[tuple[bytes, bytes]]:
    """Images and masks of pairs of tensors or arrays, as bytes of 0..255."""
    return [(_levels(image, 255), _levels(mask, 255)) for image, mask in pairs]


def _levels(values: Any, white: float) -> bytes:
    if isinstance(values, Tensor):
        array = np.rint(values.numpy() * white).astype(np.uint8)
        return (array.transpose(1, 2, 0) if array.shape[0] == 3 else array[0]).tobytes()
    array = np.asarray(values)
    return (array if array.ndim == 3 else np.where(array >= 128, np.uint8(255), np.uint8(0))).tobytes()
