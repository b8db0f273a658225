"""Sliced Wasserstein distances against SciPy, and pyramids against the published code's way."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from evaluation_data import photographs
from support import Array

from m2l_runtime.conditioning.random import normal
from m2l_train.evaluate.metrics import sliced_wasserstein

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def blur(image: FloatArray, gain: float) -> FloatArray:
    line = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(line, line)[:, :, None] * gain
    return np.asarray(scipy.ndimage.convolve(image, kernel, mode="mirror"))


def published_pyramid(image: Array, levels: int) -> list[FloatArray]:
    """As sliced_wasserstein.py of the Progressive GAN's code."""
    found = [image.astype(float)]
    for _ in range(1, levels):
        smaller = blur(found[-1], 1)[::2, ::2]
        wide = np.zeros(found[-1].shape)
        wide[::2, ::2] = smaller
        found[-1] = found[-1] - blur(wide, 4)
        found.append(smaller)
    return found


def test_sliced_wasserstein__the_pyramid_is_the_published_one() -> None:
    image = photographs(1)[0]
    found = sliced_wasserstein.laplacian_pyramid(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    assert [level.shape[-1] for level in found] == [64, 32, 16] == sliced_wasserstein.pyramid_sides(64)
    for ours, theirs in zip(found, published_pyramid(image, 3), strict=True):
        np.testing.assert_allclose(ours[0].permute(1, 2, 0).numpy(), theirs, atol=1e-3)
    assert sliced_wasserstein.pyramid_sides(256) == [256, 128, 64, 32, 16]
    assert sliced_wasserstein.pyramid_sides(36) == [36, 18]


def test_sliced_wasserstein__patches_are_cut_out_of_their_level() -> None:
    images = photographs(2)
    found = sliced_wasserstein.describe(images, 0)
    assert [level.shape for level in found] == [(256, 3, 7, 7)] * 3
    level = published_pyramid(images[1], 3)[0]
    windows = np.lib.stride_tricks.sliding_window_view(level, (7, 7), (0, 1)).reshape(-1, 3, 7, 7)
    for patch in found[0][128:140]:
        assert np.abs(windows - patch).max((1, 2, 3)).min() < 1e-3


def test_sliced_wasserstein__a_distance_is_the_mean_over_directions_of_scipys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliced_wasserstein, "DIRECTIONS", 8)
    generator = np.random.default_rng(0)
    one = generator.normal(0, 1, (100, 3, 7, 7)).astype(np.float32)
    other = generator.gamma(1, 2, (100, 3, 7, 7)).astype(np.float32)
    scaled = []
    for patches in (one, other):
        centered = patches - patches.mean((0, 2, 3), keepdims=True)
        scaled.append((centered / patches.std((0, 2, 3), keepdims=True)).reshape(100, -1))
    directions = normal(8 * 147, 5, "evaluate", "directions").reshape(8, 147)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    expected = [scipy.stats.wasserstein_distance(scaled[0] @ d, scaled[1] @ d) for d in directions]
    assert sliced_wasserstein.distances([one, other], other, 5) == pytest.approx(
        [1000 * np.mean(expected), 0], rel=1e-4
    )


def test_sliced_wasserstein__it_is_zero_for_one_set_small_for_two_of_a_kind_and_large_for_others() -> None:
    first, second = photographs(12), photographs(12, first=40)
    blurred = scipy.ndimage.gaussian_filter(second.astype(float), (0, 2, 2, 0)).astype(np.uint8)
    sets = [sliced_wasserstein.describe(images, 0) for images in (first, second, blurred)]
    for level in range(2):
        same, alike, other = sliced_wasserstein.distances([s[level] for s in sets], sets[0][level], 0)
        assert same == 0
        assert 0 < 1.5 * alike < other
    assert sliced_wasserstein.distances([sets[0][0]], sets[0][0], 0) == [0]
