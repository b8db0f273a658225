"""Uniform and Gaussian numbers: their distribution, and that they stay what they are."""

from __future__ import annotations

import numpy as np
import pytest

from m2l_runtime.conditioning.random import normal, uniform


def test_random_distributions__they_are_distributed_as_they_should_be() -> None:
    stats = pytest.importorskip("scipy.stats")
    assert stats.kstest(normal(20_001, 0, "test"), "norm").pvalue > 0.01
    assert stats.kstest(uniform(20_000, 0, "test"), "uniform").pvalue > 0.01
    assert normal(20_001, 0, "test").shape == (20_001,)


def test_random_distributions__they_do_not_change() -> None:
    np.testing.assert_array_equal(normal(5, 3, "a"), normal(50, 3, "a")[:5])
    assert normal(3, 0, "golden") == pytest.approx(GOLDEN, abs=1e-12)


GOLDEN = [-0.8498548516929566, -0.2892470361275523, 0.890011615896669]
