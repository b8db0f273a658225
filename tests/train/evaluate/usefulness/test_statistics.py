"""The statistics of the usefulness experiment, against their definitions and scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from m2l_train.evaluate.usefulness.result import METRICS
from m2l_train.evaluate.usefulness.statistics import compare, holm, mean_interval, signed_rank_p, summarize


def test_holm__rejects_what_the_step_down_procedure_rejects() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        p_values = (random.random(7) ** 3).tolist()
        corrected = holm(p_values)
        for level in np.linspace(0.001, 0.999, 97):
            rejected = set()
            for rank, place in enumerate(np.argsort(p_values)):
                if p_values[place] > level / (len(p_values) - rank):
                    break
                rejected.add(int(place))
            assert {place for place, p in enumerate(corrected) if p <= level} == rejected
    assert holm([]) == []
    assert max(holm([0.9, 0.8])) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_signed_rank_p__is_the_share_of_signs_as_extreme(seed: int) -> None:
    differences = np.random.default_rng(seed).normal(0.4, 1, 9)
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    sums = np.array([np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=9)])
    ours = ranks[differences > 0].sum()
    middle = ranks.sum() / 2
    assert signed_rank_p(differences) == pytest.approx((np.abs(sums - middle) >= abs(ours - middle)).mean())


def test_signed_rank_p__of_no_difference_is_1() -> None:
    assert signed_rank_p(np.zeros(5)) == 1.0
    assert signed_rank_p(np.full(5, 1e-17)) == 1.0


def test_mean_interval__over_seeds_alone_is_that_of_all_resamples() -> None:
    seeds = np.array([0.0, 1.0, 5.0])
    means = np.repeat([np.mean(drawn) for drawn in itertools.product(seeds, repeat=3)], 100)
    found = mean_interval(np.repeat(seeds[:, None], 8, 1))
    assert (found.value, found.low, found.high) == pytest.approx((2.0, *np.quantile(means, [0.025, 0.975])))


def test_mean_interval__over_images_alone_is_that_of_scipy() -> None:
    values = np.random.default_rng(1).random(60)
    expected = scipy.stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(2))
    for scores in (values[None], np.repeat(values[None], 4, 0)):
        found = mean_interval(scores)
        assert found.value == pytest.approx(values.mean())
        assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.01)


def test_mean_interval__over_both_is_wider_than_over_either() -> None:
    random = np.random.default_rng(3)
    scores = random.normal(0, 1, (6, 1)) + random.normal(0, 2, (1, 40))
    found = mean_interval(scores)
    assert found.low is not None
    assert found.high is not None
    variance = scores.mean(1).var() / 6 + scores.mean(0).var() / 40
    assert found.high - found.low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.1)


def scores_of(**shifts: float) -> dict[tuple[str, float], dict[str, np.ndarray]]:
    """(3, 40) scores of each arm, shifted, at two fractions."""
    base = np.random.default_rng(4).uniform(0.3, 0.7, (3, 40))
    noise = np.random.default_rng(5)
    return {
        (arm, fraction): {metric: base + shift + noise.normal(0, 0.02, base.shape) for metric in METRICS}
        for fraction in (5.0, 100.0)
        for arm, shift in shifts.items()
    }


def test_compare__finds_planted_differences() -> None:
    found = compare(scores_of(NoAug=0.0, ClassicAug=0.1, AllAug=0.2, SyntheticOnly=-0.1, Mask2LesionAug=0.1))
    of_dice = {(one.arm, one.baseline): one for one in found if one.metric == "dice" and one.fraction == 5}
    verdicts = {key: one.verdict for key, one in of_dice.items()}
    assert verdicts == {
        ("AllAug", "ClassicAug"): "better",
        ("SyntheticOnly", "ClassicAug"): "worse",
        ("Mask2LesionAug", "ClassicAug"): "no difference shown",
        ("ClassicAug", "NoAug"): "better",
        ("AllAug", "NoAug"): "better",
        ("SyntheticOnly", "NoAug"): "worse",
        ("Mask2LesionAug", "NoAug"): "better",
    }
    assert of_dice["AllAug", "ClassicAug"].difference.value == pytest.approx(0.1, abs=0.01)
    boundary = {(one.arm, one.baseline): one.verdict for one in found if one.metric == "boundary_px"}
    assert boundary["AllAug", "ClassicAug"] == "worse"  # farther is worse
    assert boundary["SyntheticOnly", "NoAug"] == "better"


def test_compare__corrects_for_all_comparisons_of_a_metric() -> None:
    found = compare(scores_of(NoAug=0.0, ClassicAug=0.0, AllAug=0.001))
    for metric in METRICS:
        rows = [one for one in found if one.metric == metric]
        assert len(rows) == 6  # three at each of two fractions
        assert [one.p_holm for one in rows] == holm([one.p for one in rows])
        smallest = min(rows, key=lambda one: one.p)
        assert smallest.p_holm == min(1.0, 6 * smallest.p)


def test_compare__averages_over_seeds_before_the_test() -> None:
    scores = scores_of(ClassicAug=0.0, AllAug=0.01)
    one = next(one for one in compare(scores) if one.metric == "dice" and one.fraction == 100)
    difference = (scores["AllAug", 100.0]["dice"] - scores["ClassicAug", 100.0]["dice"]).mean(0)
    assert one.p == pytest.approx(scipy.stats.wilcoxon(difference).pvalue)
    assert one.difference.value == pytest.approx(difference.mean())


def test_summarize__gives_means_and_the_spread_of_seeds() -> None:
    scores = scores_of(NoAug=0.0)
    one = next(one for one in summarize(scores) if one.metric == "jaccard" and one.fraction == 5)
    values = scores["NoAug", 5.0]["jaccard"]
    assert one.mean.value == pytest.approx(values.mean())
    assert one.seed_deviation == pytest.approx(np.std([row.mean() for row in values], ddof=1))
    alone = {key: {m: v[:1] for m, v in metrics.items()} for key, metrics in scores.items()}
    assert all(one.seed_deviation is None for one in summarize(alone))
