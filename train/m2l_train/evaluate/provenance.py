"""Describe what an evaluation was computed from: counts, parameters, fingerprints, versions."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL
import scipy
import torch

from m2l_runtime import __version__
from m2l_runtime._utils.text import printable
from m2l_train.data.near_duplicates import THRESHOLD
from m2l_train.evaluate import sets
from m2l_train.evaluate.context import EvaluationInputs, MetricsResult
from m2l_train.evaluate.inputs import EvaluationData
from m2l_train.evaluate.metrics import (
    bootstrap,
    checkerboard,
    diversity,
    nearest_neighbors,
    paired,
    precision_recall,
    repeated_marks,
    sliced_wasserstein,
    two_sample,
)
from m2l_train.evaluate.metrics.mask_fidelity import LESION_FROM
from m2l_train.evaluate.options import EvaluationOptions
from m2l_train.evaluate.registry import MAX_FOR_DIVERSITY
from m2l_train.evaluate.result import SEGMENTER_INSIDE, Counts, Provenance
from m2l_train.evaluate.segmenter import Segmenter
from m2l_train.evaluate.shipped import SHIPPED_SEGMENTER

if TYPE_CHECKING:
    from m2l_train.evaluate.imagenet_features import ImageNetFeatures
    from m2l_train.evaluate.metrics.inception import Inception


def count_images(evaluation_data: EvaluationData, inputs: EvaluationInputs, result: MetricsResult) -> Counts:
    """Count the images that metrics are of."""
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


def parameters_of(segmenter: Segmenter | None) -> dict[str, float]:
    """Return the numbers that metrics depend on."""
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
        "manifold_neighbours": precision_recall.NEIGHBORS,
        "two_sample_folds": two_sample.FOLDS,
        "two_sample_repeats": two_sample.REPEATS,
        "two_sample_ridge": two_sample.RIDGE,
        "marks_blur_fraction": repeated_marks.BLUR_FRACTION,
        "lesion_from": LESION_FROM,
    }
    if segmenter is not None:
        parameters |= {"segmenter_side": segmenter.spec.side, "segmenter_features": segmenter.spec.feature_count}
    return parameters


def _name_of(segmenter: str | os.PathLike[str] | None) -> str | None:
    if segmenter is None:
        return None
    return SEGMENTER_INSIDE if Path(segmenter) == SHIPPED_SEGMENTER else printable(Path(segmenter).name)


def provenance_of(
    evaluation_data: EvaluationData,
    inputs: EvaluationInputs,
    options: EvaluationOptions,
    segmenter: Segmenter | None,
    inception: Inception | None,
    imagenet: ImageNetFeatures | None,
) -> Provenance:
    """Describe what metrics were computed from and with."""
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
        segmenter=None if segmenter is None else _name_of(options.segmenter),
        segmenter_sha256=None if segmenter is None else segmenter.sha256,
        segmenter_val_dice=None if segmenter is None else segmenter.facts.val_dice,
        inception_sha256=None if inception is None else inception.sha256,
        imagenet_sha256=None if imagenet is None else imagenet.sha256,
        encoding=None if evaluation_data.encoding is None else evaluation_data.encoding.label,
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
