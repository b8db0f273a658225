"""Hold what the experiment gives: a document for each cell, the settings of all, and the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.arguments import check_types
from m2l_runtime.types import Masks
from m2l_train.evaluate.metrics import mask_fidelity
from m2l_train.evaluate.metrics.mask_fidelity import LESION_FROM, SIDE, Lesion
from m2l_train.evaluate.usefulness.plan import MaskWay, Use

SCHEMA: Final = "m2l-usefulness"
SCHEMA_VERSION: Final = 1
"""Of the result, and of cells and settings: those of another version are not mixed."""

Better = Literal["higher", "lower"]

METRICS: Final[dict[str, tuple[str, str, Better]]] = {
    "dice": ("Dice", "", "higher"),
    "jaccard": ("Jaccard", "", "higher"),
    "sensitivity": ("sensitivity", "", "higher"),
    "specificity": ("specificity", "", "higher"),
    "boundary_px": ("boundary distance", "pixels of a 256x256 image", "lower"),
}
"""(title, unit, which is better) of each metric by its key; the first is the one that is reported on."""


LEVEL: Final = 0.05
"""A corrected p-value below it counts."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hold all that a cell depends on beside its arm, fraction and seed. RUN/settings.json holds it."""

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    m2l: str
    """Version."""
    train_fingerprint: str
    """SHA-256 of names and pixels of the real training pairs."""
    test_fingerprint: str
    bundle_sha256: str | None
    """None: each fraction and seed has a bundle of its own, whose SHA-256 is in its cells."""
    fake: bool
    """Whether the fake backend stands in for the bundle's network."""
    steps: int
    width: int
    levels: int
    side: int
    batch_size: int
    learning_rate: float
    ratio: float
    share: float
    use: Use
    masks: MaskWay
    appearance: str = ""
    """Numbers asked for; "": none."""
    precision: Literal["fp32", "bf16"]
    """Of the segmenters' training."""
    checks: int
    validation_share: float
    max_validation: int


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a segmenter's scores: RUN/cells/ARM-FRACTIONpct-seedN.json."""

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    settings_sha256: str
    """Of the content of settings.json."""
    arm: str
    fraction: float
    seed: int
    training_pairs: list[str]
    """Names of the real pairs it was trained on, and whose masks were synthesized from."""
    validation_pairs: list[str]
    synthesized_count: int
    engine: str
    """That synthesized; "" where nothing was."""
    bundle_sha256: str = ""
    """Of the bundle that synthesized; "" where nothing was."""
    validation_dice: list[float]
    """At each check, the last one after the last step."""
    best_step: int
    """From 1; the network that was tested."""
    scores: dict[str, list[float]]
    """A value for each test image, in the order of their names, by metric."""
    one_empty: int
    """Test images where the mask or the lesion found is empty, and the other is not."""
    seconds: float
    versions: dict[str, str]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a value with its 95 % interval."""

    value: float
    low: float | None
    high: float | None


class ArmScore(msgspec.Struct, frozen=True, kw_only=True):
    """Hold a metric of an arm at a fraction."""

    arm: str
    fraction: float
    metric: str
    mean: Interval
    """Over images and seeds."""
    seed_deviation: float | None
    """Standard deviation, over seeds, of the mean over images; None of one seed."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Compare an arm with another at a fraction, image by image."""

    arm: str
    baseline: str
    fraction: float
    metric: str
    difference: Interval
    """Mean of the arm's less the baseline's, over images and seeds."""
    p: float
    """Of the Wilcoxon signed-rank test, two-sided, over images, their differences averaged over seeds."""
    p_holm: float
    """Corrected for all comparisons of this metric."""
    verdict: Literal["better", "worse", "no difference shown"]
    """Better or worse: the interval leaves out 0 and p_holm is below 0.05."""


class Generator(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Describe a bundle that synthesized."""

    draw: str = ""
    """The fraction and seed that it synthesized for, such as "5pct-seed0"; "" where it did for all."""

    name: str
    sha256: str
    engine: str
    training_pairs: int | None
    """How many real pairs it was trained on; None: the bundle does not say."""
    at_least: int | None
    """Rows of its table of appearances, one for each of some training pairs; None: it has none."""
    is_record_compared: bool = False
    """Whether its training run recorded the very files of the arm's training pairs, and no others."""


class Usefulness(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the result of the experiment: its fields are those of usefulness.json.

    Example:
        >>> "comparisons" in Usefulness.__struct_fields__
        True
    """

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    data: str
    """Name of the data folder."""
    generator: Generator | None
    """Of all fractions and seeds; None where no arm needs it, or each has its own."""
    generators: list[Generator] = []
    """One for each fraction and seed, each trained on the `training_pairs` of the cells of its `draw`."""
    arms: list[str]
    fractions: list[float]
    seeds: int
    pairs: dict[str, int]
    """Real pairs that arms are trained on, by the fraction."""
    validation_pairs: dict[str, int]
    test_pairs: int
    settings: Settings
    scores: list[ArmScore]
    comparisons: list[Comparison]
    comparison_count: int
    """That the correction of each metric is for."""
    conclusions: list[str]
    """A sentence for each comparison of the first metric, and what to bear in mind."""
    warnings: list[str]
    seconds: float
    """Of all cells together."""
    versions: dict[str, str]


def check_whole(result: Usefulness) -> None:
    """Make sure that a result that was read has all that its arms and fractions ask for.

    Raises:
        ValueError: something is missing, or there is a metric of another m2l.
    """
    if not (result.arms and result.fractions):
        raise ValueError("there are no arms or no fractions")
    names = {f"{fraction:g}" for fraction in result.fractions}
    if not names <= result.pairs.keys() & result.validation_pairs.keys():
        raise ValueError("numbers of pairs are missing")
    expected = {(arm, fraction, metric) for arm in result.arms for fraction in result.fractions for metric in METRICS}
    if {(one.arm, one.fraction, one.metric) for one in result.scores} != expected:
        raise ValueError("scores are missing, or of other arms, fractions or metrics")
    compared = {(one.arm, one.fraction, one.metric) for one in result.comparisons}
    if not compared | {(one.baseline, one.fraction, one.metric) for one in result.comparisons} <= expected:
        raise ValueError("comparisons are of other arms, fractions or metrics")


@check_types()
def usefulness_to_json(result: Usefulness) -> bytes:
    """Encode a result as indented JSON with a line break at the end.

    Example:
        >>> Path("usefulness.json").write_bytes(usefulness_to_json(result))  # doctest: +SKIP
        5120
    """
    return to_document(result)


def to_document(value: msgspec.Struct) -> bytes:
    """Encode any of the documents of this module."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def score(masks: Masks, lesions: npt.NDArray[np.bool_]) -> tuple[dict[str, list[float]], int]:
    """Compare masks (N, S, S) with lesions found (N, S, S).

    Returns:
        (a value for each image by metric of `METRICS`; images where one of the two is empty and the other is not).
    """
    pairs = [(mask >= LESION_FROM, lesion) for mask, lesion in zip(masks, lesions, strict=True)]
    scale = SIDE / masks.shape[1]
    measures: dict[str, Callable[[Lesion, Lesion], float]] = {
        "dice": mask_fidelity.dice,
        "jaccard": mask_fidelity.jaccard,
        "sensitivity": mask_fidelity.sensitivity,
        "specificity": mask_fidelity.specificity,
        "boundary_px": lambda expected, found: scale * mask_fidelity.boundary_distance(expected, found),
    }
    scores = {name: [float(measure(*pair)) for pair in pairs] for name, measure in measures.items()}
    return scores, sum(bool(expected.any() != found.any()) for expected, found in pairs)
