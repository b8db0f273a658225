"""Sample what a generator takes beside the mask: an appearance, and which features are dropped.

The values of an item follow from the run's seed, the item's name and the number of its sample, and from nothing else.
So they are the same in any order, on any machine, alone or among others. Random numbers come from
:mod:`m2l_runtime.conditioning.random`.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.arguments import Renamed, check_types
from m2l_runtime._utils.text import printable
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.conditioning.random import check_seed, random_below, random_uint64
from m2l_runtime.errors import ArgumentError, ArrayError, InputError
from m2l_runtime.types import NAMES, Appearance, Mask, Masks, describe

Appearances = npt.NDArray[np.float32]
"""float32 (N, 12): one :data:`m2l_runtime.types.Appearance` a row."""

NEAREST_FRACTION: Final = 1 / 20
"""Where some numbers are given, one of the nearest training images is sampled: this fraction of them."""

FAR_DEVIATIONS: Final = 3.0
"""Standard deviations beyond the range of the training images, from where on a number gets a warning."""

MAX_SAMPLES: Final = 1_000_000

_MAX_SEED: Final = (1 << 64) - 1


def item_seed(seed: int, name: str, sample: int = 1) -> int:
    """Derive the seed of an item, 0..2^64-1, from which all its random values follow.

    Args:
        seed: the run's seed, 0..2^64-1.
        name: the mask's name relative to its folder, ``/`` between parts, without its file's ending. So the same masks
            in another file format give the same images.
        sample: number of the image among those of the same mask, from 1.
    """
    return int(random_uint64(1, seed, "item", name, sample)[0])


def mask_seed(mask: Mask) -> int:
    """Derive a seed from a mask's bytes (BLAKE2b): without a seed, a mask always gives the same image."""
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(mask).tobytes(), digest_size=8).digest(), "little")


