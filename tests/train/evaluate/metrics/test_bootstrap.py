"""Intervals: that they cover what they should, and that pairs of an image with itself do not count."""

from __future__ import annotations

import numpy as np
import pytest

from m2l_train.evaluate.metrics import bootstrap


def weights(count: int, seed: int = 0, resamples: int = 200) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return bootstrap.multiplicities(bootstrap.resample_indices(count, seed, "test", resamples=resamples))


def test_bootstrap__resamples_are_as_large_as_the_set_and_depend_on_seed_and_name_alone() -> None:
    places = bootstrap.resample_indices(20, 1, "a")
    assert places.shape == (bootstrap.RESAMPLES, 20)
    assert (places.min(), places.max()) == (0, 19)
    np.testing.assert_array_equal(places, bootstrap.resample_indices(20, 1, "a"))
    assert (places != bootstrap.resample_indices(20, 1, "b")).any()
    assert (places != bootstrap.resample_indices(20, 2, "a")).any()
    found = bootstrap.multiplicities(places)
    np.testing.assert_array_equal(found.sum(1), 20)
    np.testing.assert_array_equal(found[3], np.bincount(places[3], minlength=20))


def test_bootstrap__an_interval_of_a_mean_covers_it_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(400):
        found = bootstrap.of_mean(generator.normal(3, 2, 40), weights(40, trial))
        assert found.low is not None and found.high is not None  # noqa: PT018
        assert found.low < found.value < found.high
        hits += found.low <= 3 <= found.high
    assert 0.90 <= hits / 400 <= 0.97


def test_bootstrap__an_interval_of_a_mean_is_as_wide_as_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(0, 1, 300)
    found = bootstrap.of_mean(values, weights(300, resamples=4000))
    assert found.low is not None and found.high is not None  # noqa: PT018
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 300**0.5, rel=0.05)


def test_bootstrap__what_is_not_known_is_left_out() -> None:
    values = np.array([1.0, np.nan, 3.0, np.inf, 2.0, 1.0, 4.0])
    assert bootstrap.of_mean(values, weights(7)).value == pytest.approx(2.2)
    assert np.isnan(bootstrap.of_mean(np.full(5, np.nan), weights(5)).value)


def test_bootstrap__few_images_have_no_interval() -> None:
    assert bootstrap.of_mean(np.arange(4.0), weights(4)) == bootstrap.Estimate(1.5)
    assert bootstrap.of_mean(np.arange(5.0), weights(5)).low is not None


def test_bootstrap__quantiles_and_ratios_of_medians() -> None:
    values = np.random.default_rng(2).gamma(2, 3, 50)
    places = bootstrap.resample_indices(50, 0, "q")
    found = bootstrap.of_quantile(values, 0.05, places)
    assert found.value == np.quantile(values, 0.05)
    one_by_one = [np.quantile(values[row], 0.05) for row in places]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(one_by_one, [0.025, 0.975])))
    same = bootstrap.of_median_ratio(values * 2, values, places, places)
    assert (same.value, same.low, same.high) == pytest.approx((2, 2, 2))


def test_bootstrap__pairs_of_one_original_do_not_count() -> None:
    matrix = np.random.default_rng(3).random((6, 6))
    matrix += matrix.T
    places = bootstrap.resample_indices(6, 0, "p", resamples=20)
    found = bootstrap.pair_means(matrix, bootstrap.multiplicities(places))
    for row, ours in zip(places, found, strict=True):
        pairs = [matrix[i, j] for a, i in enumerate(row) for b, j in enumerate(row) if a != b and i != j]
        assert ours == pytest.approx(np.mean(pairs))
    assert np.isnan(bootstrap.pair_means(matrix, np.array([[6.0, 0, 0, 0, 0, 0]]))[0])
