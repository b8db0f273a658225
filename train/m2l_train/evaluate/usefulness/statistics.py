"""Compare arms image by image: means, intervals over images and seeds, paired tests and their correction.

Scores of an arm at a fraction are (seeds, images): every segmenter is tested on the same images. Intervals: percentile
bootstrap that draws seeds and images anew, each with replacement, the same images for all seeds and the same resamples
for all arms (the two-way bootstrap of Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2); it does
not undercover). Tests: Wilcoxon's signed-rank test, two-sided, of each image's difference averaged over seeds. Their
p-values are corrected with the step-down of Holm (1979, Scandinavian Journal of Statistics 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import wilcoxon

from m2l_train.evaluate.metrics.bootstrap import estimate, multiplicities, resample_indices
from m2l_train.evaluate.usefulness.arms import comparisons
from m2l_train.evaluate.usefulness.result import LEVEL, METRICS, ArmScore, Better, Comparison, Interval

Scores = npt.NDArray[np.float64]
"""(seeds, images)."""

Verdict = Literal["better", "worse", "no difference shown"]


def mean_interval(scores: Scores, seed: int = 0) -> Interval:
    """Estimate the mean of scores (seeds, images), with a 95 % interval over both.

    Example:
        >>> mean_interval(np.full((3, 8), 0.5))
        Interval(value=0.5, low=0.5, high=0.5)

    Args:
        scores: one value for each seed and image.
        seed: of the resamples.
    """
    seeds, images = scores.shape
    seed_weights = multiplicities(resample_indices(seeds, seed, "usefulness", "seeds")) / seeds
    image_weights = multiplicities(resample_indices(images, seed, "usefulness", "images")) / images
    resampled = np.einsum("rs,si,ri->r", seed_weights, scores, image_weights, optimize=True)
    found = estimate(float(scores.mean()), resampled, images)
    return Interval(value=found.value, low=found.low, high=found.high)


def signed_rank_p(differences: npt.NDArray[np.float64]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; 1 where all differences are 0.

    Example:
        >>> signed_rank_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
        0.03125
    """
    rounded = np.round(differences, 12)  # sums over seeds in another order are no difference
    if not rounded.any():
        return 1.0
    return float(wilcoxon(rounded).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def summarize(scores: Mapping[tuple[str, float], Mapping[str, Scores]]) -> list[ArmScore]:
    """Summarize the scores of each (arm, fraction) by metric."""
    return [
        ArmScore(
            arm=arm,
            fraction=fraction,
            metric=metric,
            mean=mean_interval(by_metric[metric]),
            seed_deviation=float(by_metric[metric].mean(1).std(ddof=1)) if len(by_metric[metric]) > 1 else None,
        )
        for (arm, fraction), by_metric in scores.items()
        for metric in METRICS
    ]


def compare(scores: Mapping[tuple[str, float], Mapping[str, Scores]]) -> list[Comparison]:
    """Compare each arm with the baselines at each fraction, metric by metric, corrected within each metric."""
    arms = tuple(dict.fromkeys(arm for arm, _ in scores))
    fractions = list(dict.fromkeys(fraction for _, fraction in scores))
    found: list[Comparison] = []
    for metric, (_, _, better) in METRICS.items():
        rows = []
        for fraction in fractions:
            for arm, baseline in comparisons(arms):
                difference = scores[arm, fraction][metric] - scores[baseline, fraction][metric]
                rows.append((arm, baseline, fraction, mean_interval(difference), signed_rank_p(difference.mean(0))))
        corrected = holm([row[4] for row in rows])
        found += [
            Comparison(
                arm=arm,
                baseline=baseline,
                fraction=fraction,
                metric=metric,
                difference=interval,
                p=p,
                p_holm=p_holm,
                verdict=_verdict(interval, p_holm, better),
            )
            for (arm, baseline, fraction, interval, p), p_holm in zip(rows, corrected, strict=True)
        ]
    return found


def _verdict(difference: Interval, p_holm: float, better: Better) -> Verdict:
    if p_holm >= LEVEL or difference.low is None or difference.high is None:
        return "no difference shown"
    low, high = (difference.low, difference.high) if better == "higher" else (-difference.high, -difference.low)
    return "better" if low > 0 else "worse" if high < 0 else "no difference shown"
