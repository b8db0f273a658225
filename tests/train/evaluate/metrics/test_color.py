"""Colors of lesion and skin against scikit-image on flat images, and known shifts."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_data import masks, photographs
from skimage.color import deltaE_cie76, rgb2lab
from support import Array

from m2l_train.evaluate.metrics import bootstrap, color


def flat(lesion: Array, skin: Array, mask: Array) -> Array:
    return np.where(mask[:, :, None] >= 128, lesion, skin).astype(np.uint8)


def weights(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return bootstrap.multiplicities(bootstrap.resample_indices(count, 0, "colors"))


def lab(rgb: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(rgb2lab(rgb[None, None].astype(float) / 255)).reshape(3)


def test_color__flat_colors_are_found_and_their_difference_is_scikit_images() -> None:
    dark, brown, pink = (np.array(c, np.uint8) for c in ((90, 50, 40), (140, 90, 70), (220, 180, 160)))
    mask = masks(1)[0]
    generated = color.region_colors(np.stack([flat(dark, pink, mask)] * 6), np.stack([mask] * 6))
    real = color.region_colors(np.stack([flat(brown, pink, mask)] * 6), np.stack([mask] * 6), workers=2)
    assert generated.lesion[0] == pytest.approx(lab(dark), abs=1e-3)
    assert generated.skin[0] == pytest.approx(lab(pink), abs=1e-3)
    expected = float(deltaE_cie76(lab(dark), lab(brown)))  # type: ignore[no-untyped-call]
    for found in (
        color.paired_difference(generated.lesion, real.lesion, weights(6)),
        color.set_difference(generated.lesion, real.lesion, weights(6), weights(6)),
    ):
        assert (found.value, found.low, found.high) == pytest.approx((expected,) * 3, abs=1e-3)
    assert color.paired_difference(generated.skin, real.skin, weights(6)).value == 0


def test_color__masks_without_lesion_or_skin_are_left_out() -> None:
    all_masks = masks(7)
    all_masks[0], all_masks[1] = 0, 255
    images = photographs(7)
    found = color.region_colors(images, all_masks)
    assert np.isnan(found.lesion[0]).all()
    assert np.isnan(found.skin[1]).all()
    shifted = color.RegionColors(found.lesion + np.array([3, 4, 0]), found.skin)
    assert color.paired_difference(shifted.lesion, found.lesion, weights(7)).value == pytest.approx(5)
    assert color.set_difference(shifted.lesion, found.lesion, weights(7), weights(7)).value == pytest.approx(5)
    nothing = color.region_colors(images, np.zeros_like(all_masks)).lesion
    assert np.isnan(color.spread_ratio(nothing, nothing, weights(7), weights(7)).value)
    assert np.isnan(color.set_difference(nothing, nothing, weights(7), weights(7)).value)


def test_color__spreads() -> None:
    colors = np.random.default_rng(0).normal((50, 10, 20), (5, 2, 3), (200, 3))
    narrow = colors.mean(0) + (colors - colors.mean(0)) / 4
    found = color.spread_ratio(narrow, colors, weights(200), weights(200))
    assert (found.value, found.low, found.high) == pytest.approx((0.25,) * 3)
    other = np.random.default_rng(1).normal(0, 2, (300, 3))
    found = color.spread_ratio(other, colors, weights(200)[:, :1].repeat(300, 1) * 0 + 1, weights(200))
    assert found.value == pytest.approx((12 / 38) ** 0.5, rel=0.1)
