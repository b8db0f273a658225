"""Plan the experiment: its options, and its cells, each one segmenter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._utils.text import printable
from m2l_runtime.conditioning.conditions import AppearanceChoice
from m2l_runtime.errors import InputError
from m2l_train.evaluate.segmenter import SegmenterSpec
from m2l_train.evaluate.usefulness.arms import ARMS, find_arm

FRACTIONS: Final = (5.0, 25.0, 100.0)
SEEDS: Final = 5
STEPS: Final = 600
WIDTH: Final = 16
SIDE: Final = 96
CHECKS: Final = 20
"""How often the validation pairs are looked at, evenly spaced over the steps."""
VALIDATION_SHARE: Final = 0.2
MAX_VALIDATION: Final = 100
MIN_TRAINING: Final = 4
MIN_VALIDATION: Final = 2
MAX_RATIO: Final = 100.0
MAX_SEEDS: Final = 1000
MAX_STEPS: Final = 10_000_000

MaskWay = Literal["as-they-are", "deform", "pca"]
"""How masks to synthesize from are made of an arm's training masks."""
SegmenterPrecision = Literal["auto", "fp32", "bf16"]
"""What segmenters are trained in; auto is bf16 where it is fast. They are tested in fp32."""
Use = Literal["mixed", "pretrain"]
"""Whether real and synthesized pairs are in every batch, or synthesized ones are seen first and real ones after."""


@check_types()
@dataclass(frozen=True)
class UsefulnessOptions:
    """Hold what the experiment may be told.

    Example:
        >>> options = UsefulnessOptions(arms=("ClassicAug", "AllAug"), fractions=(5.0,), seeds=3)
        >>> len(cells(options)), cells(options)[1].name
        (6, 'AllAug-5pct-seed0')

    Raises:
        InputError: a value is out of range, or there is no such arm.
    """

    arms: tuple[str, ...] = tuple(ARMS)
    fractions: tuple[float, ...] = FRACTIONS
    """Of the real training pairs, in percent."""
    seeds: int = SEEDS
    """How many: 0, 1, ... Each draws other pairs, weights, orders and appearances, the same for all arms."""
    steps: int = STEPS
    """Of each segmenter."""
    width: int = WIDTH
    """Channels of the segmenter's first level."""
    side: int = SIDE
    """Pixels of the squares that images and masks are brought to."""
    ratio: float = 1.0
    """Synthesized images for each real training pair."""
    share: float | None = None
    """Of the images seen, those that are synthesized; None: ratio / (1 + ratio), as many as there are."""
    use: Use = "mixed"
    masks: MaskWay = "as-they-are"
    appearance: str | None = None
    """Numbers of the appearances to synthesize with, as :meth:`m2l_runtime.AppearanceChoice.parse` reads them; None:
    sampled as the bundle says."""
    precision: SegmenterPrecision = "auto"
    device: str = "auto"
    """Of the segmenter: auto | cpu | cuda | cuda:N."""
    threads: int | None = None
    """CPU threads of PyTorch and of the engine; None: as many CPUs as this process may use."""
    workers: int | None = None
    """Threads that read pictures; None: likewise."""
    mask_is_left: bool = True
    """Of combined pictures."""

    def __post_init__(self) -> None:
        arms = {find_arm(name).name for name in self.arms}
        if not arms or len(arms) < len(self.arms):
            raise InputError(f"expected some of the arms {', '.join(ARMS)}, each once, got {', '.join(self.arms)}")
        object.__setattr__(self, "arms", tuple(name for name in ARMS if name in arms))
        bad = next((one for one in self.fractions if not (math.isfinite(one) and 0 < one <= 100)), None)
        if bad is not None:
            raise InputError(f"a fraction is above 0 and at most 100 percent, got {bad:g}")
        if not self.fractions or len({fraction_name(one) for one in self.fractions}) < len(self.fractions):
            raise InputError("expected fractions in percent, each once, such as 5,25,100")
        object.__setattr__(self, "fractions", tuple(sorted(float(one) for one in self.fractions)))
        for name, word, choices in (
            ("masks", self.masks, MaskWay),
            ("use", self.use, Use),
            ("precision", self.precision, SegmenterPrecision),
        ):
            if word not in get_args(choices):
                raise InputError(f"{name} must be {' or '.join(get_args(choices))}, got '{printable(word[:40])}'")
        for name, value, most in (("seeds", self.seeds, MAX_SEEDS), ("steps", self.steps, MAX_STEPS)):
            if not 1 <= value <= most:
                raise InputError(f"the number of {name} must be between 1 and {most:,}, got {value:,}")
        if not 0 < self.ratio <= MAX_RATIO:
            raise InputError(f"the ratio must be above 0 and at most {MAX_RATIO:g}, got {self.ratio:g}")
        if self.share is not None and not 0 < self.share < 1:
            raise InputError(f"the share of synthesized images must be above 0 and below 1, got {self.share:g}")
        if any(value is not None and value < 1 for value in (self.threads, self.workers)):
            raise InputError("threads and workers must be at least 1")
        if self.side < 32:
            raise InputError(f"the side must be at least 32 pixels, got {self.side}")
        _ = self.spec, self.appearance_choice

    @property
    def spec(self) -> SegmenterSpec:
        """Layout of the segmenter."""
        return SegmenterSpec(width=self.width, side=self.side)

    @property
    def appearance_choice(self) -> AppearanceChoice | None:
        """`appearance`, parsed."""
        return None if self.appearance is None else AppearanceChoice.parse(self.appearance)

    @property
    def synthesized_share(self) -> float:
        """`share`, or what the ratio gives."""
        return self.ratio / (1 + self.ratio) if self.share is None else self.share

    @property
    def thread_count(self) -> int:
        """`threads`, or as many as there are CPUs."""
        return usable_cpus() if self.threads is None else self.threads

    @property
    def worker_count(self) -> int:
        """`workers`, or as many as there are CPUs."""
        return usable_cpus() if self.workers is None else self.workers


