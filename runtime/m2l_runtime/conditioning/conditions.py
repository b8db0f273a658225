"""Sample what a generator takes beside the mask: an appearance, noise, and which features are dropped.

The values of an item follow from the run's seed, the item's name and the number of its sample, and from nothing else.
So they are the same in any order, on any machine, alone or among others. Random numbers come from
:mod:`m2l_runtime.conditioning.random`.
"""

from __future__ import annotations

import hashlib
import operator
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.arguments import Renamed, check_types
from m2l_runtime._utils.text import printable
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.bundle.schema import AppearanceTable, TensorSpec
from m2l_runtime.conditioning import skin_tone
from m2l_runtime.conditioning.appearance import MAX_CONTRAST, rows_of_contrast
from m2l_runtime.conditioning.numbers import NUMBERS
from m2l_runtime.conditioning.random import check_seed, random_below, random_bytes, random_uint64
from m2l_runtime.errors import ArgumentError, ArrayError, BundleDamaged, InputError
from m2l_runtime.types import KNOWN_NAMES, NAMES, Appearance, Mask, Masks, describe, list_names

Appearances = npt.NDArray[np.float32]
"""float32 (N, K): one :data:`m2l_runtime.types.Appearance` a row."""

NEAREST_FRACTION: Final = 1 / 20
"""Where some numbers are given, one of the nearest training images is sampled: this fraction of them."""

FAR_DEVIATIONS: Final = 3.0
"""Standard deviations beyond the range of the training images, from where on a number gets a warning."""

RARE_FRACTION: Final = 1 / 20
"""Of training images on either side: an angle of the skin beyond those gets a warning."""

MIN_CONTRAST: Final = "min_contrast"
"""What asks for rows by the difference of lesion and skin, in Delta E*ab of their mean colors."""

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
    return random_bytes(seed, size_bytes, "dropout_bits")


def noise_bytes(seed: int, size_bytes: int) -> npt.NDArray[np.uint8]:
    """Sample the noise of an item: uint8 (size_bytes,), uniform in 0..255, from a stream of its own.

    Args:
        seed: the item's seed, see :func:`item_seed`.
        size_bytes: number of bytes.
    """
    return random_bytes(seed, size_bytes, "noise")


