"""The classifier of two samples: against other optimizers, and what its area must be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu, norm

from m2l_train.evaluate.metrics import bootstrap, two_sample

Floats = npt.NDArray[np.float64]
Held = npt.NDArray[np.bool_]


def gaussian(seed: int, count: int, shift: float = 0.0, dimensions: int = 4) -> Floats:
    return np.random.default_rng(seed).normal(shift, 1, (count, dimensions))


def weights(count: int, name: str = "images") -> Floats:
    return bootstrap.multiplicities(bootstrap.resample_indices(count, 0, name))


def tell_apart(one: Floats, other: Floats, *, is_paired: bool = False) -> two_sample.TwoSamples:
    name = "images" if is_paired else "real"
    return two_sample.tell_apart(one, other, weights(len(one)), weights(len(other), name), is_paired=is_paired, seed=0)


def test_two_sample__the_classifier_is_the_minimum_that_another_optimizer_finds() -> None:
    features = np.concatenate([gaussian(0, 30, 0.5), gaussian(1, 20)])
    labels = np.repeat([1.0, 0.0], [30, 20])

    def loss(parameters: Floats) -> float:
        margins = (2 * labels - 1) * (features @ parameters[:-1] + parameters[-1])
        return float(np.log1p(np.exp(-margins)).mean() + 0.05 * np.square(parameters[:-1]).sum())

    expected = minimize(
        loss, np.zeros(5), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-13, "maxiter": 9000}
    )
    slope, bias = two_sample.fit_logistic(features, labels, ridge=0.1)
    assert np.append(slope, bias) == pytest.approx(expected.x, abs=1e-4)


def test_two_sample__the_classifier_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    features = np.concatenate([gaussian(0, 40, 0.3, 60), gaussian(1, 30, 0.0, 60)])
    labels = np.repeat([1.0, 0.0], [40, 30])
    theirs = linear_model.LogisticRegression(C=1 / (70 * 0.1), tol=1e-8, max_iter=5000).fit(features, labels)
    slope, bias = two_sample.fit_logistic(features, labels, ridge=0.1)
    assert slope == pytest.approx(theirs.coef_[0], abs=1e-4)
    assert bias == pytest.approx(float(theirs.intercept_[0]), abs=1e-4)


def test_two_sample__the_area_is_that_of_the_best_classifier_of_gaussians() -> None:
    """Shifted by d in all, the best area is Phi(d / sqrt 2); here d = 0.5 times 2."""
    found = tell_apart(gaussian(0, 600, 0.5), gaussian(1, 600))
    assert found.area.value == pytest.approx(norm.cdf(1 / 2**0.5), abs=0.03)
    assert found.area.low is not None and found.area.high is not None  # noqa: PT018
    assert found.area.low < norm.cdf(1 / 2**0.5) < found.area.high


def test_two_sample__one_distribution_is_at_a_half_on_average_and_sets_far_apart_at_1() -> None:
    areas = [tell_apart(gaussian(2 * n, 40), gaussian(2 * n + 1, 40)).area.value for n in range(20)]
    assert np.mean(areas) == pytest.approx(0.5, abs=float(3 * np.std(areas) / 20**0.5))
    assert tell_apart(gaussian(0, 20, 9), gaussian(1, 20)).area.value == 1
    assert np.isnan(tell_apart(gaussian(0, 4), gaussian(1, 20)).area.value)


def test_two_sample__a_fold_holds_both_images_of_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were one of two all but equal images trained on and the other tested, it would be told wrong each time."""
    held: list[tuple[Held, Held]] = []
    test = two_sample._test

    def kept(one: Floats, two: Floats, ours: Held, theirs: Held) -> tuple[Floats, Floats]:
        held.append((ours, theirs))
        return test(one, two, ours, theirs)

    monkeypatch.setattr(two_sample, "_test", kept)
    one = gaussian(0, 41, 0.0, 300)
    found = tell_apart(one + 1e-3 * gaussian(1, 41, 0.0, 300), one, is_paired=True)
    assert all((ours == theirs).all() for ours, theirs in held)
    assert len(held) == two_sample.FOLDS * two_sample.REPEATS
    assert found.area.value > 0.3
    assert tell_apart(one + 1e-3 * gaussian(1, 41, 0.0, 300), one).area.value < 0.2


def test_two_sample__every_image_is_tested_once_in_each_division_and_the_area_is_mann_whitneys() -> None:
    one, other = gaussian(0, 50, 0.8), gaussian(1, 50)
    found = tell_apart(one, other)
    u = mannwhitneyu(found.scores, found.other_scores).statistic / 2500
    assert found.area.value == pytest.approx(u, abs=0.02)  # of all folds together, and of each
    assert (found.scores != 0).all()
    assert (found.other_scores != 0).all()
    assert found.scores.mean() > 0 > found.other_scores.mean()


def test_two_sample__scales_of_features_do_not_matter() -> None:
    one, other, scales = gaussian(0, 40, 0.5), gaussian(1, 40), np.array([1, 100, 0.01, 5])
    found = [tell_apart(*pair).area.value for pair in ((one, other), (one * scales + 7, other * scales + 7))]
    assert found[0] == pytest.approx(found[1], abs=1e-3)
