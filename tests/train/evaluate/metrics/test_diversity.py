"""Variety against brute force, and what copies do to it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from evaluation_data import photographs
from PIL import Image

from m2l_train.evaluate.metrics import bootstrap, diversity


def weights(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return bootstrap.multiplicities(bootstrap.resample_indices(count, 0, "variety"))


def test_diversity__it_is_the_mean_over_all_pairs() -> None:
    images = photographs(6, 128)
    small = [np.asarray(Image.fromarray(i).resize((64, 64), Image.Resampling.BOX), float) for i in images]
    expected = np.mean([np.abs(a - b).mean() for a, b in itertools.combinations(small, 2)])
    found = diversity.of_set(diversity.differences(images), weights(6))
    assert found.value == pytest.approx(expected)


def test_diversity__copies_have_none_and_half_of_it_is_half() -> None:
    images = photographs(8)
    same = diversity.differences(np.stack([images[0]] * 8))
    assert diversity.of_set(same, weights(8)).value == 0
    ramp = np.arange(0, 160, 20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 64, 64, 3), np.uint8)
    found = diversity.ratio(diversity.differences(ramp // 2), diversity.differences(ramp), weights(8), weights(8))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert np.isnan(diversity.ratio(same, same, weights(8), weights(8)).value)


def test_diversity__the_interval_lies_around_the_value() -> None:
    found = diversity.of_set(diversity.differences(photographs(30)), weights(30))
    assert found.low is not None and found.high is not None  # noqa: PT018
    assert found.low < found.value < found.high


def test_diversity__samples_of_one_mask() -> None:
    images = np.clip(photographs(6), 20, 230)
    found = diversity.of_samples([images, images + 6, images - 6], weights(6))
    assert found.value == pytest.approx((6 + 6 + 12) / 3)
    assert diversity.of_samples([images, images], weights(6)).value == 0