@check_types()
@dataclass(frozen=True)
class UsefulnessCallbacks:
    """Follow the experiment, and end it.

    Example:
        >>> UsefulnessCallbacks(on_note=print).on_note("AllAug, 5 %, seed 0: Dice 0.78")
        AllAug, 5 %, seed 0: Dice 0.78
    """

    on_start: Callable[[int, int], None] = lambda total, done: None
    """Called with the number of steps of this shard, and of those done before."""
    on_steps: Callable[[int], None] = lambda count: None
    on_note: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False
    """Asked before every step; what is done of a cell is then lost."""


@dataclass(frozen=True)
class Cell:
    """Name one segmenter of the experiment."""

    arm: str
    fraction: float
    """In percent."""
    seed: int

    @property
    def draw(self) -> str:
        """Of its fraction and seed, which arms share."""
        return draw_name(self.fraction, self.seed)

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"{self.arm}-{self.draw}"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.arm}, {self.fraction:g} %, seed {self.seed}"


def fraction_name(fraction: float) -> str:
    """Write a fraction for a file's name: 12.5 as 12.5."""
    return f"{fraction:g}"


def draw_name(fraction: float, seed: int) -> str:
    """Name the pairs drawn for a fraction and seed, for files and folders: 5pct-seed0."""
    return f"{fraction_name(fraction)}pct-seed{seed}"


def draws(options: UsefulnessOptions) -> list[tuple[float, int]]:
    """List each (fraction, seed).

    Example:
        >>> draws(UsefulnessOptions(fractions=(5.0, 25.0), seeds=2))
        [(5.0, 0), (5.0, 1), (25.0, 0), (25.0, 1)]
    """
    return [(fraction, seed) for fraction in options.fractions for seed in range(options.seeds)]


def cells(options: UsefulnessOptions) -> list[Cell]:
    """List all cells; arms that share pairs and synthesized images stand together."""
    return [Cell(arm, fraction, seed) for fraction, seed in draws(options) for arm in options.arms]


def of_shard(items: Sequence[Cell], shard: tuple[int, int]) -> list[Cell]:
    """Return every N-th cell, from the I-th, of shard (I, N)."""
    return list(items[shard[0] - 1 :: shard[1]])
