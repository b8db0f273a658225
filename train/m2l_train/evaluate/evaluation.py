"""Evaluate synthesized images, or a bundle, against a folder of real pairs.

What needs pairs compares each synthesized image with the real one of the same mask. What compares sets measures the
synthesized images, and beside them the real ones, against a sample of the training split: real images that were not
trained on are the yardstick.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from m2l_runtime import AppearanceChoice, Synthesizer
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.sides import plain_sides
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import EngineNotInstalled, InputError
from m2l_runtime.types import Image, Mask
from m2l_train.data.pairing import Pair
from m2l_train.evaluate import sets
from m2l_train.evaluate.context import EvaluationInputs, ImageCounts, MetricContext, MetricsResult, Training
from m2l_train.evaluate.inputs import EvaluationData, finisher, read_folders, synthesize_with_bundle
from m2l_train.evaluate.metrics import nearest_neighbors
from m2l_train.evaluate.options import EvaluationOptions, EvaluationStopped
from m2l_train.evaluate.provenance import count_images, parameters_of, provenance_of
from m2l_train.evaluate.registry import METRIC_GROUPS, measure_metrics
from m2l_train.evaluate.result import Evaluation, Interval, Metric
from m2l_train.evaluate.segmenter import Segmenter, load_segmenter
from m2l_train.evaluate.sheet import write_told_apart

if TYPE_CHECKING:
    from m2l_train.evaluate.imagenet_features import ImageNetFeatures
    from m2l_train.evaluate.metrics.inception import Inception

MAX_TRAINING: Final = 1000
"""Training images that sets are compared with; neighbours are looked for in all."""

FEW_IMAGES: Final = 30

_LISTED: Final = 100


@dataclass(frozen=True)
class MetricNetworks:
    """Hold the networks that metrics use; None: those metrics are not measured."""

    segmenter: Segmenter | None
    inception: Inception | None
    imagenet: ImageNetFeatures | None


@check_types()
def evaluate_images(
    synthetic: str | os.PathLike[str],
    data: str | os.PathLike[str],
    options: EvaluationOptions | None = None,
    *,
    samples: Sequence[str | os.PathLike[str]] = (),
) -> Evaluation | None:
    """Evaluate a folder of synthesized images against real ones.

    Example:
        >>> options = EvaluationOptions(split="val", workers=2)
        >>> evaluation = evaluate_images("lesions", "data", options)  # doctest: +SKIP
        >>> evaluation.figures["swd"].value, evaluation.figures["swd"].real.value  # doctest: +SKIP
        (21.4, 9.8)

    Args:
        synthetic: a folder of `m2l synth`, with or without ``--pairs``; names match those of the data's masks.
        data: a data folder with or without splits, or a folder of real images without masks.
        options: split, networks, seed and callbacks; None: the defaults.
        samples: folders with more images of the same masks, by the same names.

    Returns:
        The metrics and where they come from; None if it was stopped.

    Raises:
        InputError: a folder, a file of weights or an image is not what it should be; or too few images match.
        EngineNotInstalled: Inception features are asked for and torch-fidelity is missing.
    """
    chosen = options if options is not None else EvaluationOptions()
    return _evaluate(chosen, lambda: read_folders(Path(synthetic), Path(data), chosen, [Path(s) for s in samples]))


@check_types()
def evaluate_bundle(
    data: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | None = None,
    options: EvaluationOptions | None = None,
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    precision: Precision = "fp32",
    appearance: str | AppearanceChoice | None = None,
    samples: int = 1,
) -> Evaluation | None:
    """Evaluate a bundle: synthesize images from the masks of real pairs, and compare. Nothing is written to disk.

    Random inputs are drawn from the options' seed and the name of each pair.

    Example:
        >>> evaluation = evaluate_bundle("data", "bundle", EvaluationOptions(seed=1))  # doctest: +SKIP
        >>> evaluation.counts.synthesized  # doctest: +SKIP
        150

    Args:
        data: a data folder with or without splits; it must have masks.
        bundle: folder of a bundle; None is the model inside the package.
        options: split, networks, seed and callbacks; None: the defaults.
        backend: as :meth:`m2l_runtime.Synthesizer.open` takes it.
        device: likewise.
        threads: likewise.
        precision: likewise.
        appearance: what appearances are to be: a choice, numbers by name (`lesion_L=35,ita=tan`) or the file of a
            photograph, as `m2l synth --appearance` takes it; None: sampled from what the network was trained with.
        samples: images of each mask, where the bundle varies. The first of each is compared with the real image, all
            tell how different the images of one mask are.

    Returns:
        The metrics and where they come from; None if it was stopped.

    Raises:
        InputError: the data or a file of weights is not what it should be, or there are too few pairs.
        BundleError: the bundle cannot be used.
        EngineError: no engine runs it here.
    """
    chosen = options if options is not None else EvaluationOptions()
    if bundle is not None and sets.is_bundle(data) and not sets.is_bundle(bundle):
        raise InputError(f"{printable(data)} is given as data and {sets.BUNDLE_ELSEWHERE}")

    def evaluation_data() -> EvaluationData:
        with Synthesizer.open(
            bundle, backend=backend, device=device, threads=threads, streams=None, precision=precision
        ) as synthesizer:
            return synthesize_with_bundle(Path(data), synthesizer, chosen, appearance, samples)

    return _evaluate(chosen, evaluation_data)


def _evaluate(options: EvaluationOptions, gather: Callable[[], EvaluationData]) -> Evaluation | None:
    started = time.monotonic()
    networks = open_networks(options)
    watch = watch_for(options)
    try:
        evaluation_data = gather()
        watch(0)
        return _evaluate_data(evaluation_data, options, networks, watch, started)
    except EvaluationStopped:
        return None


def open_networks(options: EvaluationOptions) -> MetricNetworks:
    """Open the networks that the options ask for, and that are installed.

    Raises:
        InputError: a file of weights is not what it should be.
        EngineNotInstalled: Inception features are asked for and torch-fidelity is missing.
    """
    segmenter = None if options.segmenter is None else load_segmenter(options.segmenter)
    inception = None if options.inception is None else _open_inception(options.inception)
    return MetricNetworks(segmenter, inception, _open_imagenet(options))


def watch_for(options: EvaluationOptions) -> Callable[[int], None]:
    """Return what passes the number of images done on, and raises `EvaluationStopped` where the options say to."""

    def watch(count: int) -> None:
        if count:
            options.on_images(count)
        if options.should_stop():
            raise EvaluationStopped

    return watch


def _open_inception(path: str | os.PathLike[str]) -> Inception:
    try:
        from m2l_train.evaluate.metrics.inception import Inception
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("torch_fidelity", "torchvision"):
            raise
        raise EngineNotInstalled(
            f'Inception features need {error.name}, which is not installed: pip install "m2l[inception]"'
        ) from error
    return Inception(path)


def _open_imagenet(options: EvaluationOptions) -> ImageNetFeatures | None:
    """Open the network if it is wanted and its weights are installed."""
    if not options.imagenet:
        return None
    from m2l_train.evaluate import imagenet_features
    from m2l_train.models import efficientnet_lite

    if efficientnet_lite.weights_path(imagenet_features.VERSION) is None:
        return None
    return imagenet_features.ImageNetFeatures(options.feature_cache)


def _evaluate_data(
    evaluation_data: EvaluationData,
    options: EvaluationOptions,
    networks: MetricNetworks,
    watch: Callable[[int], None],
    started: float,
) -> Evaluation:
    height, width = evaluation_data.generated.shape[1:3]
    warnings = [*evaluation_data.warnings, *reservations(evaluation_data)]
    total = expected_work(evaluation_data, networks)
    if evaluation_data.encoding is not None:  # measured twice
        total = 2 * total + len(evaluation_data.generated) * (1 + len(evaluation_data.samples))
    options.on_start(len(evaluation_data.files.reference) + total)
    inputs, problems = prepare_inputs(evaluation_data, options, watch)
    warnings += [f"left out {problem}" for problem in problems]
    compared, result = _measure(inputs, evaluation_data, options, networks, watch)
    if options.sheet is not None and not result.told_apart:
        reason = result.figures["two_sample_auc"].reason
        warnings.append(f"no sheet was drawn, as no images were told apart: {reason}")
    elif options.sheet is not None:
        write_told_apart(Path(options.sheet), compared, result.told_apart)
    return Evaluation(
        image_size=plain_sides((height, width)),
        compared_with="training images" if inputs.training is not None else "evaluated real images",
        figures=result.figures,
        closest=result.closest,
        counts=count_images(evaluation_data, inputs, result),
        told_apart=result.told_apart,
        parameters=parameters_of(networks.segmenter),
        provenance=provenance_of(
            evaluation_data, inputs, options, networks.segmenter, networks.inception, networks.imagenet
        ),
        warnings=warnings,
        unmatched_synthesized=evaluation_data.unmatched_generated[:_LISTED],
        unmatched_real=evaluation_data.unmatched_real[:_LISTED],
        seconds=round(time.monotonic() - started, 1),
    )


def reservations(evaluation_data: EvaluationData) -> list[str]:
    """Say what should be known before metrics of these images are read."""
    lines = []
    if evaluation_data.fake:
        lines.append(
            f"{plural(evaluation_data.fake, 'image')} of the fake backend: no model was run, they show nothing"
        )
    if len(evaluation_data.generated) < FEW_IMAGES:
        lines.append(
            f"{plural(len(evaluation_data.generated), 'image')} are few: take metrics of fewer than {FEW_IMAGES} "
            "lightly"
        )
    return lines


def expected_work(evaluation_data: EvaluationData, networks: MetricNetworks) -> int:
    """Count the images of all passes of metrics, for a progress bar."""
    reference = evaluation_data.files.reference
    counts = ImageCounts(
        len(evaluation_data.generated),
        len(evaluation_data.real.names),
        len(reference),
        min(len(reference), MAX_TRAINING),
        evaluation_data.files.has_masks,
        networks.segmenter is not None,
        networks.inception is not None,
        networks.imagenet is not None,
    )
    return sum(group.cost(counts) for group in METRIC_GROUPS)


def prepare_inputs(
    evaluation_data: EvaluationData, options: EvaluationOptions, watch: Callable[[int], None]
) -> tuple[EvaluationInputs, list[str]]:
    """Read the training split beside what is evaluated; return both, and a line for each pair that cannot be read.

    Raises:
        InputError: a training image says that m2l made it, or too few can be read.
        EvaluationStopped: the options say to stop.
    """
    reference, training, problems = evaluation_data.files.reference, None, list[str]()
    if len(reference) >= sets.MIN_IMAGES:
        sets.refuse_synthetic(reference, options.worker_count)
        size = (evaluation_data.generated.shape[1], evaluation_data.generated.shape[2])
        training, problems = _read_training(reference, evaluation_data, size, options, watch)
    inputs = EvaluationInputs(
        evaluation_data.names,
        evaluation_data.generated,
        evaluation_data.real,
        evaluation_data.files.has_masks,
        training,
        evaluation_data.samples,
    )
    return inputs, problems


def _measure(
    inputs: EvaluationInputs,
    evaluation_data: EvaluationData,
    options: EvaluationOptions,
    networks: MetricNetworks,
    watch: Callable[[int], None],
) -> tuple[EvaluationInputs, MetricsResult]:
    """Measure images encoded as the real files are, and as made beside that; return the former and their metrics."""
    shared: dict[str, Any] = {}

    def measure(images: EvaluationInputs) -> MetricsResult:
        return measure_images(images, options, networks, watch, shared)

    encoding = evaluation_data.encoding
    if encoding is None:
        return inputs, measure(inputs)
    generated, *samples = (
        encoding.encode_all(images, options.worker_count, watch) for images in (inputs.generated, *inputs.samples)
    )
    compared = dataclasses.replace(inputs, generated=generated, samples=tuple(samples))
    result, as_made = measure(compared), measure(inputs).figures
    result.figures = {name: _with_as_made(figure, as_made[name]) for name, figure in result.figures.items()}
    return compared, result


def measure_images(
    inputs: EvaluationInputs,
    options: EvaluationOptions,
    networks: MetricNetworks,
    watch: Callable[[int], None],
    shared: dict[str, Any],
) -> MetricsResult:
    """Measure every metric of images as they are; what is measured of real images alone is kept in `shared`."""
    context = MetricContext(
        inputs,
        options.seed,
        options.worker_count,
        watch,
        networks.segmenter,
        networks.inception,
        networks.imagenet,
        shared,
    )
    return measure_metrics(context)


def _with_as_made(figure: Metric, as_made: Metric) -> Metric:
    """Set the figure of the images as they were made beside that of the encoded ones."""
    if figure.value is None:
        return figure
    interval = Interval(value=as_made.value, low=as_made.low, high=as_made.high)
    return msgspec.structs.replace(figure, as_made=interval)


def _read_training(
    pairs: Sequence[Pair],
    evaluation_data: EvaluationData,
    size: tuple[int, int],
    options: EvaluationOptions,
    watch: Callable[[int], None],
) -> tuple[Training, list[str]]:
    """(the training split, a line for each pair that cannot be read)."""
    wanted = set(sets.sample(len(pairs), MAX_TRAINING, options.seed, "training"))
    names: list[str] = []
    kept: list[tuple[str, Image, Mask]] = []
    problems: list[str] = []

    files = evaluation_data.files

    def pictures() -> Iterator[Image]:
        found = sets.iterate_pairs(
            pairs,
            size,
            workers=options.worker_count,
            has_masks=files.has_masks,
            mask_is_left=files.mask_is_left,
            finish=finisher(evaluation_data.encoding),
        )
        for place, (name, image, mask, problem) in enumerate(found):
            watch(1)
            if image is None or mask is None:
                problems.append(problem)
                continue
            names.append(name)
            if place in wanted:
                kept.append((name, image, mask))
            yield image

    small = nearest_neighbors.shrink(pictures())
    if len(kept) < sets.MIN_IMAGES:
        first = f": {problems[0]}" if problems else ""
        raise InputError(
            f"{plural(len(kept), 'pair')} of the training split can be used, at least {sets.MIN_IMAGES} are needed"
            f"{first}"
        )
    sample = sets.RealSet(
        tuple(name for name, _, _ in kept),
        np.stack([image for _, image, _ in kept]),
        np.stack([mask for _, _, mask in kept]),
        (),
    )
    return Training(tuple(names), small, sample), problems
