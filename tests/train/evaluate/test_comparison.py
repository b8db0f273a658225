"""Two bundles on the same masks: differences, their intervals against the definition, verdicts, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from command_line import CommandLine
from evaluation_data import write_data
from steered_bundle import steered_bundle

from m2l_runtime import Synthesizer
from m2l_runtime.conditioning.conditions import Condition, Conditions, item_seed
from m2l_runtime.errors import ArgumentError, InputError
from m2l_runtime.types import KNOWN_NAMES, NAMES
from m2l_train.evaluate import EvaluationOptions, compare_bundles, evaluate_bundle
from m2l_train.evaluate.comparison import compare_metric, share_appearances
from m2l_train.evaluate.context import Estimates
from m2l_train.evaluate.metrics import bootstrap, precision_recall
from m2l_train.evaluate.metrics.bootstrap import Estimate
from m2l_train.evaluate.result import Better, make_metric

FAKE: dict[str, Any] = {"backend": "fake", "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("compare") / "data", 12, 30)


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steered_bundle(tmp_path_factory.mktemp("compare") / "steered", side=64).path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its generator takes no appearance."""
    return steered_bundle(tmp_path_factory.mktemp("compare") / "plain", ("dropout_bits",), side=64).path


def draws(values: npt.NDArray[np.float64], count: int = 1000) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(7)
    means: npt.NDArray[np.float64] = values[rng.integers(0, len(values), (count, len(values)))].mean(1)
    return means


def metric(better: Better, a: float, b: float, spread: float, real: float | None = None) -> Any:
    """Compare estimates whose resamples are normal, each on its own."""
    rng = np.random.default_rng(0)
    resampled = [rng.normal(value, spread, 1000) for value in (a, b, real or 0.0)]
    one, other, third = (bootstrap.estimate(v, r, 30) for v, r in zip((a, b, real or 0.0), resampled, strict=True))
    yardstick = None if real is None else third
    a_metric, b_metric = (make_metric(found, yardstick, "", better) for found in (one, other))
    return compare_metric(a_metric, b_metric, Estimates(one, yardstick), Estimates(other, yardstick))


def test_combine__is_the_percentile_interval_of_paired_resamples() -> None:
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 10, 60)
    a, b = hard + rng.normal(0, 1, 60), hard + rng.normal(1, 1, 60)
    weights = bootstrap.multiplicities(bootstrap.resample_indices(60, 0))
    found = bootstrap.combine(lambda x, y: y - x, bootstrap.of_mean(a, weights), bootstrap.of_mean(b, weights))
    low, high = np.quantile(draws(b - a), [0.025, 0.975])
    assert found.value == pytest.approx((b - a).mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05)
    apart = np.quantile(draws(b), 0.975) - np.quantile(draws(a), 0.025)
    assert found.high is not None
    assert found.high - found.value < apart / 5


def test_combine__of_images_left_out_is_the_jackknife() -> None:
    rng = np.random.default_rng(4)
    base, one, other = (rng.normal(shift, 1, (count, 3)) for shift, count in ((0, 40), (0.5, 20), (1.0, 20)))
    found = bootstrap.combine(
        lambda x, y: y - x, precision_recall.recall(one, base), precision_recall.recall(other, base)
    )

    def difference(rows: npt.NDArray[Any], kept: npt.NDArray[Any]) -> float:
        shares = [precision_recall.recall(images[kept], base[rows]).value for images in (one, other)]
        return shares[1] - shares[0]

    variance = 0.0
    for count, without in (
        (40, [difference(np.delete(np.arange(40), i), np.arange(20)) for i in range(40)]),
        (20, [difference(np.arange(40), np.delete(np.arange(20), i)) for i in range(20)]),
    ):
        variance += (count - 1) / count * float(np.square(np.array(without) - np.mean(without)).sum())
    assert found.value == pytest.approx(difference(np.arange(40), np.arange(20)))
    assert found.high == pytest.approx(found.value + 1.959964 * variance**0.5)


def test_combine__without_resamples_there_is_no_interval() -> None:
    known = bootstrap.of_mean(np.arange(20.0), bootstrap.multiplicities(bootstrap.resample_indices(20, 0)))
    assert bootstrap.combine(lambda x, y: y - x, known, Estimate(1.0)) == Estimate(-8.5)
    assert bootstrap.combine(lambda x, y: y - x, Estimate(2.0), Estimate(1.0)).low is None


@pytest.mark.parametrize(
    ("better", "a", "b", "real", "verdict"),
    [
        ("lower", 3.0, 2.0, None, "better"),
        ("lower", 2.0, 3.0, None, "worse"),
        ("lower", 2.0, 2.1, None, "not told apart"),
        ("higher", 2.0, 3.0, None, "better"),
        ("near 1", 3.0, 1.2, None, "better"),
        ("near 1", 0.9, 3.0, None, "worse"),
        ("near 1", 0.0, 2.0, None, "not told apart"),  # as far on either side
        ("near real", 9.0, 6.0, 5.0, "better"),
        ("near real", 2.0, 9.0, 5.0, "worse"),
        ("near real", 2.0, 8.0, 5.0, "not told apart"),
    ],
)
def test_compare_metric__verdicts(better: Better, a: float, b: float, real: float | None, verdict: str) -> None:
    found = metric(better, a, b, 0.1, real)
    assert found.verdict == verdict
    assert found.difference.value == pytest.approx(b - a)
    assert (found.improvement.value > 0.2, found.improvement.value < -0.2) == (verdict == "better", verdict == "worse")
    assert metric(better, a, b, 40.0, real).verdict == "not told apart"


