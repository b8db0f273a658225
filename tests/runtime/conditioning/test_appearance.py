"""What is measured of a photograph, against scikit-image and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support import disc

from m2l_runtime.conditioning.appearance import lab, measure
from m2l_runtime.types import NAMES


def test_appearance__lab_is_that_of_scikit_image() -> None:
    color = pytest.importorskip("skimage.color")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    pixels[0, :16] = np.arange(16)[:, None]  # near black, where L* is linear
    np.testing.assert_allclose(lab(pixels), color.rgb2lab(pixels), atol=2e-3)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((255, 255, 255), (100, 0, 0)),
        ((119, 119, 119), (50.03, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.74, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_appearance__colors_that_tables_list(rgb: tuple[int, int, int], expected: tuple[float, float, float]) -> None:
    """Lindbloom's CIE color calculator and others: sRGB primaries under D65."""
    np.testing.assert_allclose(lab(np.array(rgb, np.uint8)), expected, atol=0.02)


def test_appearance__the_numbers_are_mean_and_spread_of_each_region() -> None:
    mask = disc(64, 20, 30, 30)
    mask[mask == 0] = 127  # still skin
    mask[mask == 255] = 128  # just lesion
    dark, light, skin = (90, 60, 50), (110, 80, 70), (220, 180, 170)
    image = np.full((64, 64, 3), skin, np.uint8)
    places = np.flatnonzero(mask == 128)
    image.reshape(-1, 3)[places] = dark
    image.reshape(-1, 3)[places[: len(places) // 4]] = light
    share = (len(places) // 4) / len(places)
    one, other = lab(np.array([dark, light], np.uint8)).astype(float)
    mean = one * (1 - share) + other * share
    deviation = np.abs(one - other) * np.sqrt(share * (1 - share))  # of a variable with two values
    found = measure(image, mask)
    assert found.dtype == np.float32
    expected = np.concatenate([mean, deviation, lab(np.array(skin, np.uint8)), np.zeros(3)])
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert len(NAMES) == len(set(NAMES)) == 12


@pytest.mark.parametrize("level", [0, 255])
def test_appearance__without_one_of_the_regions_both_have_the_numbers_of_the_whole(level: int) -> None:
    image = np.random.default_rng(3).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    found = measure(image, np.full((16, 16), level, np.uint8))
    whole = lab(image).reshape(-1, 3)
    np.testing.assert_allclose(found, np.tile(np.concatenate([whole.mean(0), whole.std(0)]), 2), rtol=1e-4)


def test_appearance__another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image must be \(8, 8, 3\)"):
        measure(np.zeros((8, 9, 3), np.uint8), np.zeros((8, 8), np.uint8))