@check_types(renamed={"given": "values"})
@dataclass(frozen=True)
class AppearanceChoice:
    """Choose appearances by some of their numbers. The others are sampled from the training images.

    Which numbers an appearance has stands in the bundle: CIE L*, a* and b* of lesion and skin, mean and standard
    deviation, and perhaps more (:mod:`m2l_runtime.conditioning.numbers`). Besides, ``ita`` asks for skin of an
    individual typology angle in degrees (:mod:`m2l_runtime.conditioning.skin_tone`), and ``min_contrast`` for
    appearances of training images whose lesion differs from its skin by that at least, in Delta E*ab of mean colors, in
    place of the bundle's own limit: 0 for all.

    Example:
        >>> AppearanceChoice.from_values({"lesion_L": 35, "skin_a": 12}).label
        'lesion_L=35.0,skin_a=12.0'
        >>> AppearanceChoice().label  # all sampled
        'drawn'

    Raises:
        InputError: an unknown name, one given twice, a number that is not finite or that no image can have, or ``ita``
            beside the numbers that it follows from.
    """

    values: tuple[tuple[str, float], ...] = ()
    """(name, number), in the order of :data:`m2l_runtime.types.KNOWN_NAMES`, then ``ita``, then ``min_contrast``.
    Empty: all sampled."""

    given = Renamed("values")
    of = Renamed("from_values")

    def __post_init__(self) -> None:
        for name, number in self.values:
            if name not in _PLACES:
                raise InputError(
                    f"appearances have no '{printable(name[:40])}'; expected some of {list_names(KNOWN_NAMES)}, "
                    f"{skin_tone.ITA}, or {MIN_CONTRAST}"
                )
            low, high = value_range(name)
            if not low <= number <= high:
                raise InputError(f"{name} must be between {low:g} and {high:g}, got {_shown(number)}")
        names = [name for name, _ in self.values]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{twice} is given twice")
        both = next((name for name in names if name in skin_tone.COLUMNS), None)
        if skin_tone.ITA in names and both is not None:
            raise InputError(f"{skin_tone.ITA} says {' and '.join(skin_tone.COLUMNS)}; give it or {both}, not both")
        object.__setattr__(self, "values", tuple(sorted(self.values, key=lambda one: _PLACES[one[0]])))

    @classmethod
    @check_types()
    def from_values(cls, numbers: Mapping[str, float]) -> AppearanceChoice:
        """Choose some numbers by name."""
        return cls(tuple(numbers.items()))

    @classmethod
    def parse(cls, text: str) -> AppearanceChoice:
        """Parse numbers by name, and the skin's angle in degrees or by its class.

        Example:
            >>> AppearanceChoice.parse("lesion_L=35, ita=tan").values
            (('lesion_L', 35.0), ('ita', 19.0))

        Raises:
            InputError: it is not such a text; or see the class.
        """
        numbers = []
        for word in text.split(","):
            name, equals, value = word.partition("=")
            try:
                numbers.append((name.strip(), _number(name.strip(), value)))
            except ValueError:
                is_angle = name.strip() == skin_tone.ITA
                or_class = f" of degrees, or one of {', '.join(skin_tone.CLASSES)}" if is_angle else ""
                what = (
                    f"{name.strip()} must be a number{or_class}" if equals else "expected NAME=NUMBER,NAME=NUMBER,..."
                )
                raise ArgumentError(f"appearance: {printable(what[:160])}, got '{printable(word[:80])}'") from None
        return cls(tuple(numbers))

    @classmethod
    def fixed(cls, appearance: Appearance, names: Sequence[str] = NAMES) -> AppearanceChoice:
        """Choose all numbers named, such as :func:`m2l_runtime.conditioning.numbers.measure_numbers` returns.

        Args:
            appearance: float32, a number for each name.
            names: what they are.
        """
        return cls(tuple(zip(names, map(float, appearance), strict=True)))

    @property
    def label(self) -> str:
        """The choice in one line, for the log; equal choices have equal labels."""
        return self.label_for(NAMES)

    def label_for(self, names: Sequence[str]) -> str:
        """Write the choice in one line, for a bundle whose appearances have these names."""
        if not self.values:
            return "drawn"
        numbers = np.array([number for _, number in self.values], "<f4")
        given = [name for name, _ in self.values]
        words = ",".join(f"{name}={number!s}" for name, number in zip(given, numbers, strict=True))
        if tuple(given) == NAMES == tuple(names):  # as in the logs of the first bundles
            return f"all given, BLAKE2b {_short_hash(numbers.tobytes())}"
        if len(given) < len(NAMES):
            return words
        how_many = "all" if set(given) >= set(names) else str(len(given))
        return f"{how_many} given, BLAKE2b {_short_hash(words.encode())}"


def _number(name: str, value: str) -> float:
    """Read a number; of the skin's angle the name of a class, too."""
    word = value.strip().lower().replace("-", " ").replace("_", " ")
    if name == skin_tone.ITA and word in skin_tone.CLASSES:
        return skin_tone.CLASSES[word]
    if "_" in value or not value.strip().isascii():
        raise ValueError("float() would take it, a seed or JSON would not")
    return float(value)


def _shown(number: float) -> str:
    """Write a number for a message, whole ones beyond a float's range too."""
    return str(number)[:40] if isinstance(number, int) else f"{number:g}"


def _short_hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


_PLACES: Final = {name: place for place, name in enumerate((*KNOWN_NAMES, skin_tone.ITA, MIN_CONTRAST))}

RANDOM_APPEARANCE: Final = AppearanceChoice()


def value_range(name: str) -> tuple[float, float]:
    """Return the smallest and largest possible value of what a choice may ask for.

    Example:
        >>> value_range("ita"), value_range("min_contrast"), value_range("lesion_L")
        ((-90.0, 90.0), (0.0, 100.0), (0.0, 100.0))
    """
    own = {skin_tone.ITA: (-90.0, 90.0), MIN_CONTRAST: (0.0, MAX_CONTRAST)}
    return own[name] if name in own else (NUMBERS[name].low, NUMBERS[name].high)


