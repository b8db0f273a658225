"""Seeds and wishes to what a generator takes beside the mask: an appearance, and which features are dropped.

What goes in is exact for each item and follows from the run's seed, the item's name and the number of its sample
alone: whatever else is made, wherever, in whatever order. Numbers come from :mod:`m2l_runtime.conditioning.random`.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.text import printable
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.conditioning.random import check_seed, random_below, random_uint64
from m2l_runtime.errors import ArrayError, InputError
from m2l_runtime.types import NAMES, Appearance, Mask, Masks, describe

Appearances = npt.NDArray[np.float32]
"""float32 (N, 12): one :data:`m2l_runtime.types.Appearance` a row."""

NEAREST_FRACTION: Final = 1 / 20
"""Of the training's appearances, from which one is drawn where some numbers are given: those nearest in them."""

FAR_DEVIATIONS: Final = 3.0
"""Standard deviations beyond all that the training has seen, from which on a number is worth a warning."""

MAX_SAMPLES: Final = 1_000_000

_MAX_SEED: Final = (1 << 64) - 1


def item_seed(seed: int, name: str, sample: int = 1) -> int:
    """The number, 0..2^64-1, that all that is drawn for an item follows from.

    Args:
        seed: of the run, 0..2^64-1.
        name: of the mask, relative to its folder, ``/`` between parts, without its file's ending: what the image is
            named after, so that masks kept in another format give the same images.
        sample: number of the image among those of the same mask, from 1.
    """
    return int(random_uint64(1, seed, "item", name, sample)[0])


def mask_seed(mask: Mask) -> int:
    """The seed of a mask that none is given for: BLAKE2b of its bytes, so that a mask always gives the same image."""
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(mask).tobytes(), digest_size=8).digest(), "little")


