"""Make the masks that images are synthesized from, of an arm's own training masks alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from m2l_runtime.errors import InputError
from m2l_runtime.masks.mask_file import MaskFile, parse_mask
from m2l_runtime.masks.sources.mask_source import not_installed
from m2l_runtime.output.encoding import encode_gray_mask
from m2l_runtime.types import Mask, Masks
from m2l_train.evaluate.usefulness.plan import MaskWay


@dataclass(frozen=True)
class NamedMask:
    """Hold a mask to synthesize from, and what its image's random inputs are drawn by."""

    name: str
    sample: int
    """Number of the image among those of the same mask, from 1."""
    mask: Mask
    """uint8 (S, S)."""


class ArrayMasks:
    """Offer masks in memory as a MaskSet.

    Example:
        >>> import numpy as np
        >>> masks = ArrayMasks(["a"], np.zeros((1, 32, 32), np.uint8))
        >>> masks.names, masks.read("a.png", (16, 16)).mask.shape
        (['a.png'], (16, 16))
    """

    base: Final[Path | None] = None
    is_single_file: Final = False
    seed: Final[int | None] = None

    def __init__(self, names: Sequence[str], masks: Masks) -> None:
        self._masks = {f"{name}.png": mask for name, mask in sorted(zip(names, masks, strict=True), key=lambda x: x[0])}

    @property
    def names(self) -> list[str]:
        """See :class:`m2l_runtime.masks.mask_set.MaskSet`."""
        return list(self._masks)

    def read(self, name: str, image_size: tuple[int, int], *, keep_original: bool = False) -> MaskFile:
        """See :class:`m2l_runtime.masks.mask_set.MaskSet`."""
        return parse_mask(encode_gray_mask(self._masks[name]), image_size, keep_original=keep_original)

    def sha256(self, name: str) -> str | None:
        """See :class:`m2l_runtime.masks.mask_set.MaskSet`."""
        return hashlib.sha256(encode_gray_mask(self._masks[name])).hexdigest()


def make_masks(way: MaskWay, names: Sequence[str], masks: Masks, count: int, seed: int) -> Iterator[NamedMask]:
    """Yield `count` masks made of masks (N, S, S), of their size.

    Args:
        way: how.
        names: of the masks.
        masks: the training masks of an arm.
        count: how many.
        seed: of what is drawn.

    Raises:
        InputError: nothing can be learned from these masks, or none can be deformed.
        EngineNotInstalled: SciPy or threadpoolctl is needed and missing.
    """
    yield from WAYS[way](names, masks, count, seed)


def _as_they_are(names: Sequence[str], masks: Masks, count: int, seed: int) -> Iterator[NamedMask]:
    for number in range(count):
        place, sample = number % len(masks), number // len(masks) + 1
        yield NamedMask(names[place], sample, masks[place])


def _deformed(names: Sequence[str], masks: Masks, count: int, seed: int) -> Iterator[NamedMask]:
    try:
        from m2l_runtime.masks.sources.deform import DeformOptions, open_deformations
    except ModuleNotFoundError as error:
        raise not_installed(error, "deforming masks") from error
    source = open_deformations(ArrayMasks(names, masks), DeformOptions(size=masks.shape[1], seed=seed))
    for number in range(count):
        yield NamedMask(f"deform {number}", 1, source.draw(number))


def _shapes(names: Sequence[str], masks: Masks, count: int, seed: int) -> Iterator[NamedMask]:
    try:
        from m2l_runtime.masks.sources.lesions import read_lesions
        from m2l_runtime.masks.sources.pca import READ_SIDE, RandomShapes, fit_shape_model
    except ModuleNotFoundError as error:
        raise not_installed(error, "principal components of masks") from error
    try:
        model = fit_shape_model(read_lesions(ArrayMasks(names, masks), READ_SIDE))
    except InputError as error:
        raise InputError(f"{error}; choose masks as-they-are or deform, or a larger fraction") from None
    source = RandomShapes(model, size=masks.shape[1], seed=seed)
    for number in range(count):
        yield NamedMask(f"pca {number}", 1, source.draw(number))


WAYS: Final[Mapping[MaskWay, Callable[[Sequence[str], Masks, int, int], Iterator[NamedMask]]]] = {
    "as-they-are": _as_they_are,
    "deform": _deformed,
    "pca": _shapes,
}
"""How masks are made, by name."""
