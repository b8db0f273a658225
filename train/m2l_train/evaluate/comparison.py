"""Compare two bundles on the same masks, appearances and seeds: a paired interval and a verdict for each metric.

Both are measured with the same resamples of images, so what an easy or a hard mask does to both of them falls out of
the differences. Where a metric is best near that of real images, what counts is how much nearer the second bundle is.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from m2l_runtime import Synthesizer
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.sides import plain_sides
from m2l_runtime._utils.text import printable
from m2l_runtime.backends.engines import is_fake
from m2l_runtime.conditioning.conditions import (
    AppearanceChoice,
    Condition,
    Conditions,
    ExtraInputs,
    value_range,
)
from m2l_runtime.errors import ArgumentError, InputError
from m2l_train.evaluate.context import Estimates, EvaluationInputs, MetricsResult
from m2l_train.evaluate.evaluation import (
    MetricNetworks,
    expected_work,
    measure_images,
    open_networks,
    prepare_inputs,
    reservations,
    watch_for,
)
from m2l_train.evaluate.inputs import EvaluationData, synthesize_under, synthesize_with_bundle
from m2l_train.evaluate.metrics.bootstrap import Estimate, combine
from m2l_train.evaluate.options import EvaluationOptions, EvaluationStopped
from m2l_train.evaluate.provenance import count_images, parameters_of, provenance_of
from m2l_train.evaluate.result import (
    Better,
    ComparedBundle,
    ComparedMetric,
    Comparison,
    Counts,
    Interval,
    Metric,
    Verdict,
    make_interval,
)

EMBEDDED: Final = "embedded"
"""Names the model inside the package where a bundle is expected."""
NO_REAL: Final = "there is no figure of real images to be near to"

Appearances = Literal["shared", "own"]


@check_types()
def compare_bundles(
    data: str | os.PathLike[str],
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    options: EvaluationOptions | None = None,
    *,
    appearances: Appearances = "shared",
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> Comparison | None:
    """Compare bundle B with bundle A on the same masks, appearances and seeds. Nothing is written to disk.

    Example:
        >>> comparison = compare_bundles("data", "embedded", "my-bundle")  # doctest: +SKIP
        >>> comparison.figures["dice"].verdict  # doctest: +SKIP
        'not told apart'

    Args:
        data: a data folder with or without splits; it must have masks.
        a: folder of a bundle, or "embedded", the model inside the package.
        b: likewise; what is better or worse is this one.
        options: split, networks, seed and callbacks; None: the defaults. A sheet is not drawn.
        appearances: "shared": both get the appearances that are drawn for A, as far as B has the same numbers, and B's
            other numbers are those of a training image near to them. "own": each draws from its own table.
        backend: as :meth:`m2l_runtime.Synthesizer.open` takes it.
        device: likewise.
        threads: likewise.

    Returns:
        The metrics of both, their differences and verdicts; None if it was stopped.

    Raises:
        InputError: the data or a file of weights is not what it should be, there are too few pairs, or the bundles make
            images of different sizes.
        BundleError: a bundle cannot be used.
        EngineError: no engine runs one of them here.
    """
    chosen = options if options is not None else EvaluationOptions()
    if appearances not in ("shared", "own"):
        raise ArgumentError(f"appearances must be shared or own, got '{printable(str(appearances))}'")
    started = time.monotonic()
    networks = open_networks(chosen)

    def opened(bundle: str | os.PathLike[str]) -> Synthesizer:
        folder = None if os.fspath(bundle) == EMBEDDED else bundle
        return Synthesizer.open(folder, backend=backend, device=device, threads=threads, streams=None)

    try:
        with opened(a) as one, opened(b) as other:
            if one.image_size != other.image_size:
                side, other_side = plain_sides(one.image_size), plain_sides(other.image_size)
                raise InputError(
                    f"A makes images of {side} pixels and B of {other_side}; expected one size: evaluate each with "
                    "m2l evaluate bundle, and set the results side by side with m2l evaluate report"
                )
            first = synthesize_with_bundle(Path(data), one, chosen)
            second = synthesize_second(first, one, other, appearances, chosen)
        return _compare(first, second, appearances, networks, chosen, started)
    except EvaluationStopped:
        return None


def synthesize_second(
    first: EvaluationData, one: Synthesizer, other: Synthesizer, appearances: Appearances, options: EvaluationOptions
) -> EvaluationData:
    """Synthesize B's images from the masks of A's, under the same seeds.

    Raises:
        EvaluationStopped: the options say to stop.
    """
    conditions = Conditions(other.extra, options.seed)
    drawn = [conditions.for_item(name) for name in first.names]
    if appearances == "shared" and first.conditions is not None:
        drawn = share_appearances([first.conditions.for_item(name) for name in first.names], drawn, other.extra)
    settings = other.settings
    return dataclasses.replace(
        first,
        generated=synthesize_under(other, first.real.masks, drawn, options),
        synthesized=f"bundle {other.bundle.manifest.name}",
        engine=f"{settings.engine}, {settings.device}, {settings.precision}",
        bundles={other.bundle.sha256: len(first.names)},
        fake=len(first.names) if is_fake(settings.backend) else 0,
        conditions=conditions,
    )


def share_appearances(
    theirs: Sequence[Condition | None], drawn: Sequence[Condition | None], extra: ExtraInputs
) -> list[Condition | None]:
    """Replace the numbers of appearances by those of another bundle that have the same names.

    Example:
        >>> share_appearances([None], [None], extra)  # doctest: +SKIP
        [None]

    Args:
        theirs: the other bundle's conditions of the same items.
        drawn: the conditions to change.
        extra: what the generator takes; numbers that only it has are a training image's, near in the others.
    """
    changed = []
    for condition, source in zip(drawn, theirs, strict=True):
        if condition is None or condition.appearance is None or source is None or source.appearance is None:
            changed.append(condition)
            continue
        given = dict(zip(source.names, map(float, source.appearance), strict=True))
        common = [name for name in extra.names if name in given]
        if not common or extra.table is None:
            changed.append(condition)
            continue
        choice = AppearanceChoice(tuple((name, float(np.clip(given[name], *value_range(name)))) for name in common))
        row = extra.sampler_for(choice).sample(condition.seed)
        changed.append(dataclasses.replace(condition, appearance=row))
    return changed


def _compare(
    first: EvaluationData,
    second: EvaluationData,
    appearances: Appearances,
    networks: MetricNetworks,
    options: EvaluationOptions,
    started: float,
) -> Comparison:
    watch = watch_for(options)
    work = 2 * (expected_work(first, networks) + (0 if first.encoding is None else len(first.generated)))
    options.on_start(len(first.files.reference) + work)
    inputs, problems = prepare_inputs(first, options, watch)
    both = (inputs, dataclasses.replace(inputs, generated=second.generated))
    shared: dict[str, Any] = {}
    results, counts = [], []
    for images, source in zip(both, (first, second), strict=True):
        result = measure_images(_encoded(images, source, options, watch), options, networks, watch, shared)
        results.append(result)
        counts.append(count_images(source, images, result))
    warnings = [*first.warnings, *dict.fromkeys([*reservations(first), *reservations(second)])]
    warnings += [f"left out {problem}" for problem in problems]
    if first.bundles == second.bundles:
        warnings.append("A and B are the same bundle")
    return Comparison(
        image_size=plain_sides((first.generated.shape[1], first.generated.shape[2])),
        compared_with="training images" if inputs.training is not None else "evaluated real images",
        appearances=appearances if first.conditions is not None and first.conditions.label is not None else None,
        a=_side(first, both[0], counts[0], options, networks),
        b=_side(second, both[1], counts[1], options, networks),
        figures=_figures(*results),
        parameters=parameters_of(networks.segmenter),
        warnings=warnings,
        seconds=round(time.monotonic() - started, 1),
    )


def _encoded(
    inputs: EvaluationInputs, source: EvaluationData, options: EvaluationOptions, watch: Callable[[int], None]
) -> EvaluationInputs:
    if source.encoding is None:
        return inputs
    encoded = source.encoding.encode_all(inputs.generated, options.worker_count, watch)
    return dataclasses.replace(inputs, generated=encoded)


def _side(
    source: EvaluationData,
    inputs: EvaluationInputs,
    counts: Counts,
    options: EvaluationOptions,
    networks: MetricNetworks,
) -> ComparedBundle:
    provenance = provenance_of(source, inputs, options, networks.segmenter, networks.inception, networks.imagenet)
    return ComparedBundle(provenance=provenance, counts=counts)


def _figures(one: MetricsResult, other: MetricsResult) -> dict[str, ComparedMetric]:
    return {
        name: compare_metric(one.figures[name], other.figures[name], one.estimates[name], other.estimates[name])
        for name in one.figures
        if name in other.figures
    }


def compare_metric(one: Metric, other: Metric, ours: Estimates, theirs: Estimates) -> ComparedMetric:
    """Compare a metric of two bundles: B less A, how much better B is, and whether that is more than chance.

    Example:
        >>> from m2l_train.evaluate.result import make_metric
        >>> estimates = [Estimates(Estimate(value), None) for value in (3.0, 2.0)]
        >>> one, other = (make_metric(found.generated, None, "", "lower") for found in estimates)
        >>> found = compare_metric(one, other, *estimates)
        >>> found.difference.value, found.improvement.value, found.verdict
        (-1.0, 1.0, None)

    Args:
        one: of A.
        other: of B.
        ours: what A's was made of.
        theirs: what B's was made of, with the same resamples.
    """
    a, b = ours.generated, theirs.generated
    if a is None or b is None or one.value is None or other.value is None:
        return ComparedMetric(unit=one.unit, better=one.better, reason=one.reason or other.reason)
    gain = _improvement(one.better, a, b, ours.real)
    reason = None
    if gain is None:
        reason = NO_REAL
    elif gain.low is None:
        reason = one.no_interval or other.no_interval or "it has no interval"
    return ComparedMetric(
        a=Interval(value=one.value, low=one.low, high=one.high),
        b=Interval(value=other.value, low=other.low, high=other.high),
        real=one.real,
        difference=make_interval(combine(lambda x, y: y - x, a, b)),
        improvement=make_interval(gain),
        verdict=None if gain is None else _verdict(gain),
        unit=one.unit,
        better=one.better,
        reason=reason,
    )


def _improvement(better: Better, a: Estimate, b: Estimate, real: Estimate | None) -> Estimate | None:
    """How much better B is, in the metric's own unit; None where there is nothing to be near to."""
    if better == "lower":
        return combine(lambda x, y: x - y, a, b)
    if better == "higher":
        return combine(lambda x, y: y - x, a, b)
    if better == "near 1":
        return combine(lambda x, y: np.abs(x - 1) - np.abs(y - 1), a, b)
    if real is None:
        return None
    return combine(lambda x, y, z: np.abs(x - z) - np.abs(y - z), a, b, real)


def _verdict(gain: Estimate) -> Verdict | None:
    if gain.low is None or gain.high is None:
        return None
    return "better" if gain.low > 0 else "worse" if gain.high < 0 else "not told apart"
