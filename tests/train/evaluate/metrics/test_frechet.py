"""FID against SciPy and its closed form."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from m2l_train.evaluate.metrics.frechet import frechet_distance


def test_frechet__fid_is_scipys() -> None:
    generator = np.random.default_rng(0)
    mixing = generator.normal(0, 1, (6, 6))
    for count in (4, 40):  # fewer and more images than features
        one = generator.normal(0, 1, (count, 6)).astype(np.float32)
        other = (generator.normal(0.5, 2, (count + 1, 6)) @ mixing).astype(np.float32)
        c1, c2 = (np.cov(rows.astype(float), rowvar=False) for rows in (one, other))
        apart = one.mean(0, dtype=float) - other.mean(0, dtype=float)
        root = np.sqrt(np.maximum(scipy.linalg.eigvals(c1 @ c2).real, 0)).sum()
        expected = apart @ apart + np.trace(c1 + c2) - 2 * root
        assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-5)


def test_frechet__fid_of_gaussians_is_the_closed_form() -> None:
    generator = np.random.default_rng(1)
    one = generator.normal((0, 0, 0), (1, 2, 3), (40_000, 3)).astype(np.float32)
    other = generator.normal((1, 0, 2), (2, 2, 1), (40_000, 3)).astype(np.float32)
    assert frechet_distance(one, other) == pytest.approx(5 + 1 + 0 + 4, rel=0.03)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