class AppearanceSampler:
    """Sample appearances from a bundle's table, as a choice asks for.

    Where some numbers are given, one of the training images nearest in them is sampled, and the given numbers replace
    its own. So the other numbers go with them as in real images. A given angle of the skin (``ita``) turns the row's
    skin_L and skin_b onto that angle (:func:`m2l_runtime.conditioning.skin_tone.turn_to`).

    Example:
        >>> table = np.zeros((3, len(NAMES)), np.float32)
        >>> table[:, NAMES.index("skin_L")] = 5, 20, 40
        >>> sampler = AppearanceSampler(table, AppearanceChoice.parse("min_contrast=10"))
        >>> sampler.rows[:, NAMES.index("skin_L")]
        array([20., 40.], dtype=float32)

    Args:
        table: float32 (N, K), of the training images.
        choice: which appearances to sample.
        names: what the K numbers are.
        min_contrast: by how much lesion and skin of the rows to sample from differ at least, in Delta E*ab, where the
            choice does not say it.

    Raises:
        InputError: something is asked for that the table does not have.
    """

    def __init__(
        self,
        table: Appearances,
        choice: AppearanceChoice = RANDOM_APPEARANCE,
        names: Sequence[str] = NAMES,
        min_contrast: float = 0.0,
    ) -> None:
        self._names, self._table = tuple(names), table
        wanted = dict(choice.values)
        self.rows: Final = rows_of_contrast(table, self._names, wanted.pop(MIN_CONTRAST, min_contrast))
        """float32 (M, K): those of enough contrast, not to be written to."""
        self._candidates = self.rows
        self._angle = wanted.pop(skin_tone.ITA, None)
        given = list(wanted.items())
        for name in (*(name for name, _ in given), *(skin_tone.COLUMNS if self._angle is not None else ())):
            if name not in self._names:
                raise InputError(
                    f"the appearances of this bundle have no '{name}'; they have {list_names(self._names)}; leave it "
                    "out, or use a bundle of a network that was trained with it"
                )
        self._columns = [self._names.index(name) for name, _ in given]
        self._numbers = np.array([number for _, number in given], np.float32)
        rows = self.rows
        deviation = rows.std(0, np.float64)
        self._deviation = np.where(deviation > 0, deviation, 1.0)
        distances = (rows[:, self._columns] - self._numbers.astype(np.float64)) / self._deviation[self._columns]
        if self._angle is not None:
            self._skin = [self._names.index(name) for name in skin_tone.COLUMNS]
            angles = skin_tone.ita(*(rows[:, column] for column in self._skin))
            distances = np.column_stack([distances, (angles - self._angle) / (angles.std() or 1.0)])
        if distances.shape[1]:
            nearest = np.argsort((distances**2).sum(1), kind="stable")
            self._candidates = rows[nearest[: max(1, int(len(rows) * NEAREST_FRACTION))]]

    def sample(self, seed: int) -> Appearance:
        """Sample the appearance of an item: float32 (K,), owned by the caller."""
        row: Appearance = self._candidates[
            random_below(len(self._candidates), random_uint64(1, seed, "appearance"))[0]
        ].copy()
        row[self._columns] = self._numbers
        if self._angle is not None:
            row[self._skin] = skin_tone.turn_to(self._angle, *map(float, row[self._skin]))
        return row

    @property
    def warnings(self) -> list[str]:
        """A line for each given number that is far from what the network was trained with."""
        lines = []
        for column, number in zip(self._columns, self._numbers, strict=True):
            low, high = float(self._table[:, column].min()), float(self._table[:, column].max())
            far = FAR_DEVIATIONS * self._deviation[column]
            if not low - far <= number <= high + far:
                lines.append(
                    f"{self._names[column]} {number:g} is far from all that the network was trained with "
                    f"({low:.1f} to {high:.1f}); do not expect it to follow"
                )
        if self._angle is not None:
            angles = skin_tone.ita(*(self._table[:, column] for column in self._skin))
            low, high = (float(bound) for bound in np.quantile(angles, (RARE_FRACTION, 1 - RARE_FRACTION)))
            if not low <= self._angle <= high:
                lines.append(
                    f"{skin_tone.ITA} {self._angle:g} ({skin_tone.skin_class(self._angle)} skin) is outside what the "
                    f"network was trained with: {1 - 2 * RARE_FRACTION:.0%} of its images are from {low:.0f} to "
                    f"{high:.0f} degrees; do not expect it to follow"
                )
        return lines


