"""Synthesized images, real ones and training images to figures, each by the room that defines it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from m2l_runtime.types import Images
from m2l_train.evaluate import sets
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
from m2l_train.evaluate.result import Metric, Neighbor, make_metric
from m2l_train.evaluate.segmenter import Features, Probabilities, Segmenter

if TYPE_CHECKING:
    from m2l_train.evaluate.metrics.inception import Inception

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

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Training:
    """The training split, as much of it as figures need."""

    names: tuple[str, ...]
    small: nearest_neighbors.TrainingFeatures
    """Of all of it."""
    sample: sets.RealSet
    """That sets are compared with."""


@dataclass(frozen=True)
class EvaluationInputs:
    """All that figures are made from."""

    names: tuple[str, ...]
    generated: Images
    """uint8 (N, S, S, 3)."""
    real: sets.RealSet
    is_paired: bool
    """Whether `real` belongs to `generated` image by image, with masks."""
    training: Training | None
    samples: tuple[Images, ...]
    """More images of the same masks, `generated` not among them."""

    @property
    def base(self) -> sets.RealSet:
        """What sets are compared with: the training sample, or else the real images."""
        return self.real if self.training is None else self.training.sample


@dataclass(frozen=True)
class MetricsResult:
    """Figures, and what of them is no figure."""

    figures: dict[str, Metric]
    closest: list[Neighbor]
    wasserstein_per_set: int
    equal_pairs: int
    one_empty: int | None
    real_one_empty: int | None


class MetricsRunner:
    """One evaluation: what its figures share, and a method for each group of them."""

    def __init__(self, inputs: EvaluationInputs, seed: int, workers: int, watch: Callable[[int], None]) -> None:
        """Draw the resamples.

        Args:
            material: the images.
            seed: of all that is drawn.
            workers: threads.
            watch: called with the number of images done; may raise to end the work.
        """
        self._inputs, self._seed, self._workers, self._watch = inputs, seed, workers, watch
        self._places = bootstrap.resample_indices(len(inputs.generated), seed, "images")
        self._real_places = (
            self._places if inputs.is_paired else bootstrap.resample_indices(len(inputs.real.images), seed, "real")
        )
        self._weights = bootstrap.multiplicities(self._places)
        self._real_weights = bootstrap.multiplicities(self._real_places)
        self._base_weights = (
            self._real_weights
            if inputs.training is None
            else bootstrap.multiplicities(bootstrap.resample_indices(len(inputs.base.images), seed, "training"))
        )
        self._figures: dict[str, Metric] = {}

    def run(self, segmenter: Segmenter | None, inception: Inception | None) -> MetricsResult:
        """Every figure."""
        equal_pairs = self._paired()
        per_set = self._wasserstein()
        empties = self._segmented(segmenter)
        self._inception(inception)
        self._colors()
        self._checkerboards()
        closest = self._neighbors()
        self._variety()
        return MetricsResult(self._figures, closest, per_set, equal_pairs, *empties)

    def _null(self, reason: str, *rows: tuple[str, str, str]) -> None:
        for name, unit, better in rows:
            self._figures[name] = make_metric(None, None, unit, better, reason=reason)  # type: ignore[arg-type]

    def _paired(self) -> int:
        if not self._inputs.is_paired:
            self._null(NO_PAIRS, ("l1", "levels", "lower"), ("psnr", "dB", "higher"), ("ssim", "", "higher"))
            return 0
        comparison = paired.compare(
            self._inputs.generated, self._inputs.real.images, workers=self._workers, on_image=self._watch
        )
        is_equal = np.isinf(comparison.psnr_db)
        self._figures["l1"] = make_metric(
            bootstrap.of_mean(comparison.l1_levels, self._weights), None, "levels", "lower"
        )
        reason = "every image equals its real one" if is_equal.all() else None
        psnr = bootstrap.of_mean(comparison.psnr_db, self._weights)
        self._figures["psnr"] = make_metric(psnr, None, "dB", "higher", reason=reason)
        self._figures["ssim"] = make_metric(bootstrap.of_mean(comparison.ssim, self._weights), None, "", "higher")
        return int(is_equal.sum())

    def _wasserstein(self) -> int:
        inputs, seed = self._inputs, self._seed
        columns = [inputs.generated, inputs.base.images]
        if inputs.training is not None:
            columns.append(inputs.real.images)
        count = min(len(images) for images in columns)
        chosen = [
            images[sets.sample(len(images), count, seed, "wasserstein", place)] for place, images in enumerate(columns)
        ]
        patches = [
            sliced_wasserstein.describe(images, seed, workers=self._workers, on_image=self._watch) for images in chosen
        ]
        rows: list[list[Estimate]] = []
        for level in range(len(patches[0])):
            cut = [levels[level] for levels in patches]
            rows.append([Estimate(value) for value in sliced_wasserstein.distances([cut[0], *cut[2:]], cut[1], seed)])
            self._watch(0)
        rows.insert(0, [Estimate(float(np.mean([row[i].value for row in rows]))) for i in range(len(rows[0]))])
        names = ["swd", *(f"swd_{side}" for side in sliced_wasserstein.pyramid_sides(inputs.generated.shape[1]))]
        for name, (generated, *real) in zip(names, rows, strict=True):
            self._figures[name] = make_metric(
                generated, real[0] if real else None, "1e-3", "near real", no_interval=BIASED_RESAMPLES
            )
        return count

    def _segmented(self, segmenter: Segmenter | None) -> tuple[int | None, int | None]:
        """(images with one of mask and lesion empty, of real ones)."""
        inputs = self._inputs
        rows = (("dice", "", "near real"), ("boundary", "px of 256", "near real"))
        if segmenter is None:
            self._null(NO_SEGMENTER, ("kid", "", "near real"), *rows)
            return None, None
        lesions, features = self._run_segmenter(segmenter, inputs.generated)
        real_lesions, real_features = self._run_segmenter(segmenter, inputs.real.images)
        base = None if inputs.training is None else self._run_segmenter(segmenter, inputs.base.images)[1]
        others = real_features if base is None else base
        features, real_features = (kid.standardized(rows, others) for rows in (features, real_features))
        self._kid("kid", features, real_features, None if base is None else kid.standardized(base, others))
        if not inputs.is_paired:
            self._null(NO_PAIRS, *rows)
            return None, None
        ours, theirs = (
            mask_fidelity.compare(inputs.real.masks, found, workers=self._workers, on_image=self._watch)
            for found in (lesions, real_lesions)
        )
        for (name, unit, better), one, other in (
            (rows[0], ours.dice, theirs.dice),
            (rows[1], ours.boundary_px, theirs.boundary_px),
        ):
            generated, real = (bootstrap.of_mean(values, self._weights) for values in (one, other))
            self._figures[name] = make_metric(generated, real, unit, better)  # type: ignore[arg-type]
        return ours.one_empty, theirs.one_empty

    def _run_segmenter(self, segmenter: Segmenter, images: Images) -> tuple[Probabilities, Features]:
        return segmenter(images, workers=self._workers, on_image=self._watch)

    def _kid(self, name: str, generated: Features, real: Features, training: Features | None) -> None:
        base = real if training is None else training
        ours = kid.distance(generated, base, self._weights, self._base_weights)
        theirs = None if training is None else kid.distance(real, base, self._real_weights, self._base_weights)
        self._figures[name] = make_metric(ours, theirs, "", "near real")

    def _inception(self, inception: Inception | None) -> None:
        if inception is None:
            self._null(NO_INCEPTION, ("fid_inception", "", "near real"), ("kid_inception", "", "near real"))
            return
        from m2l_train.evaluate.metrics.inception import frechet_distance

        inputs = self._inputs
        generated, real = (
            inception(images, workers=self._workers, on_image=self._watch)
            for images in (inputs.generated, inputs.real.images)
        )
        training = None
        if inputs.training is not None:
            training = inception(inputs.base.images, workers=self._workers, on_image=self._watch)
        base = real if training is None else training
        self._figures["fid_inception"] = make_metric(
            Estimate(frechet_distance(generated, base)),
            None if training is None else Estimate(frechet_distance(real, base)),
            "",
            "near real",
            no_interval=NOT_RESAMPLED,
        )
        self._kid("kid_inception", generated, real, training)

    def _colors(self) -> None:
        inputs = self._inputs
        regions = ("lesion", "skin")
        rows = [
            (f"colour_{what}_{region}", unit, better)
            for what, unit, better in (
                ("pair", "Delta E", "lower"),
                ("set", "Delta E", "near real"),
                ("spread", "ratio", "near real"),
            )
            for region in regions
        ]
        if not inputs.is_paired:
            self._null(NO_PAIRS, *rows)
            return
        generated, real = (
            color.region_colors(images, inputs.real.masks, workers=self._workers, on_image=self._watch)
            for images in (inputs.generated, inputs.real.images)
        )
        base = real
        if inputs.training is not None:
            base = color.region_colors(
                inputs.base.images, inputs.base.masks, workers=self._workers, on_image=self._watch
            )
        for region in regions:
            ours, theirs, others = (getattr(found, region) for found in (generated, real, base))
            reason = None if np.isfinite(theirs).any() else f"no image has {region}"
            self._figures[f"colour_pair_{region}"] = make_metric(
                color.paired_difference(ours, theirs, self._weights), None, "Delta E", "lower", reason=reason
            )
            for name, measure, unit in (
                ("set", color.set_difference, "Delta E"),
                ("spread", color.spread_ratio, "ratio"),
            ):
                self._figures[f"colour_{name}_{region}"] = make_metric(
                    measure(ours, others, self._weights, self._base_weights),
                    None
                    if inputs.training is None
                    else measure(theirs, others, self._real_weights, self._base_weights),
                    unit,
                    "near real",
                    reason=reason,
                )

    def _checkerboards(self) -> None:
        side = self._inputs.generated.shape[1]
        strides = checkerboard.measured_strides(side)
        for stride in checkerboard.STRIDES:
            self._null(NO_STRIDE, (f"checkerboard_{stride}", "ratio", "near real"))
        if not strides:
            self._null(NO_STRIDE, ("checkerboard", "ratio", "near real"))
            return
        generated, real = (
            checkerboard.energy(checkerboard.measure(images, on_image=self._watch), weights)
            for images, weights in (
                (self._inputs.generated, self._weights),
                (self._inputs.real.images, self._real_weights),
            )
        )
        for key, found in generated.items():
            name = "checkerboard" if key is None else f"checkerboard_{key}"
            self._figures[name] = make_metric(found, real[key], "ratio", "near real")
        order = ["checkerboard", *(f"checkerboard_{stride}" for stride in checkerboard.STRIDES)]
        for name in order:
            self._figures[name] = self._figures.pop(name)

    def _neighbors(self) -> list[Neighbor]:
        inputs, training = self._inputs, self._inputs.training
        rows = [
            ("neighbour_median", "levels", "near real"),
            ("neighbour_p5", "levels", "near real"),
            ("neighbour_ratio", "ratio", "near 1"),
            ("near_duplicates", "images", "near real"),
        ]
        if training is None:
            self._null(NO_TRAINING, *rows)
            return []
        generated, real = (
            nearest_neighbors.nearest(nearest_neighbors.shrink(images), training.small)
            for images in (inputs.generated, inputs.real.images)
        )
        self._watch(len(inputs.generated) + len(inputs.real.images))
        for name, quantile in (("neighbour_median", 0.5), ("neighbour_p5", 0.05)):
            ours, theirs = (
                bootstrap.of_quantile(found.levels, quantile, places)
                for found, places in ((generated, self._places), (real, self._real_places))
            )
            self._figures[name] = make_metric(ours, theirs, "levels", "near real")
        self._figures["neighbour_ratio"] = make_metric(
            bootstrap.of_median_ratio(generated.levels, real.levels, self._places, self._real_places),
            None,
            "ratio",
            "near 1",
        )
        ours, theirs = (Estimate(float(found.is_near_duplicate.sum())) for found in (generated, real))
        self._figures["near_duplicates"] = make_metric(ours, theirs, "images", "near real", no_interval=COUNT_REASON)
        return [
            Neighbor(
                synthesized=inputs.names[i],
                training=training.names[int(generated.places[i])],
                levels=float(generated.levels[i]),
            )
            for i in np.argsort(generated.levels, kind="stable")[:CLOSEST]
        ]

    def _variety(self) -> None:
        inputs, seed = self._inputs, self._seed
        chosen, real_chosen = (
            sets.sample(len(images), MAX_FOR_DIVERSITY, seed, "variety")
            for images in (inputs.generated, inputs.real.images)
        )
        weights, real_weights = (
            self._chosen_weights(chosen, self._weights),
            self._chosen_weights(real_chosen, self._real_weights),
        )
        generated, real = (
            diversity.differences(inputs.generated[chosen]),
            diversity.differences(inputs.real.images[real_chosen]),
        )
        self._watch(len(inputs.generated) + len(inputs.real.images))
        self._figures["variety"] = make_metric(
            diversity.of_set(generated, weights), diversity.of_set(real, real_weights), "levels", "near real"
        )
        self._figures["variety_ratio"] = make_metric(
            diversity.ratio(generated, real, weights, real_weights), None, "ratio", "near 1"
        )
        if not inputs.samples:
            self._null(NO_SAMPLES, ("variety_of_samples", "levels", "higher"))
            return
        found = diversity.of_samples((inputs.generated, *inputs.samples), self._weights)
        self._figures["variety_of_samples"] = make_metric(found, None, "levels", "higher")

    def _chosen_weights(self, chosen: Sequence[int], weights: Weights) -> Weights:
        """Resamples of a sample are drawn anew; of all images they are those of the other figures."""
        if len(chosen) == weights.shape[1]:
            return weights
        return bootstrap.multiplicities(bootstrap.resample_indices(len(chosen), self._seed, "variety"))
