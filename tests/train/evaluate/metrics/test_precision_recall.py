"""Precision and recall against the definition, written out, and what is known of them and of their intervals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from m2l_train.evaluate.metrics import precision_recall

Floats = npt.NDArray[np.float32]


def gaussian(seed: int, count: int, shift: float = 0.0, dimensions: int = 3) -> Floats:
    return np.random.default_rng(seed).normal(shift, 1, (count, dimensions)).astype(np.float32)


def by_definition(points: Floats, centers: Floats, k: int = 3) -> float:
    """Equation 1 of the paper: whether a point is as near to some center as that center's k-th neighbor, in float64."""

    def apart(a: Floats, b: Floats) -> float:
        return float(np.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))))

    radii = []
    for i, center in enumerate(centers):
        others = sorted(apart(center, other) for j, other in enumerate(centers) if j != i)
        radii.append(others[k - 1])
    inside = [any(apart(p, c) <= r for c, r in zip(centers, radii, strict=True)) for p in points]
    return sum(inside) / len(points)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_precision_recall__they_are_the_definition(shift: float) -> None:
    images, real = gaussian(1, 25, shift), gaussian(2, 40)
    assert precision_recall.precision(images, real).value == by_definition(images, real)
    assert precision_recall.recall(images, real).value == by_definition(real, images)
    for k in (1, 5):
        assert precision_recall.covered(images, real, neighbors=k).value == by_definition(images, real, k)


def test_precision_recall__of_a_set_with_itself_and_of_sets_far_apart() -> None:
    one, far = gaussian(0, 30), gaussian(1, 30, 50)
    for measure in (precision_recall.precision, precision_recall.recall):
        assert measure(one, one).value == 1
        nothing = measure(one, far)
        assert (nothing.value, nothing.low, nothing.high) == (0, None, None)
    assert np.isnan(precision_recall.recall(one[:3], one).value)


def test_precision_recall__a_set_with_half_the_modes_is_precise_and_recalls_half() -> None:
    real = np.concatenate([gaussian(0, 60), gaussian(1, 60, 40)])
    images = gaussian(2, 60)
    precision, recall = precision_recall.precision(images, real), precision_recall.recall(images, real)
    assert precision.value > 0.85
    assert recall.value == pytest.approx(0.5, abs=0.08)
    assert recall.low is not None and recall.high is not None  # noqa: PT018
    assert 0 < recall.low < recall.value < recall.high < 1


def test_precision_recall__leaving_a_center_out_is_what_the_jackknife_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    points, centers = gaussian(3, 20, 1.0), gaussian(4, 15)
    without: list[float] = []
    shares = precision_recall._share_without

    def kept(*given: object) -> float:
        without.append(shares(*given))  # type: ignore[arg-type]
        return without[-1]

    monkeypatch.setattr(precision_recall, "_share_without", kept)
    precision_recall.covered(points, centers)
    assert without == [by_definition(points, np.delete(centers, j, 0)) for j in range(15)]


def test_precision_recall__intervals_are_as_wide_as_samples_differ() -> None:
    """Nine of ten hold the mean of all; the jackknife errs on the large side, by no more than twice."""
    found = [precision_recall.recall(gaussian(2 * n, 40, 0.5), gaussian(2 * n + 1, 60)) for n in range(100)]
    ends = np.array([[np.nan if end is None else end for end in (one.low, one.high)] for one in found])
    values = np.array([one.value for one in found])
    assert np.mean((ends[:, 0] <= values.mean()) & (values.mean() <= ends[:, 1])) >= 0.9
    reach = values - ends[:, 0]  # upwards it is cut off at 1
    assert values.std() < np.sqrt(np.nanmean(np.square(reach))) / 1.96 < 2 * values.std()


def test_precision_recall__an_image_that_is_there_twice_is_at_distance_0() -> None:
    features = gaussian(0, 8, 3.0, 1280)
    assert not np.diag(precision_recall.square_distances(features, features)).any()
