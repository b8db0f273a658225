"""Register the metrics of an evaluation: an entry per metric, and a function per group that is computed together.

A new metric is a module in :mod:`m2l_train.evaluate.metrics` that computes it, and here a `MetricSpec` and a
`MetricGroup`, or a line in the function of a group that has what it needs. The table, the JSON document and the
progress bar follow from these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from m2l_runtime.types import Images
from m2l_train.evaluate import sets
from m2l_train.evaluate.context import ImageCounts, MetricContext, MetricGroup, MetricSpec, MetricsResult
from m2l_train.evaluate.metrics import (
    bootstrap,
    checkerboard,
    color,
    diversity,
    kid,
    mask_fidelity,
    nearest_neighbors,
    paired,
    sliced_wasserstein,
)
from m2l_train.evaluate.metrics.bootstrap import Estimate
from m2l_train.evaluate.result import Neighbor
from m2l_train.evaluate.segmenter import Features, Probabilities

MAX_FOR_DIVERSITY: Final = 500
"""Images of each set; the differences of more would take minutes."""
CLOSEST: Final = 5

NO_SEGMENTER: Final = "no segmenter given; m2l evaluate segmenter DATA OUT makes one"
NO_INCEPTION: Final = "no Inception file given"
NO_PAIRS: Final = "the real images have no masks, so nothing belongs together"
NO_TRAINING: Final = "there is no other training split to look for neighbours in"
NO_SAMPLES: Final = "one image a mask"
NO_STRIDE: Final = "images of this size have no room for it"
BIASED_RESAMPLES: Final = "resampled sets, with images twice, lie further apart than sets of different images"
NOT_RESAMPLED: Final = "its bias depends on how many images there are, and resamples have fewer different ones"
COUNT_REASON: Final = "a count"

_PAIRED: Final = (
    MetricSpec(
        name="l1",
        title="difference from the real image",
        definition="Mean absolute difference from the real image of the same mask.",
        unit="levels",
        better="lower",
    ),
    MetricSpec(
        name="psnr",
        title="PSNR",
        definition="Peak signal-to-noise ratio to the real image of the same mask.",
        unit="dB",
        better="higher",
    ),
    MetricSpec(
        name="ssim",
        title="SSIM",
        definition="Structural similarity to the real image of the same mask.",
        unit="",
        better="higher",
    ),
)

_WASSERSTEIN: Final = (
    MetricSpec(
        name="swd",
        title="sliced Wasserstein, mean",
        definition="Sliced Wasserstein distance of Laplacian pyramids, mean over their levels.",
        unit="1e-3",
        better="near real",
    ),
)

_SEGMENTED: Final = (
    MetricSpec(
        name="kid",
        title="KID, segmenter",
        definition="Kernel inception distance on features of the segmenter.",
        unit="",
        better="near real",
    ),
    MetricSpec(
        name="dice",
        title="Dice of mask and lesion found",
        definition="Dice coefficient of the mask and the lesion that the segmenter finds.",
        unit="",
        better="near real",
    ),
    MetricSpec(
        name="boundary",
        title="boundary distance",
        definition="Average symmetric surface distance of the mask and the lesion found.",
        unit="px of 256",
        better="near real",
    ),
)

_INCEPTION: Final = (
    MetricSpec(
        name="fid_inception",
        title="FID, Inception",
        definition="Frechet distance of Inception features.",
        unit="",
        better="near real",
    ),
    MetricSpec(
        name="kid_inception",
        title="KID, Inception",
        definition="Kernel inception distance on Inception features.",
        unit="",
        better="near real",
    ),
)

_COLOR: Final = (
    MetricSpec(
        name="colour_pair_lesion",
        title="lesion color, from its own",
        definition="Difference between the mean lesion color and that of the real image of the same mask.",
        unit="Delta E",
        better="lower",
    ),
    MetricSpec(
        name="colour_pair_skin",
        title="skin color, from its own",
        definition="Difference between the mean skin color and that of the real image of the same mask.",
        unit="Delta E",
        better="lower",
    ),
    MetricSpec(
        name="colour_set_lesion",
        title="lesion color, of sets",
        definition="Difference between the mean lesion colors of two sets.",
        unit="Delta E",
        better="near real",
    ),
    MetricSpec(
        name="colour_set_skin",
        title="skin color, of sets",
        definition="Difference between the mean skin colors of two sets.",
        unit="Delta E",
        better="near real",
    ),
    MetricSpec(
        name="colour_spread_lesion",
        title="spread of lesion colors",
        definition="Spread of a set's lesion colors over that of another set.",
        unit="ratio",
        better="near real",
    ),
    MetricSpec(
        name="colour_spread_skin",
        title="spread of skin colors",
        definition="Spread of a set's skin colors over that of another set.",
        unit="ratio",
        better="near real",
    ),
)

_CHECKERBOARD: Final = (
    MetricSpec(
        name="checkerboard",
        title="checkerboard, all strides",
        definition="Power at the frequencies of a network's strides over that beside them.",
        unit="ratio",
        better="near real",
    ),
)

_NEIGHBOR: Final = (
    MetricSpec(
        name="neighbour_median",
        title="nearest training image, median",
        definition="Median distance to the nearest training image.",
        unit="levels",
        better="near real",
    ),
    MetricSpec(
        name="neighbour_p5",
        title="nearest training image, 5 %",
        definition="5 % quantile of the distance to the nearest training image.",
        unit="levels",
        better="near real",
    ),
    MetricSpec(
        name="neighbour_ratio",
        title="synthesized/real of the median",
        definition="Median distance of synthesized images over that of real ones.",
        unit="ratio",
        better="near 1",
    ),
    MetricSpec(
        name="near_duplicates",
        title="near duplicates of training",
        definition="Images that are near duplicates of a training image.",
        unit="images",
        better="near real",
    ),
)

_DIVERSITY: Final = (
    MetricSpec(
        name="variety",
        title="variety",
        definition="Mean difference between two images of a set.",
        unit="levels",
        better="near real",
    ),
    MetricSpec(
        name="variety_ratio",
        title="synthesized/real variety",
        definition="Variety of the synthesized images over that of the real ones.",
        unit="ratio",
        better="near 1",
    ),
    MetricSpec(
        name="variety_of_samples",
        title="variety of one mask's samples",
        definition="Mean difference between two images of one mask.",
        unit="levels",
        better="higher",
    ),
)


def _wasserstein_at(side: int) -> MetricSpec:
    return MetricSpec(
        name=f"swd_{side}",
        title=f"  at {side} pixels",
        definition=f"Sliced Wasserstein distance of the pyramids' level of {side} pixels.",
        unit="1e-3",
        better="near real",
    )


def _checkerboard_of(stride: int) -> MetricSpec:
    return MetricSpec(
        name=f"checkerboard_{stride}",
        title=f"  stride {stride}",
        definition=f"Power at the frequencies of stride {stride} over that beside them.",
        unit="ratio",
        better="near real",
    )


def _measure_pairs(context: MetricContext) -> None:
    l1, psnr, ssim = _PAIRED
    if not context.inputs.is_paired:
        context.skip(NO_PAIRS, _PAIRED)
        return
    comparison = paired.compare(
        context.inputs.generated, context.inputs.real.images, workers=context.workers, on_image=context.watch
    )
    is_equal = np.isinf(comparison.psnr_db)
    context.add(l1, bootstrap.of_mean(comparison.l1_levels, context.weights))
    reason = "every image equals its real one" if is_equal.all() else None
    context.add(psnr, bootstrap.of_mean(comparison.psnr_db, context.weights), reason=reason)
    context.add(ssim, bootstrap.of_mean(comparison.ssim, context.weights))
    context.result.equal_pairs = int(is_equal.sum())


def _measure_textures(context: MetricContext) -> None:
    inputs, seed = context.inputs, context.seed
    columns = [inputs.generated, inputs.base.images]
    if inputs.training is not None:
        columns.append(inputs.real.images)
    count = min(len(images) for images in columns)
    chosen = [
        images[sets.sample(len(images), count, seed, "wasserstein", place)] for place, images in enumerate(columns)
    ]
    patches = [
        sliced_wasserstein.describe(images, seed, workers=context.workers, on_image=context.watch) for images in chosen
    ]
    rows: list[list[Estimate]] = []
    for level in range(len(patches[0])):
        cut = [levels[level] for levels in patches]
        rows.append([Estimate(value) for value in sliced_wasserstein.distances([cut[0], *cut[2:]], cut[1], seed)])
        context.watch(0)
    rows.insert(0, [Estimate(float(np.mean([row[i].value for row in rows]))) for i in range(len(rows[0]))])
    specs = [*_WASSERSTEIN, *map(_wasserstein_at, sliced_wasserstein.pyramid_sides(inputs.generated.shape[1]))]
    for spec, (generated, *real) in zip(specs, rows, strict=True):
        context.add(spec, generated, real[0] if real else None, no_interval=BIASED_RESAMPLES)
    context.result.wasserstein_per_set = count


def _measure_lesions(context: MetricContext) -> None:
    inputs, segmenter = context.inputs, context.segmenter
    kid_spec, dice, boundary = _SEGMENTED
    if segmenter is None:
        context.skip(NO_SEGMENTER, _SEGMENTED)
        return

    def run(images: Images) -> tuple[Probabilities, Features]:
        return segmenter(images, workers=context.workers, on_image=context.watch)

    lesions, features = run(inputs.generated)
    real_lesions, real_features = run(inputs.real.images)
    base = None if inputs.training is None else run(inputs.base.images)[1]
    others = real_features if base is None else base
    features, real_features = (kid.standardized(rows, others) for rows in (features, real_features))
    _add_kid(context, kid_spec, features, real_features, None if base is None else kid.standardized(base, others))
    if not inputs.is_paired:
        context.skip(NO_PAIRS, (dice, boundary))
        return
    ours, theirs = (
        mask_fidelity.compare(inputs.real.masks, found, workers=context.workers, on_image=context.watch)
        for found in (lesions, real_lesions)
    )
    for spec, one, other in ((dice, ours.dice, theirs.dice), (boundary, ours.boundary_px, theirs.boundary_px)):
        context.add(spec, *(bootstrap.of_mean(values, context.weights) for values in (one, other)))
    context.result.one_empty, context.result.real_one_empty = ours.one_empty, theirs.one_empty


def _add_kid(
    context: MetricContext, spec: MetricSpec, generated: Features, real: Features, training: Features | None
) -> None:
    base = real if training is None else training
    ours = kid.distance(generated, base, context.weights, context.base_weights)
    theirs = None if training is None else kid.distance(real, base, context.real_weights, context.base_weights)
    context.add(spec, ours, theirs)


def _measure_inception(context: MetricContext) -> None:
    fid, kid_spec = _INCEPTION
    inputs, inception = context.inputs, context.inception
    if inception is None:
        context.skip(NO_INCEPTION, _INCEPTION)
        return
    from m2l_train.evaluate.metrics.inception import frechet_distance

    generated, real = (
        inception(images, workers=context.workers, on_image=context.watch)
        for images in (inputs.generated, inputs.real.images)
    )
    training = None
    if inputs.training is not None:
        training = inception(inputs.base.images, workers=context.workers, on_image=context.watch)
    base = real if training is None else training
    context.add(
        fid,
        Estimate(frechet_distance(generated, base)),
        None if training is None else Estimate(frechet_distance(real, base)),
        no_interval=NOT_RESAMPLED,
    )
    _add_kid(context, kid_spec, generated, real, training)


def _measure_colors(context: MetricContext) -> None:
    inputs = context.inputs
    if not inputs.is_paired:
        context.skip(NO_PAIRS, _COLOR)
        return
    specs = {spec.name: spec for spec in _COLOR}
    generated, real = (
        color.region_colors(images, inputs.real.masks, workers=context.workers, on_image=context.watch)
        for images in (inputs.generated, inputs.real.images)
    )
    base = real
    if inputs.training is not None:
        base = color.region_colors(
            inputs.base.images, inputs.base.masks, workers=context.workers, on_image=context.watch
        )
    for region in ("lesion", "skin"):
        ours, theirs, others = (getattr(found, region) for found in (generated, real, base))
        reason = None if np.isfinite(theirs).any() else f"no image has {region}"
        difference = color.paired_difference(ours, theirs, context.weights)
        context.add(specs[f"colour_pair_{region}"], difference, reason=reason)
        for name, measure in (("set", color.set_difference), ("spread", color.spread_ratio)):
            context.add(
                specs[f"colour_{name}_{region}"],
                measure(ours, others, context.weights, context.base_weights),
                None
                if inputs.training is None
                else measure(theirs, others, context.real_weights, context.base_weights),
                reason=reason,
            )


def _measure_checkerboards(context: MetricContext) -> None:
    (overall,) = _CHECKERBOARD
    specs = {stride: _checkerboard_of(stride) for stride in checkerboard.STRIDES}
    if not checkerboard.measured_strides(context.inputs.generated.shape[1]):
        context.skip(NO_STRIDE, [*specs.values(), overall])
        return
    generated, real = (
        checkerboard.energy(checkerboard.measure(images, on_image=context.watch), weights)
        for images, weights in (
            (context.inputs.generated, context.weights),
            (context.inputs.real.images, context.real_weights),
        )
    )
    context.add(overall, generated[None], real[None])
    for stride, spec in specs.items():
        if stride in generated:
            context.add(spec, generated[stride], real[stride])
        else:
            context.skip(NO_STRIDE, [spec])


def _measure_neighbors(context: MetricContext) -> None:
    inputs, training = context.inputs, context.inputs.training
    median, p5, ratio, duplicates = _NEIGHBOR
    if training is None:
        context.skip(NO_TRAINING, _NEIGHBOR)
        return
    generated, real = (
        nearest_neighbors.nearest(nearest_neighbors.shrink(images), training.small)
        for images in (inputs.generated, inputs.real.images)
    )
    context.watch(len(inputs.generated) + len(inputs.real.images))
    for spec, quantile in ((median, 0.5), (p5, 0.05)):
        ours, theirs = (
            bootstrap.of_quantile(found.levels, quantile, places)
            for found, places in ((generated, context.places), (real, context.real_places))
        )
        context.add(spec, ours, theirs)
    context.add(ratio, bootstrap.of_median_ratio(generated.levels, real.levels, context.places, context.real_places))
    ours, theirs = (Estimate(float(found.is_near_duplicate.sum())) for found in (generated, real))
    context.add(duplicates, ours, theirs, no_interval=COUNT_REASON)
    context.result.closest = [
        Neighbor(
            synthesized=inputs.names[i],
            training=training.names[int(generated.places[i])],
            levels=float(generated.levels[i]),
        )
        for i in np.argsort(generated.levels, kind="stable")[:CLOSEST]
    ]


def _measure_diversity(context: MetricContext) -> None:
    inputs, seed = context.inputs, context.seed
    variety, ratio, of_samples = _DIVERSITY
    chosen, real_chosen = (
        sets.sample(len(images), MAX_FOR_DIVERSITY, seed, "variety")
        for images in (inputs.generated, inputs.real.images)
    )
    weights, real_weights = (
        context.sample_weights(chosen, context.weights),
        context.sample_weights(real_chosen, context.real_weights),
    )
    generated, real = (
        diversity.differences(inputs.generated[chosen]),
        diversity.differences(inputs.real.images[real_chosen]),
    )
    context.watch(len(inputs.generated) + len(inputs.real.images))
    context.add(variety, diversity.of_set(generated, weights), diversity.of_set(real, real_weights))
    context.add(ratio, diversity.ratio(generated, real, weights, real_weights))
    if not inputs.samples:
        context.skip(NO_SAMPLES, [of_samples])
        return
    context.add(of_samples, diversity.of_samples((inputs.generated, *inputs.samples), context.weights))


def _set_cost(n: ImageCounts) -> int:
    columns = [n.generated, n.sample, n.real] if n.training else [n.generated, n.real]
    return len(columns) * min(columns)


METRIC_GROUPS: Final = (
    MetricGroup(_PAIRED, _measure_pairs, lambda n: n.generated if n.is_paired else 0),
    MetricGroup(_WASSERSTEIN, _measure_textures, _set_cost),
    MetricGroup(
        _SEGMENTED,
        _measure_lesions,
        lambda n: (n.in_sets + (2 * n.generated if n.is_paired else 0)) if n.has_segmenter else 0,
    ),
    MetricGroup(_INCEPTION, _measure_inception, lambda n: n.in_sets if n.has_inception else 0),
    MetricGroup(_COLOR, _measure_colors, lambda n: n.in_sets if n.is_paired else 0),
    MetricGroup(_CHECKERBOARD, _measure_checkerboards, lambda n: n.generated + n.real),
    MetricGroup(_NEIGHBOR, _measure_neighbors, lambda n: n.generated + n.real if n.training else 0),
    MetricGroup(_DIVERSITY, _measure_diversity, lambda n: n.generated + n.real),
)
"""In the order in which they are measured and shown."""

METRICS: Final[Mapping[str, MetricSpec]] = {
    spec.name: spec
    for spec in (
        *(spec for group in METRIC_GROUPS for spec in group.metrics),
        *map(_checkerboard_of, checkerboard.STRIDES),
    )
}
"""Definition of each metric, by its key in the JSON document; those of the pyramids' levels left out."""


def metric_spec(name: str) -> MetricSpec:
    """Return the definition of a metric by its key in the JSON document.

    Raises:
        KeyError: there is no such metric.
    """
    kind, _, side = name.rpartition("_")
    return _wasserstein_at(int(side)) if kind == "swd" and side.isdecimal() else METRICS[name]


def measure_metrics(context: MetricContext) -> MetricsResult:
    """Measure every metric, group by group."""
    for group in METRIC_GROUPS:
        group.function(context)
    return context.result
