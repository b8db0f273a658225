"""KID against brute force, and what is known of its mean."""

from __future__ import annotations

import numpy as np
import pytest

from m2l_train.evaluate.metrics import bootstrap, kid


def features(seed: int, count: int = 60, mean: float = 0.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(mean, 1, (count, 8)).astype(np.float32)


def weights(count: int, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return bootstrap.multiplicities(bootstrap.resample_indices(count, 0, name))


def test_kid__it_is_the_unbiased_estimate() -> None:
    x, y = features(0, 7), features(1, 5, 0.5)

    def k(
        a: np.ndarray[tuple[int, ...], np.dtype[np.float32]], b: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    ) -> float:
        return float((a.astype(float) @ b.astype(float) / 8 + 1) ** 3)

    within = np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    other = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    assert kid.distance(x, y, weights(7, "x"), weights(5, "y")).value == pytest.approx(within + other - 2 * across)


def test_kid__two_samples_of_one_distribution_are_at_zero_on_average_and_a_shift_is_seen() -> None:
    found = [
        kid.distance(features(2 * n), features(2 * n + 1, 90), np.ones((1, 60)), np.ones((1, 90))).value
        for n in range(60)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / 60**0.5
    assert min(found) < 0 < max(found)
    shifts = [kid.distance(features(0), features(1, 90, m), weights(60, "x"), weights(90, "y")) for m in (0, 0.3, 0.6)]
    assert shifts[0].low is not None and shifts[2].low is not None  # noqa: PT018
    assert shifts[0].low < 0 < shifts[2].low
    assert shifts[0].value < shifts[1].value < shifts[2].value


def test_kid__standardised_features_do_not_depend_on_scales() -> None:
    x, y = features(0), features(1, 90, 0.3)
    scales = np.array([1, 10, 0.1, 5, 1, 2, 100, 1], np.float32)
    found = [
        kid.distance(kid.standardized(a, b), kid.standardized(b, b), weights(60, "x"), weights(90, "y")).value
        for a, b in ((x, y), (x * scales + 3, y * scales + 3))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert kid.standardized(y, y).std(0) == pytest.approx(np.ones(8), rel=1e-4)
    assert not kid.standardized(np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)).any()


def test_kid__the_interval_is_not_drawn_up_by_images_drawn_twice() -> None:
    found = kid.distance(features(0), features(1), weights(60, "x"), weights(60, "y"))
    assert found.low is not None and found.high is not None  # noqa: PT018
    assert abs((found.low + found.high) / 2 - found.value) < 0.5 * (found.high - found.low)
    assert found.low < found.value < found.high
