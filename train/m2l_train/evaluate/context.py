"""Hold what the metrics of one evaluation share: images, resamples, and the results so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from m2l_runtime.types import Images
from m2l_train.evaluate import sets
from m2l_train.evaluate.metrics import bootstrap, nearest_neighbors
from m2l_train.evaluate.metrics.bootstrap import Estimate
from m2l_train.evaluate.result import Better, Metric, Neighbor, ToldApart, make_metric

if TYPE_CHECKING:
    from m2l_train.evaluate.imagenet_features import ImageNetFeatures
    from m2l_train.evaluate.metrics.inception import Inception
    from m2l_train.evaluate.segmenter import Segmenter

Weights = npt.NDArray[np.float64]

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Training:
    """Hold as much of the training split as metrics need."""

    names: tuple[str, ...]
    small: nearest_neighbors.TrainingFeatures
    """Of all of it."""
    sample: sets.RealSet
    """That sets are compared with."""


@dataclass(frozen=True)
class EvaluationInputs:
    """Hold all that metrics are computed from."""

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
class Estimates:
    """Hold what a metric was made of, with its resampled values."""

    generated: Estimate | None
    real: Estimate | None


@dataclass
class MetricsResult:
    """Hold the metrics, and what was counted on the way."""

    figures: dict[str, Metric] = field(default_factory=dict)
    estimates: dict[str, Estimates] = field(default_factory=dict)
    """What the metrics are made of, by the same names."""
    closest: list[Neighbor] = field(default_factory=list)
    told_apart: list[ToldApart] = field(default_factory=list)
    wasserstein_per_set: int = 0
    equal_pairs: int = 0
    one_empty: int | None = None
    real_one_empty: int | None = None


@dataclass(frozen=True)
class ImageCounts:
    """Tell how many images there are, from which the work of each group of metrics follows."""

    generated: int
    real: int
    training: int
    """0 where there is no training split to compare with."""
    sample: int
    """Of the training split, those that sets are compared with."""
    is_paired: bool
    has_segmenter: bool
    has_inception: bool
    has_imagenet: bool

    @property
    def in_sets(self) -> int:
        """Synthesized, real, and those of the training sample."""
        return self.generated + self.real + self.sample


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """Define a metric: an entry of `m2l_train.evaluate.registry.METRICS`."""

    name: str
    """Key of the JSON document."""
    title: str
    """Row of the table."""
    definition: str
    unit: str
    better: Better


@dataclass(frozen=True)
class MetricGroup:
    """Describe metrics that are computed together."""

    metrics: tuple[MetricSpec, ...]
    function: Callable[[MetricContext], None]
    """Adds the metrics to the result of the context."""
    cost: Callable[[ImageCounts], int]
    """Counts images, each once for every pass over it."""


class MetricContext:
    """Share images, resamples and networks among the metrics of one evaluation, and collect what they give."""

    def __init__(
        self,
        inputs: EvaluationInputs,
        seed: int,
        workers: int,
        watch: Callable[[int], None],
        segmenter: Segmenter | None = None,
        inception: Inception | None = None,
        imagenet: ImageNetFeatures | None = None,
        shared: dict[str, Any] | None = None,
    ) -> None:
        """Draw the resamples.

        Args:
            inputs: the images.
            seed: of everything random.
            workers: threads.
            watch: called with the number of images done; may raise to end the work.
            segmenter: finds lesions; None: metrics that need it are not measured.
            inception: gives Inception features; None: likewise.
            imagenet: gives ImageNet features; None: likewise.
            shared: what :meth:`once` keeps, of another context with the same real images; None: nothing yet.
        """
        self.inputs, self.seed, self.workers, self.watch = inputs, seed, workers, watch
        self.segmenter, self.inception, self.imagenet = segmenter, inception, imagenet
        self.shared: dict[str, Any] = {} if shared is None else shared
        self.places = bootstrap.resample_indices(len(inputs.generated), seed, "images")
        self.real_places = (
            self.places if inputs.is_paired else bootstrap.resample_indices(len(inputs.real.images), seed, "real")
        )
        self.weights = bootstrap.multiplicities(self.places)
        self.real_weights = bootstrap.multiplicities(self.real_places)
        self.base_weights = (
            self.real_weights
            if inputs.training is None
            else bootstrap.multiplicities(bootstrap.resample_indices(len(inputs.base.images), seed, "training"))
        )
        self.result = MetricsResult()

    def once(self, name: str, count: int, measure: Callable[[], Shared]) -> Shared:
        """Return what is measured of real images alone; contexts that share it measure it once.

        Args:
            name: of what it is.
            count: the images that `measure` reports to `watch`.
            measure: called where it has not been measured.
        """
        if name in self.shared:
            self.watch(count)
        else:
            self.shared[name] = measure()
        kept: Shared = self.shared[name]
        return kept

    def add(
        self,
        spec: MetricSpec,
        generated: Estimate | None,
        real: Estimate | None = None,
        *,
        reason: str | None = None,
        no_interval: str | None = None,
    ) -> None:
        """Add a metric to the result.

        Args:
            spec: its definition.
            generated: of the synthesized images; None: not measured.
            real: of the real images; None where that has no meaning.
            reason: why it is not measured.
            no_interval: why there is no interval.
        """
        self.result.estimates[spec.name] = Estimates(generated, real)
        self.result.figures[spec.name] = make_metric(
            generated, real, spec.unit, spec.better, reason=reason, no_interval=no_interval
        )

    def skip(self, reason: str, specs: Sequence[MetricSpec]) -> None:
        """Add metrics that are not measured."""
        for spec in specs:
            self.add(spec, None, reason=reason)

    def sample_weights(self, chosen: Sequence[int], weights: Weights) -> Weights:
        """Return the resamples (R, len(chosen)) of a sample.

        Those of a part of the images are drawn anew; of all images they are those of the other metrics.
        """
        if len(chosen) == weights.shape[1]:
            return weights
        return bootstrap.multiplicities(bootstrap.resample_indices(len(chosen), self.seed, "variety"))
