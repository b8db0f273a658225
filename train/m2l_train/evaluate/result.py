"""Hold an evaluation as one document: metrics, how many images they are of, and where all of it comes from."""

from __future__ import annotations

import math
from typing import Final, Literal

import msgspec

from m2l_runtime._utils.arguments import check_types
from m2l_train.evaluate.metrics.bootstrap import Estimate

SCHEMA: Final = "m2l-evaluation"
SCHEMA_VERSION: Final = 1
COMPARISON_SCHEMA: Final = "m2l-comparison"
COMPARISON_VERSION: Final = 1
SEGMENTER_INSIDE: Final = "m2l: segmenter inside the package"
"""What `Provenance.segmenter` says of that one."""

Verdict = Literal["better", "worse", "not told apart"]
Better = Literal["lower", "higher", "near real", "near 1"]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a metric of real images."""

    value: float | None
    low: float | None
    high: float | None


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a metric of synthesized images, beside the same of real ones.

    Example:
        >>> Metric(value=0.91, low=0.89, high=0.93, real=None, unit="", better="near real").value
        0.91
    """

    value: float | None
    """None: it was not measured, or cannot be; `reason` says why."""
    low: float | None
    """Ends of the 95 % bootstrap interval; None: there is none, and `no_interval` says why."""
    high: float | None
    real: Interval | None
    """Of the real images; None where that has no meaning, or there is nothing to measure them against."""
    unit: str
    better: Better
    reason: str | None = None
    no_interval: str | None = None
    as_made: Interval | None = None
    """Of the synthesized images as they were made, where `value` is of images encoded as the real files are."""


class Neighbor(msgspec.Struct, frozen=True, kw_only=True):
    """Name a synthesized image and the training image nearest to it."""

    synthesized: str
    training: str
    levels: float


