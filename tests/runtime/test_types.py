"""What counts as Masks."""

from __future__ import annotations

import numpy as np
import pytest

from m2l_runtime.errors import ArrayError
from m2l_runtime.types import check_masks


@pytest.mark.parametrize("count", [0, 1, 5])
def test_types__masks_pass_as_they_are(count: int) -> None:
    masks = np.full((count, 8, 16), 255, np.uint8)
    assert check_masks(masks, (8, 16)) is masks


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((1, 5, 6), np.float32), r"masks must be \(N, 8, 16\) uint8, got \(1, 5, 6\) float32"),
        (np.zeros((1, 8, 16), np.float32), r"got \(1, 8, 16\) float32"),
        (np.zeros((1, 8, 16), np.int64), r"got \(1, 8, 16\) int64"),
        (np.zeros((1, 16, 8), np.uint8), r"got \(1, 16, 8\) uint8"),
        (np.zeros((1, 8, 16, 1), np.uint8), r"got \(1, 8, 16, 1\) uint8"),
        (np.zeros((8, 16), np.uint8), r"masks\[None\]"),
        (np.zeros((1, 8, 16), bool), r"astype\(numpy.uint8\) \* 255"),
        (np.ones((1, 8, 16), np.uint8), r"masks \* 255"),
        ([np.zeros((8, 16), np.uint8)], r"got a list; numpy.stack"),
        (None, "got None"),
    ],
)
def test_types__anything_else_is_refused_with_what_it_was(masks: object, message: str) -> None:
    with pytest.raises(ArrayError, match=message) as error:
        check_masks(masks, (8, 16))
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, TypeError)