def test_compare_metric__without_a_yardstick_or_a_value_there_is_no_verdict() -> None:
    nothing = metric("near real", 1.0, 2.0, 0.1)
    assert (nothing.verdict, nothing.improvement, "no figure of real images" in nothing.reason) == (None, None, True)
    skipped = make_metric(None, None, "", "lower", reason="no segmenter given")
    found = compare_metric(skipped, skipped, Estimates(None, None), Estimates(None, None))
    assert (found.a, found.verdict, found.reason) == (None, None, "no segmenter given")


@pytest.mark.slow
def test_compare_bundles__is_the_difference_of_two_evaluations(many: Path, steered: Path, plain: Path) -> None:
    options = EvaluationOptions(workers=1, seed=3)
    found = compare_bundles(many, plain, steered, options, appearances="own", **FAKE)
    one, other = (evaluate_bundle(many, bundle, options, **FAKE) for bundle in (plain, steered))
    assert found is not None
    assert one is not None
    assert other is not None
    for name, figure in found.figures.items():
        a, b = one.figures[name], other.figures[name]
        if a.value is None or b.value is None:
            assert figure.a is None, name
            continue
        assert figure.a is not None, name
        assert figure.b is not None, name
        assert figure.difference is not None, name
        assert (figure.a.value, figure.b.value) == pytest.approx((a.value, b.value)), name
        assert figure.difference.value == pytest.approx(b.value - a.value), name
        assert (figure.verdict is None) == (figure.improvement is None or figure.improvement.low is None), name
        assert (figure.verdict is None) == (figure.reason is not None), name
    prints = [side.provenance.synthesized_fingerprint for side in (found.a, found.b)]
    assert prints == [side.provenance.synthesized_fingerprint for side in (one, other)]
    assert any("fake backend" in warning for warning in found.warnings)


@pytest.mark.slow
def test_compare_bundles__a_bundle_with_itself_is_not_told_apart(many: Path, steered: Path) -> None:
    found = compare_bundles(many, steered, steered, EvaluationOptions(workers=1), **FAKE)
    assert found is not None
    assert {figure.verdict for figure in found.figures.values()} == {"not told apart", None}
    assert "A and B are the same bundle" in found.warnings
    assert found.appearances == "shared"
    assert found.a.provenance.synthesized_fingerprint == found.b.provenance.synthesized_fingerprint


def test_share_appearances__numbers_of_the_same_name_are_the_same(steered: Path, tmp_path: Path) -> None:
    """The tables hold other rows, as their columns have other names."""
    more = (*NAMES[::-1], *KNOWN_NAMES[12:15])
    items = ["x", "y", "z"]
    wide_bundle = steered_bundle(tmp_path / "wide", side=64, names=more)
    with Synthesizer.open(steered, **FAKE) as narrow, Synthesizer.open(wide_bundle, **FAKE) as wide:
        theirs = [Conditions(narrow.extra, 1).for_item(item) for item in items]
        drawn = [Conditions(wide.extra, 1).for_item(item) for item in items]
        found = share_appearances(theirs, drawn, wide.extra)
        back = share_appearances(drawn, theirs, narrow.extra)
    for item, one, other in zip(items, found, theirs, strict=True):
        assert one is not None
        assert one.seed == item_seed(1, item)
        assert numbers(one) | numbers(other) == numbers(one)
        assert set(numbers(one)) == set(more)
    for one, given in zip(back, drawn, strict=True):
        assert numbers(one) == {name: number for name, number in numbers(given).items() if name in NAMES}


def numbers(condition: Condition | None) -> dict[str, float]:
    assert condition is not None
    assert condition.appearance is not None
    return dict(zip(condition.names, map(float, condition.appearance), strict=True))


def test_compare_bundles__refuses(many: Path, steered: Path, tmp_path: Path) -> None:
    small = steered_bundle(tmp_path / "small", side=32).path
    with pytest.raises(InputError, match="A makes images of 64 pixels and B of 32"):
        compare_bundles(many, steered, small, EvaluationOptions(workers=1), **FAKE)
    with pytest.raises(ArgumentError, match="appearances must be"):
        compare_bundles(many, steered, steered, appearances="both", **FAKE)  # type: ignore[arg-type]
    assert compare_bundles(many, steered, steered, EvaluationOptions(should_stop=lambda: True), **FAKE) is None


def test_compare__at_the_command_line(m2l: CommandLine, data: Path, steered: Path, plain: Path, tmp_path: Path) -> None:
    line = ("evaluate", "compare", plain, steered, "--data", data, "--backend", "fake", "--workers", 1)
    done = m2l(*line, "--out", tmp_path / "c.json")
    assert done.code == 0, done
    assert "A: bundle" in done.out
    assert "8 masks at 64x64, seed 0" in done.out
    document = json.loads((tmp_path / "c.json").read_text())
    assert (document["schema"], document["schema_version"]) == ("m2l-comparison", 1)
    verdicts = [figure["verdict"] for figure in document["figures"].values()]
    better = verdicts.count("better")
    assert f"B is better in {better}, worse in {verdicts.count('worse')}" in done.out
    for arguments, words in (
        ((*line[:3], tmp_path / "none", *line[4:]), "none"),
        ((*line[:5], tmp_path / "none", *line[6:]), "does not exist"),
        ((*line, "--out", tmp_path / "c.json"), "exists already"),
    ):
        refused = m2l(*arguments)
        assert (refused.code, words in refused.err, refused.out) == (1, True, ""), refused
