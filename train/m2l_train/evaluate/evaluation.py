"""Synthesized images, or a bundle, and a folder of real pairs to a whole evaluation.

What needs pairs compares each synthesized image with the real one of the same mask. What compares sets measures the
synthesized images, and beside them the real ones, against a sample of the training split: real images that were not
trained on are the yardstick.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import PIL
import scipy
import torch

from m2l_runtime import Synthesizer, __version__
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.errors import EngineNotInstalled, InputError
from m2l_runtime.types import Image, Mask
from m2l_train.data.near_duplicates import THRESHOLD
from m2l_train.data.pairing import Pair
from m2l_train.evaluate import sets
from m2l_train.evaluate.figures import MAX_FOR_DIVERSITY, EvaluationInputs, MetricsResult, MetricsRunner, Training
from m2l_train.evaluate.metrics import (
    bootstrap,
    checkerboard,
    diversity,
    nearest_neighbors,
    paired,
    sliced_wasserstein,
)
from m2l_train.evaluate.metrics.mask_fidelity import LESION_FROM
from m2l_train.evaluate.result import Counts, Evaluation, Provenance
from m2l_train.evaluate.segmenter import Segmenter, load_segmenter

if TYPE_CHECKING:
    from m2l_train.evaluate.metrics.inception import Inception
from m2l_train.evaluate.inputs import EvaluationData, read_folders, synthesize_with_bundle
from m2l_train.evaluate.options import EvaluationOptions, EvaluationStopped

MAX_TRAINING: Final = 1000
"""Training images that sets are compared with; neighbours are looked for in all."""

FEW_IMAGES: Final = 30

_LISTED: Final = 100


def evaluate_images(
    synthetic: str | os.PathLike[str],
    data: str | os.PathLike[str],
    options: EvaluationOptions | None = None,
    *,
    samples: Sequence[str | os.PathLike[str]] = (),
) -> Evaluation | None:
    """Judge a folder of synthesized images by real ones.

    Args:
        synthetic: a folder of `m2l synth`, with or without ``--pairs``; names match those of the data's masks.
        data: a data folder with or without splits, or a folder of real images without masks.
        options: the rest.
        samples: folders with more images of the same masks, by the same names.

    Returns:
        None if it was stopped.

    Raises:
        InputError: a folder, a file of weights or an image is not what it should be; or too few images match.
        EngineNotInstalled: Inception features are asked for and torch-fidelity is missing.
    """
    chosen = options if options is not None else EvaluationOptions()
    return _evaluate(chosen, lambda: read_folders(Path(synthetic), Path(data), chosen, [Path(s) for s in samples]))


def evaluate_bundle(
    data: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | None = None,
    options: EvaluationOptions | None = None,
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> Evaluation | None:
    """Judge a bundle by what it makes of the masks of real pairs; nothing is written.

    What is left to chance is drawn with the options' seed and the name of each pair.

    Args:
        data: a data folder with or without splits; it must have masks.
        bundle: folder of a bundle; None is the model inside the package.
        options: the rest.
        backend: as :meth:`m2l_runtime.Synthesizer.open` takes it.
        device: likewise.
        threads: likewise.

    Returns:
        None if it was stopped.

    Raises:
        InputError: the data or a file of weights is not what it should be, or there are too few pairs.
        BundleError: the bundle cannot be used.
        EngineError: no engine runs it here.
    """
    chosen = options if options is not None else EvaluationOptions()

    def evaluation_data() -> EvaluationData:
        with Synthesizer.open(bundle, backend=backend, device=device, threads=threads, streams=None) as synthesizer:
            return synthesize_with_bundle(Path(data), synthesizer, chosen)

    return _evaluate(chosen, evaluation_data)


def _evaluate(options: EvaluationOptions, gather: Callable[[], EvaluationData]) -> Evaluation | None:
    started = time.monotonic()
    segmenter = None if options.segmenter is None else load_segmenter(options.segmenter)
    inception = None if options.inception is None else _open_inception(options.inception)

    def watch(count: int) -> None:
        if count:
            options.on_images(count)
        if options.should_stop():
            raise EvaluationStopped

    try:
        evaluation_data = gather()
        watch(0)
        return _evaluate_data(evaluation_data, options, segmenter, inception, watch, started)
    except EvaluationStopped:
        return None


def _open_inception(path: str | os.PathLike[str]) -> Inception:
    try:
        from m2l_train.evaluate.metrics.inception import Inception
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("torch_fidelity", "torchvision"):
            raise
        raise EngineNotInstalled(
            f"Inception features need {error.name}, which is not installed: "
            f"pip install '.[inception]' in a checkout of m2l"
        ) from error
    return Inception(path)


def _evaluate_data(
    evaluation_data: EvaluationData,
    options: EvaluationOptions,
    segmenter: Segmenter | None,
    inception: Inception | None,
    watch: Callable[[int], None],
    started: float,
) -> Evaluation:
    reference, side, warnings = (
        evaluation_data.files.reference,
        evaluation_data.generated.shape[1],
        list(evaluation_data.warnings),
    )
    if evaluation_data.fake:
        warnings.append(
            f"{plural(evaluation_data.fake, 'image')} of the fake backend: no model was run, they show nothing"
        )
    if len(evaluation_data.generated) < FEW_IMAGES:
        warnings.append(
            f"{plural(len(evaluation_data.generated), 'image')} are few: take figures of fewer than {FEW_IMAGES} "
            "lightly"
        )
    sample_count = min(len(reference), MAX_TRAINING)
    options.on_start(_work(evaluation_data, sample_count, segmenter, inception))
    training = None
    if len(reference) >= sets.MIN_IMAGES:
        sets.refuse_synthetic(reference, options.worker_count)
        training, problems = _read_training(reference, evaluation_data.files, side, options, watch)
        warnings += [f"left out {problem}" for problem in problems]
    inputs = EvaluationInputs(
        evaluation_data.names,
        evaluation_data.generated,
        evaluation_data.real,
        evaluation_data.files.has_masks,
        training,
        evaluation_data.samples,
    )
    result = MetricsRunner(inputs, options.seed, options.worker_count, watch).run(segmenter, inception)
    return Evaluation(
        image_size=side,
        compared_with="training images" if training is not None else "evaluated real images",
        figures=result.figures,
        closest=result.closest,
        counts=_counts(evaluation_data, inputs, result),
        parameters=_parameters(segmenter),
        provenance=_provenance(evaluation_data, inputs, options, segmenter, inception),
        warnings=warnings,
        unmatched_synthesized=evaluation_data.unmatched_generated[:_LISTED],
        unmatched_real=evaluation_data.unmatched_real[:_LISTED],
        seconds=round(time.monotonic() - started, 1),
    )


def _work(
    evaluation_data: EvaluationData, sample: int, segmenter: Segmenter | None, inception: Inception | None
) -> int:
    """Images that will be counted."""
    generated, real, training = (
        len(evaluation_data.generated),
        len(evaluation_data.real.names),
        len(evaluation_data.files.reference),
    )
    is_paired = evaluation_data.files.has_masks
    columns = [generated, sample, real] if training else [generated, real]
    count = training + len(columns) * min(columns) + 2 * (generated + real)  # checkerboards and variety
    count += generated + real if training else 0
    if is_paired:
        count += generated + generated + real + sample
    if segmenter is not None:
        count += generated + real + sample + (2 * generated if is_paired else 0)
    return count + (generated + real + sample if inception is not None else 0)


def _read_training(
    pairs: Sequence[Pair], files: sets.RealFiles, side: int, options: EvaluationOptions, watch: Callable[[int], None]
) -> tuple[Training, list[str]]:
    """(the training split, a line for each pair that cannot be read)."""
    wanted = set(sets.sample(len(pairs), MAX_TRAINING, options.seed, "training"))
    names: list[str] = []
    kept: list[tuple[str, Image, Mask]] = []
    problems: list[str] = []

    def pictures() -> Iterator[Image]:
        found = sets.iterate_pairs(
            pairs, side, workers=options.worker_count, has_masks=files.has_masks, mask_is_left=files.mask_is_left
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


def _counts(evaluation_data: EvaluationData, inputs: EvaluationInputs, result: MetricsResult) -> Counts:
    is_lesion = inputs.real.masks >= LESION_FROM
    return Counts(
        synthesized=len(inputs.generated),
        real=len(inputs.real.names),
        training=0 if inputs.training is None else len(inputs.training.names),
        training_sample=0 if inputs.training is None else len(inputs.training.sample.names),
        wasserstein_per_set=result.wasserstein_per_set,
        variety_per_set=min(len(inputs.generated), MAX_FOR_DIVERSITY),
        equal_pairs=result.equal_pairs,
        without_lesion=int((~is_lesion.any((1, 2))).sum()) if inputs.is_paired else 0,
        without_skin=int(is_lesion.all((1, 2)).sum()) if inputs.is_paired else 0,
        one_empty=result.one_empty,
        real_one_empty=result.real_one_empty,
        unmatched_synthesized=len(evaluation_data.unmatched_generated),
        unmatched_real=len(evaluation_data.unmatched_real),
        bundles=dict(evaluation_data.bundles),
        fake=evaluation_data.fake,
    )


def _parameters(segmenter: Segmenter | None) -> dict[str, float]:
    """Numbers that the figures depend on."""
    parameters: dict[str, float] = {
        "bootstrap_resamples": bootstrap.RESAMPLES,
        "bootstrap_coverage": bootstrap.COVERAGE,
        "ssim_sigma": paired.SIGMA,
        "wasserstein_patches_per_image_and_level": sliced_wasserstein.PATCHES,
        "wasserstein_directions": sliced_wasserstein.DIRECTIONS,
        "checkerboard_ring_from": checkerboard.RING_FROM,
        "checkerboard_ring_to": checkerboard.RING_REACH,
        "neighbour_side": nearest_neighbors.SIDE,
        "near_duplicate_likeness": THRESHOLD,
        "variety_side": diversity.SIDE,
        "lesion_from": LESION_FROM,
    }
    if segmenter is not None:
        parameters |= {"segmenter_side": segmenter.spec.side, "segmenter_features": segmenter.spec.feature_count}
    return parameters


def _provenance(
    evaluation_data: EvaluationData,
    inputs: EvaluationInputs,
    options: EvaluationOptions,
    segmenter: Segmenter | None,
    inception: Inception | None,
) -> Provenance:
    masks = inputs.real.masks if inputs.is_paired else np.zeros((len(inputs.generated), 0), np.uint8)
    sample = None if inputs.training is None else inputs.training.sample
    return Provenance(
        synthesized=printable(evaluation_data.synthesized),
        data=printable(evaluation_data.data.resolve().name),
        split=evaluation_data.files.split,
        samples=[printable(name) for name in evaluation_data.sample_names],
        engine=evaluation_data.engine,
        synthesized_fingerprint=sets.fingerprint(inputs.names, inputs.generated, masks),
        real_fingerprint=sets.fingerprint(inputs.real.names, inputs.real.images, inputs.real.masks),
        training_fingerprint=None if sample is None else sets.fingerprint(sample.names, sample.images, sample.masks),
        segmenter_sha256=None if segmenter is None else segmenter.sha256,
        segmenter_val_dice=None if segmenter is None else segmenter.facts.val_dice,
        inception_sha256=None if inception is None else inception.sha256,
        seed=options.seed,
        image_seed=None if evaluation_data.conditions is None else evaluation_data.conditions.seed,
        appearance=None if evaluation_data.conditions is None else evaluation_data.conditions.label,
        versions={
            "m2l": __version__,
            "numpy": np.__version__,
            "torch": str(torch.__version__),
            "scikit-image": version("scikit-image"),
            "scipy": scipy.__version__,
            "Pillow": PIL.__version__,
        },
    )