def dropout_bits(seed: int, size_bytes: int) -> npt.NDArray[np.uint8]:
    """uint8 (size_bytes,): which features are kept, each with probability one half; the raw stream, little-endian.

    Args:
        seed: of the item, see :func:`item_seed`.
        size_bytes: eight features a byte.
    """
    return random_uint64(-(-size_bytes // 8), seed, "dropout_bits").astype("<u8").view(np.uint8)[:size_bytes]


@dataclass(frozen=True)
class AppearanceChoice:
    """What appearances are to be: the numbers given; those that are not are drawn from what the training has seen.

    Raises:
        InputError: an unknown name, one given twice, or a number that is not finite or that no image can have.
    """

    values: tuple[tuple[str, float], ...] = ()
    """(name of :data:`m2l_runtime.types.NAMES`, number); none: appearances are drawn, all: it is fixed."""

    def __post_init__(self) -> None:
        for name, number in self.values:
            if name not in NAMES:
                raise InputError(f"appearances have no '{printable(name[:40])}'; expected some of {', '.join(NAMES)}")
            low, high = value_range(name)
            if not (math.isfinite(number) and low <= number <= high):
                raise InputError(f"{name} must be between {low:g} and {high:g}, got {number:g}")
        names = [name for name, _ in self.values]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{twice} is given twice")
        object.__setattr__(self, "given", tuple(sorted(self.values, key=lambda one: NAMES.index(one[0]))))

    @classmethod
    def from_values(cls, numbers: Mapping[str, float]) -> AppearanceChoice:
        """The choice of some numbers by name."""
        return cls(tuple(numbers.items()))

    @classmethod
    def fixed(cls, appearance: Appearance) -> AppearanceChoice:
        """The choice of one appearance (12,), such as :func:`m2l_runtime.conditioning.appearance.measure` gives."""
        return cls(tuple(zip(NAMES, map(float, appearance), strict=True)))

    @property
    def label(self) -> str:
        """One line that is the same for the same choice, for the log."""
        if not self.values:
            return "drawn"
        numbers = np.array([number for _, number in self.values], "<f4")
        if len(self.values) == len(NAMES):
            return f"all given, BLAKE2b {hashlib.blake2b(numbers.tobytes(), digest_size=8).hexdigest()}"
        return ",".join(f"{name}={number!s}" for (name, _), number in zip(self.values, numbers, strict=True))


RANDOM_APPEARANCE: Final = AppearanceChoice()


def value_range(name: str) -> tuple[float, float]:
    """Least and largest that a number of an appearance can be."""
    if "spread" in name:
        return 0.0, 128.0
    return (0.0, 100.0) if name.endswith("_L") else (-128.0, 127.0)


class AppearanceSampler:
    """A bundle's table of appearances and a choice to the appearance of each item.

    Where some numbers are given, one of the training's appearances nearest in them is drawn, and they replace its own:
    so the others go with them as they do in real images.
    """

    def __init__(self, table: Appearances, choice: AppearanceChoice = RANDOM_APPEARANCE) -> None:
        self._columns = [NAMES.index(name) for name, _ in choice.values]
        self._numbers = np.array([number for _, number in choice.values], np.float32)
        self._table, self._candidates = table, table
        deviation = table.std(0, np.float64)
        self._deviation = np.where(deviation > 0, deviation, 1.0)
        if self._columns:
            away = (table[:, self._columns] - self._numbers.astype(np.float64)) / self._deviation[self._columns]
            nearest = np.argsort((away**2).sum(1), kind="stable")
            self._candidates = table[nearest[: max(1, int(len(table) * NEAREST_FRACTION))]]

    def sample(self, seed: int) -> Appearance:
        """The appearance of an item, owned by the caller: float32 (12,)."""
        row: Appearance = self._candidates[
            random_below(len(self._candidates), random_uint64(1, seed, "appearance"))[0]
        ].copy()
        row[self._columns] = self._numbers
        return row

    @property
    def warnings(self) -> list[str]:
        """A line for each number given that is far from all that the network was trained with."""
        lines = []
        for column, number in zip(self._columns, self._numbers, strict=True):
            low, high = float(self._table[:, column].min()), float(self._table[:, column].max())
            far = FAR_DEVIATIONS * self._deviation[column]
            if not low - far <= number <= high + far:
                lines.append(
                    f"{NAMES[column]} {number:g} is far from all that the network was trained with "
                    f"({low:.1f} to {high:.1f}); do not expect it to follow"
                )
        return lines


@dataclass(frozen=True)
class Condition:
    """What an item's image depends on beside its mask."""

    seed: int
    """See :func:`item_seed`."""
    appearance: Appearance | None
    """float32 (12,), only read; None if the generator takes none."""

    @property
    def text_fields(self) -> dict[str, str]:
        """What the image says about itself, by PNG text keyword."""
        fields = {"m2l-seed": str(self.seed)}
        if self.appearance is not None:
            fields["m2l-appearance"] = ",".join(
                f"{n}={v!s}" for n, v in zip(NAMES, rounded(self.appearance), strict=True)
            )
        return fields


def rounded(appearance: Appearance) -> tuple[float, ...]:
    """An appearance for people and logs: three decimals."""
    return tuple(round(float(number), 3) for number in appearance)


def stack_conditions(conditions: Sequence[Condition | None]) -> tuple[list[int] | None, Appearances | None]:
    """(seeds, appearances) of several items, as a synthesizer takes them; None where the generator takes none."""
    seeds = [one.seed for one in conditions if one is not None]
    appearances = [one.appearance for one in conditions if one is not None and one.appearance is not None]
    return seeds or None, np.stack(appearances) if appearances else None


class ExtraInputs:
    """The inputs that a bundle's generator takes beside the mask, made of seeds and appearances.

    Raises:
        BundleDamaged: the table of appearances is not what the manifest says.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        appearance, bits = manifest.input("appearance"), manifest.input("dropout_bits")
        self._mask_name = manifest.inputs[0].name
        self._appearance_name = None if appearance is None else appearance.name
        self._bits = None if bits is None else (bits.name, _length(bits.shape))
        self.table: Final = None if appearance is None else bundle.read_appearances()
        """float32 (count, 12) of the training's images, only read; None if the generator takes no appearance."""
        self._sampler = None if self.table is None else AppearanceSampler(self.table)

    @property
    def is_random(self) -> bool:
        """Whether a mask gives other images with other seeds."""
        return self._bits is not None or self.table is not None

    def arrays(
        self, masks: Masks, seeds: Sequence[int] | None = None, appearances: Appearances | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """All inputs of the generator by name, the mask first.

        Args:
            masks: uint8 (N, H, W).
            seeds: N of them, 0..2^64-1; None: :func:`mask_seed` of each mask.
            appearances: float32 (N, 12); None: drawn with the seeds.

        Raises:
            ArrayError: appearances are given and the generator takes none.
        """
        arrays: dict[str, npt.NDArray[Any]] = {self._mask_name: masks}
        if appearances is not None and self._sampler is None:
            raise ArrayError(TAKES_NO_APPEARANCE)
        if not self.is_random:
            return arrays
        seeds = [mask_seed(mask) for mask in masks] if seeds is None else seeds
        if self._appearance_name is not None and self._sampler is not None:
            if appearances is None:
                drawn = [self._sampler.sample(seed) for seed in seeds]
                appearances = np.stack(drawn) if drawn else np.empty((0, len(NAMES)), np.float32)
            arrays[self._appearance_name] = appearances
        if self._bits is not None:
            name, size = self._bits
            arrays[name] = np.empty((len(masks), size), np.uint8)
            for row, seed in zip(arrays[name], seeds, strict=True):
                row[:] = dropout_bits(seed, size)
        return arrays


TAKES_NO_APPEARANCE: Final = (
    "the generator of this bundle takes no appearance; leave it out, or use a bundle of a network that was trained "
    "with appearances (m2l train --appearance)"
)


def _length(shape: tuple[str | int, ...]) -> int:
    return next(side for side in shape if isinstance(side, int))


class Conditions:
    """What a run is told beside its masks to the condition of each item."""

    def __init__(
        self, extra: ExtraInputs, seed: int = 0, choice: AppearanceChoice | None = None, samples: int = 1
    ) -> None:
        """Check what is told.

        Raises:
            InputError: the seed or the number of samples is out of range, or the generator cannot do what is asked for.
        """
        check_seed(seed)
        if not 1 <= samples <= MAX_SAMPLES:
            raise InputError(f"the samples of each mask must be between 1 and {MAX_SAMPLES:,}, got {samples:,}")
        if samples > 1 and not extra.is_random:
            raise InputError(
                f"all {samples:,} images of a mask would be the same: the generator of this bundle takes the mask "
                "alone; leave out the samples, or use a bundle that varies (m2l train --appearance, or m2l export "
                "--stochastic of a network trained with dropout)"
            )
        choice = choice or RANDOM_APPEARANCE
        if choice.values and extra.table is None:
            raise InputError(TAKES_NO_APPEARANCE)
        self.samples: Final = samples
        self.seed: Final = seed if extra.is_random else None
        """None if no image depends on it."""
        self.label: Final = None if extra.table is None else choice.label
        """What was chosen of appearances; None if the generator takes none."""
        self._sampler = None if extra.table is None else AppearanceSampler(extra.table, choice)

    def for_item(self, name: str, sample: int = 1) -> Condition | None:
        """The condition of an item; None if the generator takes the mask alone. Arguments as of :func:`item_seed`."""
        if self.seed is None:
            return None
        seed = item_seed(self.seed, name, sample)
        return Condition(seed, None if self._sampler is None else self._sampler.sample(seed))


def check_seeds(seeds: Any, count: int) -> list[int]:
    """Seeds of `count` masks as integers.

    Raises:
        ArrayError: not a sequence of that many integers, or one out of 0..2^64-1.
    """
    expected = f"seeds must be ({count},) integers from 0 to 2^64-1"
    if isinstance(seeds, np.ndarray):
        if seeds.ndim != 1 or seeds.dtype.kind not in "iu":
            raise ArrayError(f"{expected}, got {describe(seeds)}")
        integers: list[int] = seeds.tolist()
    elif isinstance(seeds, Sequence) and not isinstance(seeds, str | bytes):
        try:
            integers = [operator.index(seed) for seed in seeds]
        except TypeError:
            odd = next(seed for seed in seeds if not hasattr(seed, "__index__"))
            raise ArrayError(f"{expected}, got {describe(odd)} among them") from None
    else:
        raise ArrayError(f"{expected}, got {describe(seeds)}; a single seed is [seed]")
    if len(integers) != count:
        raise ArrayError(f"{expected}, one for each mask, got {len(integers)}")
    wrong = next((seed for seed in integers if not 0 <= seed <= _MAX_SEED), None)
    if wrong is not None:
        raise ArrayError(f"{expected}, got {wrong}")
    return integers


def check_appearances(appearances: Any, count: int) -> Appearances:
    """Appearances of `count` masks: float32 (count, 12), only to be read; a single one (12,) is for all of them.

    Raises:
        ArrayError: wrong shape or type, or numbers that are not finite.
    """
    expected = f"appearances must be ({count}, {len(NAMES)}) or ({len(NAMES)},) float32"
    if not isinstance(appearances, np.ndarray):
        raise ArrayError(f"{expected}, got {describe(appearances)}")
    if appearances.shape not in ((count, len(NAMES)), (len(NAMES),)) or appearances.dtype != np.float32:
        advice = "; write appearances.astype(numpy.float32)" if appearances.dtype == np.float64 else ""
        raise ArrayError(f"{expected}, got {describe(appearances)}{advice}")
    if not np.isfinite(appearances).all():
        raise ArrayError(f"{expected} and finite, got values that are infinite or undefined")
    return np.broadcast_to(appearances, (count, len(NAMES)))