class ToldApart(msgspec.Struct, frozen=True, kw_only=True):
    """Name an image that the classifier of two samples tells most surely."""

    name: str
    is_synthesized: bool
    log_odds: float
    """That it is synthesized, as a classifier says that was not trained on it."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Count the images that metrics are of."""

    synthesized: int
    real: int
    training: int
    """In which neighbours were looked for."""
    training_sample: int
    """That sets were compared with."""
    wasserstein_per_set: int
    variety_per_set: int
    equal_pairs: int
    """Whose PSNR is infinite, which its mean leaves out."""
    without_lesion: int
    """Masks without lesion, or without skin; colors leave them out."""
    without_skin: int
    one_empty: int | None
    """Synthesized images where either the mask or the lesion found is empty."""
    real_one_empty: int | None
    unmatched_synthesized: int
    unmatched_real: int
    bundles: dict[str, int]
    """Synthesized images by the bundle (SHA-256) that they name; '' for those that name none."""
    fake: int
    """Synthesized images by the backend that runs no model."""


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Describe what the metrics were computed from and with."""

    synthesized: str
    """The folder or bundle, by its own name."""
    data: str
    split: str | None
    samples: list[str]
    engine: str | None
    """That ran the bundle; None for images from files."""
    synthesized_fingerprint: str
    """SHA-256 of names and pixels of the images, and of their masks if they have any."""
    real_fingerprint: str
    training_fingerprint: str | None
    """Likewise, of the sample of the training split."""
    segmenter: str | None = None
    """The segmenter by the name of its file, or `SEGMENTER_INSIDE`; None: none was used."""
    segmenter_sha256: str | None
    segmenter_val_dice: float | None
    inception_sha256: str | None
    imagenet_sha256: str | None
    encoding: str | None
    """That synthesized images were encoded with, as the real files are; None: they were taken as made."""
    seed: int
    image_seed: int | None = None
    """What a bundle's images were drawn with; None where its generator takes the mask alone, or of files."""
    appearance: str | None = None
    """How appearances were chosen; None where its generator takes none, or of files."""
    versions: dict[str, str]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the result of an evaluation: its fields are those of the JSON document.

    Example:
        >>> "figures" in Evaluation.__struct_fields__
        True
    """

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    image_size: int | str
    """Side in pixels at which images were compared, or HEIGHTxWIDTH."""
    compared_with: Literal["training images", "evaluated real images"]
    """What the metrics of sets measure both columns, or the one column, against."""
    figures: dict[str, Metric]
    closest: list[Neighbor]
    told_apart: list[ToldApart]
    """Synthesized images and real ones, the surest of each first; empty where that was not measured."""
    counts: Counts
    parameters: dict[str, float]
    provenance: Provenance
    warnings: list[str]
    unmatched_synthesized: list[str]
    """Names, at most a hundred."""
    unmatched_real: list[str]
    seconds: float


class ComparedBundle(msgspec.Struct, frozen=True, kw_only=True):
    """Describe one of two bundles that were compared."""

    provenance: Provenance
    counts: Counts


class ComparedMetric(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a metric of two bundles on the same masks, and their difference.

    Example:
        >>> ComparedMetric(unit="", better="lower", reason="no segmenter given").verdict is None
        True
    """

    a: Interval | None = None
    """None: it was not measured, and `reason` says why."""
    b: Interval | None = None
    real: Interval | None = None
    """Of the real images; None where that has no meaning."""
    difference: Interval | None = None
    """B less A, with the 95 % interval of paired resamples."""
    improvement: Interval | None = None
    """How much better B is than A, above 0 if it is: by the difference, or where `better` is near something by how much
    nearer B is; None where there is nothing to be near to."""
    verdict: Verdict | None = None
    """Of B: better or worse if the interval of `improvement` leaves 0 out; None where there is no interval."""
    unit: str
    better: Better
    reason: str | None = None
    """Why there is no value, or no verdict."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the comparison of two bundles: its fields are those of the JSON document.

    Example:
        >>> "figures" in Comparison.__struct_fields__
        True
    """

    schema: str = COMPARISON_SCHEMA
    schema_version: int = COMPARISON_VERSION
    image_size: int | str
    compared_with: Literal["training images", "evaluated real images"]
    appearances: Literal["shared", "own"] | None
    """Whether both got the same appearances; None where A takes none."""
    a: ComparedBundle
    b: ComparedBundle
    figures: dict[str, ComparedMetric]
    parameters: dict[str, float]
    warnings: list[str]
    seconds: float


@check_types()
def to_json(evaluation: Evaluation | Comparison) -> bytes:
    """Encode an evaluation or a comparison as indented JSON with a line break at the end.

    Example:
        >>> Path("evaluation.json").write_bytes(to_json(evaluation))  # doctest: +SKIP
        5120
    """
    return msgspec.json.format(msgspec.json.encode(evaluation), indent=2) + b"\n"


def make_metric(
    generated: Estimate | None,
    real: Estimate | None,
    unit: str,
    better: Better,
    *,
    reason: str | None = None,
    no_interval: str | None = None,
) -> Metric:
    """Make a metric of what was estimated; what is no finite number becomes None with a reason."""
    value, low, high = _finite(generated)
    if value is None and reason is None:
        reason = "it is not a finite number for these images"
    if value is not None and low is None and no_interval is None:
        no_interval = "too few images"
    return Metric(
        value=value,
        low=low,
        high=high,
        real=make_interval(real),
        unit=unit,
        better=better,
        reason=reason if value is None else None,
        no_interval=no_interval if value is not None else None,
    )


def make_interval(estimate: Estimate | None) -> Interval | None:
    """Make an interval of what was estimated; None if that is no finite number."""
    value, low, high = _finite(estimate)
    return None if value is None else Interval(value=value, low=low, high=high)


def _finite(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    if estimate is None or not math.isfinite(estimate.value):
        return None, None, None
    return estimate.value, estimate.low, estimate.high
