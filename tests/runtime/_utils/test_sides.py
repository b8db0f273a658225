"""Sizes as people write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from m2l_runtime._utils.sides import both_sides, plain_sides, read_sides, times_halved
from m2l_runtime.errors import InputError


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (256, (256, 256)),
        (np.int64(8), (8, 8)),
        ("96", (96, 96)),
        ("256x512", (256, 512)),
        (" 256 X 512 ", (256, 512)),
        ("256×512", (256, 512)),
        ((3, 4), (3, 4)),
        ([np.uint8(3), 4], (3, 4)),
    ],
)
def test_read_sides__every_form(given: Any, size: tuple[int, int]) -> None:
    assert read_sides(given, "x") == size
    assert read_sides(plain_sides(size), "x") == size
    assert both_sides(size) == size


@pytest.mark.parametrize(
    "given",
    [0, -1, True, 1.5, None, "", "x", "256x", "x512", "1x2x3", "-256x512", "٣", (1,), (1, 2, 3), (1, True), "9" * 10],
)
def test_read_sides__others(given: Any) -> None:
    with pytest.raises(InputError, match="the size must be a number of pixels, or height x width as 256x512, got"):
        read_sides(given, "the size")


def test_times_halved__is_what_division_says() -> None:
    for size in ((1, 1), (256, 512), (96, 128), (7, 8), (192, 320)):
        count = max(k for k in range(12) if size[0] % 2**k == 0 and size[1] % 2**k == 0)
        assert times_halved(size) == count