@dataclass(frozen=True)
class Condition:
    """Hold what an item's image depends on beside its mask."""

    seed: int
    """See :func:`item_seed`."""
    appearance: Appearance | None
    """float32 (K,), not to be written to; None if the generator takes none."""
    names: tuple[str, ...] = NAMES
    """What the numbers of the appearance are."""

    @property
    def text_fields(self) -> dict[str, str]:
        """What the image's header says, by PNG text keyword."""
        fields = {"m2l-seed": str(self.seed)}
        if self.appearance is not None:
            fields["m2l-appearance"] = ",".join(
                f"{n}={v!s}" for n, v in zip(self.names, rounded(self.appearance), strict=True)
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
        BundleDamaged: the table of appearances is not what the manifest says, or has other counts.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self._mask, *self._others = manifest.inputs
        self.table: Final = None if manifest.input("appearance") is None else bundle.read_appearances()
        """float32 (count, K) of the training images, not to be written to; None if the generator takes none."""
        self.names: Final = () if manifest.appearance is None else manifest.appearance.names
        """What the K numbers of an appearance are, in order."""
        entry = manifest.appearance
        self._min_contrast = 0.0 if entry is None or entry.sampled_count is None else entry.min_contrast
        self.sampler: Final = None if entry is None else self._bundle_sampler(bundle.path, entry)
        """Samples appearances where none are given."""

    def _bundle_sampler(self, path: Path, entry: AppearanceTable) -> AppearanceSampler:
        try:
            sampler = self.sampler_for(RANDOM_APPEARANCE)
        except InputError:  # no row has such a contrast, or its colors are not there
            sampler = None
        found = 0 if sampler is None else len(sampler.rows)
        if sampler is None or entry.sampled_count not in (None, found):
            raise BundleDamaged(
                f"{printable(path / entry.file.path)} has {found:,} appearances of a contrast of "
                f"{entry.min_contrast:g} at least; the manifest says {entry.sampled_count}; export the bundle again"
            )
        return sampler

    @property
    def is_random(self) -> bool:
        """Whether other seeds give other images of a mask."""
        return bool(self._others)

    def sampler_for(self, choice: AppearanceChoice) -> AppearanceSampler:
        """Return what samples appearances as a choice asks for.

        Raises:
            InputError: the generator takes none, or something is asked for that the table does not have.
        """
        if self.table is None:
            raise InputError(TAKES_NO_APPEARANCE)
        return AppearanceSampler(self.table, choice, self.names, self._min_contrast)

    def arrays(
        self, masks: Masks, seeds: Sequence[int] | None = None, appearances: Appearances | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Make all inputs of the generator, by name, the mask first.

        Args:
            masks: uint8 (N, H, W).
            seeds: N of them, 0..2^64-1; None: :func:`mask_seed` of each mask.
            appearances: float32 (N, K); None: sampled with the seeds.

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


def sampled_appearances(bundle: Bundle) -> Appearances:
    """Read the rows (M, K) that a bundle samples from where nothing is asked for.

    Raises:
        InputError: its generator takes no appearance.
        BundleDamaged: the table of appearances is not what the manifest says.
    """
    rows: Appearances = ExtraInputs(bundle).sampler_for(RANDOM_APPEARANCE).rows
    return rows


TAKES_NO_APPEARANCE: Final = (
    "the generator of this bundle takes no appearance; leave it out, or use a bundle of a network that was trained "
    "with appearances (m2l train --appearance)"
)


def _sample_appearances(extra: ExtraInputs, spec: TensorSpec, seeds: Sequence[int]) -> npt.NDArray[Any]:
    assert extra.sampler is not None  # noqa: S101 - a manifest with this role has the table
    rows = [extra.sampler.sample(seed) for seed in seeds]
    return np.stack(rows) if rows else np.empty((0, len(extra.names)), np.float32)


def _sample_bytes(extra: ExtraInputs, spec: TensorSpec, seeds: Sequence[int]) -> npt.NDArray[Any]:
    size = next(side for side in spec.shape if isinstance(side, int))
    rows = np.empty((len(seeds), size), np.uint8)
    for row, seed in zip(rows, seeds, strict=True):
        row[:] = random_bytes(seed, size, spec.role)
    return rows


SAMPLERS: Final[Mapping[str, Callable[[ExtraInputs, TensorSpec, Sequence[int]], npt.NDArray[Any]]]] = {
    "appearance": _sample_appearances,
    "dropout_bits": _sample_bytes,
    "noise": _sample_bytes,
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
        self.label: Final = None if extra.table is None else choice.label_for(extra.names)
        """The choice of appearances in one line; None if the generator takes none."""
        self._names = extra.names
        self._sampler = extra.sampler
        if choice.values and extra.table is not None:
            self._sampler = extra.sampler_for(choice)

    def for_item(self, name: str, sample: int = 1) -> Condition | None:
        """Sample the condition of an item; None if the generator takes the mask alone. See :func:`item_seed`."""
        if self.seed is None:
            return None
        return self.for_seed(item_seed(self.seed, name, sample))

    def for_seed(self, seed: int) -> Condition:
        """Sample the condition of an item by a seed of its own, 0..2^64-1."""
        return Condition(seed, None if self._sampler is None else self._sampler.sample(seed), self._names)


Seeds: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]] | Literal["fresh"] | np.random.Generator | random.Random
"""What a call takes as seeds: one for each mask, or where they are drawn from."""


def draw_seeds(seeds: Any, count: int) -> list[int]:
    """Return the seeds of `count` masks: those given, or drawn from what is given.

    Example:
        >>> draw_seeds([1, 2], 2), len(draw_seeds("fresh", 3))
        ([1, 2], 3)
        >>> draw_seeds(np.random.default_rng(0), 1) == draw_seeds(np.random.default_rng(0), 1)
        True

    Raises:
        ArrayError: see :func:`check_seeds`.
    """
    if isinstance(seeds, str) and seeds == "fresh":
        return [secrets.randbits(64) for _ in range(count)]
    if isinstance(seeds, np.random.Generator):
        drawn: list[int] = seeds.integers(0, _MAX_SEED, count, np.uint64, endpoint=True).tolist()
        return drawn
    if isinstance(seeds, random.Random):
        return [seeds.getrandbits(64) for _ in range(count)]
    return check_seeds(seeds, count)


def check_seeds(seeds: Any, count: int) -> list[int]:
    """Check the seeds of `count` masks, and return them as integers.

    Raises:
        ArrayError: not a sequence of that many integers, or one out of 0..2^64-1.
    """
    expected = f"seeds must be ({count},) integers from 0 to 2^64-1"
    if isinstance(seeds, str) or (not isinstance(seeds, np.ndarray) and hasattr(seeds, "__next__")):
        raise ArrayError(f"{expected}, 'fresh', or a numpy.random.Generator, got {seeds!r:.80}")
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


def check_appearances(appearances: Any, count: int, names: Sequence[str] = NAMES) -> Appearances:
    """Check the appearances of `count` masks; a single one (K,) is for all of them.

    Args:
        appearances: what a caller gave.
        count: of masks.
        names: what the K numbers are.

    Returns:
        float32 (count, K), not to be written to.

    Raises:
        ArrayError: wrong shape or type, or numbers that are not finite.
    """
    size = len(names)
    expected = f"appearances must be ({count}, {size}) or ({size},) float32"
    if not isinstance(appearances, np.ndarray):
        raise ArrayError(f"{expected}, got {describe(appearances)}")
    if appearances.shape not in ((count, size), (size,)) or appearances.dtype != np.float32:
        advice = "; write appearances.astype(numpy.float32)" if appearances.dtype == np.float64 else ""
        raise ArrayError(f"{expected}, got {describe(appearances)}{advice}")
    if not np.isfinite(appearances).all():
        raise ArrayError(f"{expected} and finite, got values that are infinite or undefined")
    return np.broadcast_to(appearances, (count, size))
