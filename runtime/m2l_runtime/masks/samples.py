"""Repeat the masks of a set, each time under its own name, for several images of each."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from m2l_runtime._utils.text import stem
from m2l_runtime.masks.mask_file import MaskFile
from m2l_runtime.masks.mask_set import MaskSet

_SUFFIX: Final = "_sample"


_SAMPLE: Final = re.compile(r"(?P<source>.+)_sample(?P<number>[0-9]{1,9})", re.DOTALL)


def split_sample(name: str) -> tuple[str, int | None]:
    """Split the name of a sample, without its ending, into its mask's and its number; None if it has none.

    Example:
        >>> split_sample("ISIC_0000001_sample07"), split_sample("a")
        (('ISIC_0000001', 7), ('a', None))
    """
    match = _SAMPLE.fullmatch(name)
    return (name, None) if match is None else (match["source"], int(match["number"]))


class SampledMasks:
    """Repeat each mask of a set `count` times, as STEM_sample1, STEM_sample2, ...; see MaskSet.

    Numbers have as many digits as `count`, so that names sort in their order.
    """

    def __init__(self, masks: MaskSet, count: int) -> None:
        self._masks: Final = masks
        digits = len(str(count))
        self.names: list[str] = [
            f"{before}{_SUFFIX}{sample:0{digits}}{ending}"
            for before, ending in map(_split, masks.names)
            for sample in range(1, count + 1)
        ]
        self.names.sort(key=stem)
        self.base: Final[Path | None] = masks.base
        self.is_single_file: Final = masks.is_single_file
        self.seed: Final = masks.seed
        self.passed_over: Final[tuple[str, ...]] = getattr(masks, "passed_over", ())

    def source_mask(self, name: str) -> tuple[str, int]:
        """Return the mask that a name stands for, and the number of the sample, from 1."""
        before, ending = _split(name)
        source, _, sample = before.rpartition(_SUFFIX)
        return source + ending, int(sample)

    def read(self, name: str, image_size: tuple[int, int], *, keep_original: bool = False) -> MaskFile:
        """See :class:`m2l_runtime.masks.mask_set.MaskSet`."""
        return self._masks.read(self.source_mask(name)[0], image_size, keep_original=keep_original)

    def sha256(self, name: str) -> str | None:
        """See :class:`m2l_runtime.masks.mask_set.MaskSet`."""
        return self._masks.sha256(self.source_mask(name)[0])


def sampled(masks: MaskSet, count: int) -> MaskSet:
    """Repeat each mask `count` times; one sample of each is `masks` themselves."""
    return masks if count == 1 else SampledMasks(masks, count)


def source_mask(masks: MaskSet, name: str) -> tuple[str, int]:
    """Return the mask that a name of `masks` stands for, and the number of the sample, from 1."""
    return masks.source_mask(name) if isinstance(masks, SampledMasks) else (name, 1)


def _split(name: str) -> tuple[str, str]:
    return os.path.splitext(name)  # noqa: PTH122
