"""Grids: none in noise that falls off as photographs do, and planted ones found at their own stride."""

from __future__ import annotations

import numpy as np
import pytest
from support import Array

from m2l_train.evaluate.metrics import bootstrap, checkerboard
from m2l_train.evaluate.metrics.bootstrap import Estimate

SIDE = 256


def noise(count: int, slope: float, seed: int = 0) -> Array:
    """Grey images whose amplitude falls as the frequency to the power of -slope."""
    rows, columns = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE), indexing="ij")
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    found = []
    for n in range(count):
        white = np.fft.fft2(np.random.default_rng(seed + n).normal(0, 1, (SIDE, SIDE)))
        gray = np.fft.ifft2(white * frequency**-slope).real
        found.append(np.clip(128 + 20 * gray / gray.std(), 0, 255))
    return np.repeat(np.stack(found)[..., None], 3, 3).astype(np.uint8)


def energy(images: Array) -> dict[int | None, Estimate]:
    weights = bootstrap.multiplicities(bootstrap.resample_indices(len(images), 0, "grids", resamples=40))
    return checkerboard.energy(checkerboard.measure(images), weights)


@pytest.mark.parametrize("slope", [0.0, 1.0, 1.5])
def test_checkerboard__without_a_grid_it_is_about_one_whatever_the_slope(slope: float) -> None:
    found = energy(noise(24, slope))
    assert found[None].value == pytest.approx(1, abs=0.05)
    for stride in (4, 8, 16):
        assert found[stride].value == pytest.approx(1, abs=0.15)
    low, high = found[None].low, found[None].high
    assert low is not None
    assert high is not None
    assert low < 1.06
    assert high > 0.96


@pytest.mark.parametrize("stride", [2, 4, 8, 16])
def test_checkerboard__a_planted_grid_is_found_at_its_stride_and_not_at_finer_ones(stride: int) -> None:
    images = noise(8, 1.0)
    before = energy(images)
    grid = images.astype(int)
    grid[:, ::stride, ::stride] += 6 * stride
    after = energy(np.clip(grid, 0, 255).astype(np.uint8))
    cosine = 6 * np.cos(2 * np.pi * np.arange(SIDE) / stride)
    pure = energy(np.clip(np.rint(images + cosine[None, None, :, None]), 0, 255).astype(np.uint8))
    assert after[stride].value > 3 * before[stride].value
    assert after[None].value > 2 * before[None].value
    assert pure[stride].value > 1.2 * before[stride].value
    for other in checkerboard.STRIDES:
        if other != stride:
            assert pure[other].value == pytest.approx(before[other].value, rel=0.1)


def test_checkerboard__a_grid_of_another_period_is_not_one() -> None:
    images = noise(8, 1.0)
    cosine = 6 * np.cos(2 * np.pi * np.arange(SIDE) * 27 / SIDE)
    found = energy(np.clip(images + cosine[None, None, :, None], 0, 255).astype(np.uint8))
    assert found[None].value == pytest.approx(1, abs=0.15)


def test_checkerboard__every_point_is_counted_once_under_its_smallest_stride() -> None:
    found = checkerboard.points(SIDE)
    assert {stride: len(some) for stride, some in found.items()} == {2: 3, 4: 6, 8: 24, 16: 96}
    every = [place for some in found.values() for place in some]
    both = {(r % SIDE, c % SIDE) for row, column in every for r, c in ((row, column), (-row, -column))}
    assert both | {(0, 0)} == {(r, c) for r in range(0, SIDE, 16) for c in range(0, SIDE, 16)}
    assert found[2] == [(0, 128), (128, 0), (128, 128)]


def test_checkerboard__small_images_have_room_for_few_strides() -> None:
    assert checkerboard.measured_strides(256) == (2, 4, 8, 16)
    assert checkerboard.measured_strides(64) == (2, 4)
    assert checkerboard.measured_strides(36) == (2,)
    assert checkerboard.measured_strides(33) == ()


def test_checkerboard__flat_images_have_no_grid() -> None:
    assert energy(np.full((3, 64, 64, 3), 90, np.uint8))[None].value == pytest.approx(1, abs=1e-6)