def dropout_bits(seed: int, size_bytes: int) -> npt.NDArray[np.uint8]:
    """Sample which features are kept, each with probability one half.

    Args:
        seed: the item's seed, see :func:`item_seed`.
        size_bytes: number of bytes, eight features each.

    Returns:
        uint8 (size_bytes,): the raw random stream, little-endian.
    """
    return random_uint64(-(-size_bytes // 8), seed, "dropout_bits").astype("<u8").view(np.uint8)[:size_bytes]


@check_types(renamed={"given": "values"})
@dataclass(frozen=True)
class AppearanceChoice:
    """Choose appearances by some of their numbers. The others are sampled from the training images.

    An appearance is 12 numbers that describe the colors of lesion and skin: CIE L*, a* and b*, mean and standard
    deviation.

    Example:
        >>> AppearanceChoice.from_values({"lesion_L": 35, "skin_a": 12}).label
        'lesion_L=35.0,skin_a=12.0'
        >>> AppearanceChoice().label  # all sampled
        'drawn'

    Raises:
        InputError: an unknown name, one given twice, or a number that is not finite or that no image can have.
    """

    values: tuple[tuple[str, float], ...] = ()
    """(name, number), in the order of :data:`m2l_runtime.types.NAMES`. Empty: all sampled. All 12: one appearance."""

    given = Renamed("values")
    of = Renamed("from_values")

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
        object.__setattr__(self, "values", tuple(sorted(self.values, key=lambda one: NAMES.index(one[0]))))

    @classmethod
    @check_types()
    def from_values(cls, numbers: Mapping[str, float]) -> AppearanceChoice:
        """Choose some numbers by name."""
        return cls(tuple(numbers.items()))

    @classmethod
    def fixed(cls, appearance: Appearance) -> AppearanceChoice:
        """Choose one appearance, float32 (12,), such as :func:`m2l_runtime.conditioning.appearance.measure` returns."""
        return cls(tuple(zip(NAMES, map(float, appearance), strict=True)))

    @property
    def label(self) -> str:
        """The choice in one line, for the log; equal choices have equal labels."""
        if not self.values:
            return "drawn"
        numbers = np.array([number for _, number in self.values], "<f4")
        if len(self.values) == len(NAMES):
            return f"all given, BLAKE2b {hashlib.blake2b(numbers.tobytes(), digest_size=8).hexdigest()}"
        return ",".join(f"{name}={number!s}" for (name, _), number in zip(self.values, numbers, strict=True))


RANDOM_APPEARANCE: Final = AppearanceChoice()


def value_range(name: str) -> tuple[float, float]:
    """Return the smallest and largest possible value of a number of an appearance."""
    if "spread" in name:
        return 0.0, 128.0
    return (0.0, 100.0) if name.endswith("_L") else (-128.0, 127.0)


class AppearanceSampler:
    """Sample appearances from a bundle's table, as a choice asks for.

    Where some numbers are given, one of the training images nearest in them is sampled, and the given numbers replace
    its own. So the other numbers go with them as in real images.
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
        """Sample the appearance of an item: float32 (12,), owned by the caller."""
        row: Appearance = self._candidates[
            random_below(len(self._candidates), random_uint64(1, seed, "appearance"))[0]
        ].copy()
        row[self._columns] = self._numbers
        return row

    @property
    def warnings(self) -> list[str]:
        """A line for each given number that is far from all that the network was trained with."""
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
    """Hold what an item's image depends on beside its mask."""

    seed: int
    """See :func:`item_seed`."""
    appearance: Appearance | None
    """float32 (12,), not to be written to; None if the generator takes none."""

    @property
    def text_fields(self) -> dict[str, str]:
        """What the image's header says, by PNG text keyword."""
        fields = {"m2l-seed": str(self.seed)}
        if self.appearance is not None:
            fields["m2l-appearance"] = ",".join(
                f"{n}={v!s}" for n, v in zip(NAMES, rounded(self.appearance), strict=True)
            )
        return fields


def rounded(appearance: Appearance) -> tuple[float, ...]:
    """Round an appearance to three decimals, for people and logs."""
    return tuple(round(float(number), 3) for number in appearance)


def stack_conditions(conditions: Sequence[Condition | None]) -> tuple[list[int] | None, Appearances | None]:
    """Stack the conditions of several items to (seeds, appearances) for a synthesizer; None where it takes none."""
    seeds = [one.seed for one in conditions if one is not None]
    appearances = [one.appearance for one in conditions if one is not None and one.appearance is not None]
    return seeds or None, np.stack(appearances) if appearances else None


class ExtraInputs:
    """Make the inputs that a bundle's generator takes beside the mask, from seeds and appearances.

    Raises:
        BundleDamaged: the table of appearances is not what the manifest says.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self._mask, *self._others = manifest.inputs
        self.table: Final = None if manifest.input("appearance") is None else bundle.read_appearances()
        """float32 (count, 12) of the training images, not to be written to; None if the generator takes none."""
        self.sampler: Final = None if self.table is None else AppearanceSampler(self.table)
        """Samples appearances where none are given."""

    @property
    def is_random(self) -> bool:
        """Whether other seeds give other images of a mask."""
        return bool(self._others)

    def arrays(
        self, masks: Masks, seeds: Sequence[int] | None = None, appearances: Appearances | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Make all inputs of the generator, by name, the mask first.

        Args:
            masks: uint8 (N, H, W).
            seeds: N of them, 0..2^64-1; None: :func:`mask_seed` of each mask.
            appearances: float32 (N, 12); None: sampled with the seeds.

        Raises:
            ArrayError: appearances are given and the generator takes none.
        """
        arrays: dict[str, npt.NDArray[Any]] = {self._mask.name: masks}
        if appearances is not None and self.sampler is None:
            raise ArrayError(TAKES_NO_APPEARANCE)
        if not self.is_random:
            return arrays
        seeds = [mask_seed(mask) for mask in masks] if seeds is None else seeds
        for spec in self._others:
            if spec.role == "appearance" and appearances is not None:
                arrays[spec.name] = appearances
            else:
                arrays[spec.name] = SAMPLERS[spec.role](self, spec, seeds)
        return arrays


TAKES_NO_APPEARANCE: Final = (
    "the generator of this bundle takes no appearance; leave it out, or use a bundle of a network that was trained "
    "with appearances (m2l train --appearance)"
)


def _sample_appearances(extra: ExtraInputs, spec: TensorSpec, seeds: Sequence[int]) -> npt.NDArray[Any]:
    assert extra.sampler is not None  # noqa: S101 - a manifest with this role has the table
    rows = [extra.sampler.sample(seed) for seed in seeds]
    return np.stack(rows) if rows else np.empty((0, len(NAMES)), np.float32)


def _sample_dropout_bits(extra: ExtraInputs, spec: TensorSpec, seeds: Sequence[int]) -> npt.NDArray[Any]:
    size = next(side for side in spec.shape if isinstance(side, int))
    bits = np.empty((len(seeds), size), np.uint8)
    for row, seed in zip(bits, seeds, strict=True):
        row[:] = dropout_bits(seed, size)
    return bits


SAMPLERS: Final[Mapping[str, Callable[[ExtraInputs, TensorSpec, Sequence[int]], npt.NDArray[Any]]]] = {
    "appearance": _sample_appearances,
    "dropout_bits": _sample_dropout_bits,
}
"""How the values of each role of :data:`m2l_runtime.bundle.roles.ROLES` are sampled: a row for each seed."""


class Conditions:
    """Sample the condition of each item of a run."""

    def __init__(
        self, extra: ExtraInputs, seed: int = 0, choice: AppearanceChoice | None = None, samples: int = 1
    ) -> None:
        """Check the options.

        Args:
            extra: what the generator takes beside the mask.
            seed: the run's seed, 0..2^64-1.
            choice: which appearances to sample; None: all of the training images'.
            samples: images of each mask.

        Raises:
            InputError: the seed or the number of samples is out of range, or the generator cannot do
                what is asked for.
        """
        check_seed(seed)
        if not 1 <= samples <= MAX_SAMPLES:
            raise ArgumentError(f"the samples of each mask must be between 1 and {MAX_SAMPLES:,}, got {samples:,}")
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
        """The run's seed; None if no image depends on it."""
        self.label: Final = None if extra.table is None else choice.label
        """The choice of appearances in one line; None if the generator takes none."""
        self._sampler = None if extra.table is None else AppearanceSampler(extra.table, choice)

    def for_item(self, name: str, sample: int = 1) -> Condition | None:
        """Sample the condition of an item; None if the generator takes the mask alone. See :func:`item_seed`."""
        if self.seed is None:
            return None
        seed = item_seed(self.seed, name, sample)
        return Condition(seed, None if self._sampler is None else self._sampler.sample(seed))


def check_seeds(seeds: Any, count: int) -> list[int]:
    """Check the seeds of `count` masks, and return them as integers.

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
    """Check the appearances of `count` masks; a single one (12,) is for all of them.

    Returns:
        float32 (count, 12), not to be written to.

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
