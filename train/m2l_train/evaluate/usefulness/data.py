"""Read the real pairs, keep test pairs apart from training pairs, and draw those of each cell."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from m2l_runtime._utils.text import plural, printable
from m2l_runtime.conditioning.random import random_permutation
from m2l_runtime.errors import InputError
from m2l_runtime.types import Image, Images, Mask, Masks
from m2l_train.data.data_folder import TRAIN, VAL, open_data
from m2l_train.data.near_duplicates import descriptor, near_duplicates, same_either_way
from m2l_train.data.pairing import Pair
from m2l_train.evaluate.sets import fingerprint, iterate_pairs, refuse_synthetic
from m2l_train.evaluate.usefulness.plan import (
    MAX_VALIDATION,
    MIN_TRAINING,
    MIN_VALIDATION,
    VALIDATION_SHARE,
    UsefulnessOptions,
)

MIN_TEST: Final = 2
FEW_TEST: Final = 30
"""Fewer test pairs than that are warned of."""
_SHOWN: Final = 3


@dataclass(frozen=True)
class PairSet:
    """Hold real pairs at the segmenter's size."""

    pairs: tuple[Pair, ...]
    """Their files, in the order of the arrays."""
    images: Images
    """uint8 (N, S, S, 3)."""
    masks: Masks
    """uint8 (N, S, S)."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the photographs."""
        return tuple(pair.name for pair in self.pairs)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names and pixels."""
        return fingerprint(self.names, self.images, self.masks)

    def without(self, places: set[int]) -> PairSet:
        """Leave out the pairs at `places`."""
        kept = [place for place in range(len(self.pairs)) if place not in places]
        return PairSet(tuple(self.pairs[place] for place in kept), self.images[kept], self.masks[kept])


@dataclass(frozen=True)
class RealData:
    """Hold all real pairs of the experiment."""

    train: PairSet
    """That arms draw from."""
    test: PairSet
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Drawn:
    """Hold the places, among the training pairs, of those of a fraction and seed."""

    training: tuple[int, ...]
    validation: tuple[int, ...]
    """By which the best step is chosen; none of `training`."""


def read_real(data: str | os.PathLike[str], options: UsefulnessOptions) -> RealData:
    """Read a data folder: its train split, and its val split to test on.

    Training pairs that are near duplicates of test pairs are left out, with a warning.

    Raises:
        InputError: there is no val split, an image says that m2l made it, too few pairs can be read, or test pairs are
            among the training pairs.
    """
    folder = open_data(data)
    if not folder.val:
        raise InputError(
            f"{printable(data)} has no {VAL} split; segmenters are tested on real pairs that nothing was trained on: "
            "m2l prepare makes such a split"
        )
    refuse_synthetic((*folder.train, *folder.val), options.worker_count)
    warnings = [text for text in folder.warnings if VAL not in text]
    train, test = (_read(pairs, options, warnings) for pairs in (folder.train, folder.val))
    train = keep_apart(train, test, warnings)
    if len(test.pairs) < MIN_TEST:
        raise InputError(f"{plural(len(test.pairs), 'pair')} to test on, at least {MIN_TEST} are needed")
    if len(test.pairs) < FEW_TEST:
        warnings.append(f"{plural(len(test.pairs), 'pair')} to test on: intervals are wide, and little can be shown")
    return RealData(train, test, tuple(warnings))


def _read(pairs: Sequence[Pair], options: UsefulnessOptions, warnings: list[str]) -> PairSet:
    kept: list[Pair] = []
    images: list[Image] = []
    masks: list[Mask] = []
    read = iterate_pairs(pairs, options.side, workers=options.worker_count, mask_is_left=options.mask_is_left)
    for pair, (_, image, mask, problem) in zip(pairs, read, strict=True):
        if image is None or mask is None:
            warnings.append(f"left out {problem}")
            continue
        kept.append(pair)
        images.append(image)
        masks.append(mask)
    if not kept:
        raise InputError(f"none of {plural(len(pairs), 'pair')} can be read: {warnings[-1]}")
    return PairSet(tuple(kept), np.stack(images), np.stack(masks))


def keep_apart(train: PairSet, test: PairSet, warnings: list[str]) -> PairSet:
    """Return the training pairs that show none of the test images, which are compared by their pixels.

    Raises:
        InputError: a training image has the very pixels of a test image, turned and mirrored or not.
    """
    places = {digest: place for place, digest in enumerate(map(_digest, test.images))}
    same = [
        (place, places[digest])
        for turned in same_either_way(train.images)
        for place, digest in enumerate(map(_digest, turned))
        if digest in places
    ]
    if same:
        place, other = same[0]
        count = len({test_place for _, test_place in same})
        raise InputError(
            f"{plural(count, 'test pair')} of {VAL} are also in {TRAIN}, by their pixels: "
            f"{printable(test.pairs[other].image)} is {printable(train.pairs[place].image)}; nothing can be tested on "
            "what was trained on: take them out of one of the two"
        )
    likenesses = near_duplicates(*(np.stack([descriptor(image) for image in one.images]) for one in (test, train)))
    near = {in_train: in_test for in_test, in_train, _ in likenesses}
    if not near:
        return train
    shown = [f"{train.pairs[one].name} of {test.pairs[other].name}" for one, other in list(near.items())[:_SHOWN]]
    more = ", ..." if len(near) > _SHOWN else ""
    warnings.append(
        f"left out {plural(len(near), 'training pair')} nearly the same as a test pair: {printable(', '.join(shown))}"
        f"{more}"
    )
    return train.without(set(near))


def _digest(image: Image) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def draw_pairs(count: int, fraction: float, seed: int) -> Drawn:
    """Draw the pairs of a fraction (percent) and seed from `count` training pairs.

    Those of a smaller fraction are among those of a larger one. A fifth of them, at most 100, are to validate on.

    Example:
        >>> drawn = draw_pairs(200, 10, seed=0)
        >>> len(drawn.training), len(drawn.validation)
        (16, 4)

    Raises:
        InputError: they are too few.
    """
    drawn = [int(place) for place in random_permutation(count, seed, "usefulness", "pairs")]
    drawn = drawn[: round(count * fraction / 100)]
    validation = min(MAX_VALIDATION, max(MIN_VALIDATION, round(len(drawn) * VALIDATION_SHARE)))
    if len(drawn) < MIN_TRAINING + validation:
        needed = MIN_TRAINING + MIN_VALIDATION
        raise InputError(
            f"{fraction:g} % of {plural(count, 'training pair')} is {plural(len(drawn), 'pair')}, too few for an arm: "
            f"at least {needed} are needed, {MIN_VALIDATION} of them to validate on; give a larger fraction"
        )
    return Drawn(tuple(drawn[validation:]), tuple(drawn[:validation]))


def read_masks(pairs: Sequence[Pair], side: int, options: UsefulnessOptions) -> Iterator[Mask]:
    """Read the masks of pairs that have been read before, at another size (side, side).

    Raises:
        InputError: one cannot be read any more.
    """
    read = iterate_pairs(pairs, side, workers=options.worker_count, mask_is_left=options.mask_is_left)
    for name, _, mask, problem in read:
        if mask is None:
            raise InputError(f"{printable(name)} cannot be read any more: {problem}")
        yield mask
