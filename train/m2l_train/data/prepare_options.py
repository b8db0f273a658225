"""Hold the options of data preparation, and its report."""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.sides import plain_sides, read_sides
from m2l_runtime._utils.text import printable, utf8
from m2l_runtime.errors import InputError
from m2l_train.config import check_integer
from m2l_train.data.data_folder import IMAGES, MASKS
from m2l_train.data.pairing import PairPattern

COMBINED: Final = "combined"

DEFAULT_SIZE: Final = 286

DEFAULT_SPLITS: Final[Mapping[str, float]] = {"train": 0.9, "val": 0.1}

MAX_NAMED: Final = 1000
"""Names of each kind in a report; the count is of all."""


@check_types()
@dataclass(frozen=True)
class PrepareOptions:
    """Hold what `prepare` writes.

    Example:
        >>> PrepareOptions(size=64, splits={"train": 0.8, "val": 0.2}).seed
        0

    Raises:
        InputError: a value is out of range, or of another type.
    """

    size: int | str | tuple[int, int] = DEFAULT_SIZE
    """Side in pixels of the pictures written, or height x width as 286x572 or (286, 572): what training resizes to
    before its random crop."""
    splits: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_SPLITS))
    """Share of each split; they add up to 1."""
    seed: int = 0
    """Seed of the split."""
    split_file: str | os.PathLike[str] | None = None
    """CSV with the columns `name` (or `id`, `image`) and `split`, instead of shares."""
    combined: bool = False
    """Also write combined A|B pictures, with the mask on the left."""
    pair_pattern: str | None = None
    """How photographs and masks are named; see `m2l_train.data.pairing.PairPattern`."""
    group_file: str | os.PathLike[str] | None = None
    """CSV with the columns `name` (or `id`, `image`) and `group_column`: no group is in two splits."""
    group_column: str | None = None
    """Name of the column of groups; None: `group`, or one of patient, lesion or subject, with or without `_id`."""

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels of the pictures written."""
        return read_sides(self.size, "the size")

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_integer("the seed", self.seed, 0, (1 << 63) - 1))
        sides = read_sides(self.size, "the size")
        for side in sides:
            check_integer("the size", side, 16, 4096)
        object.__setattr__(self, "size", plain_sides(sides))
        if self.split_file is not None:
            object.__setattr__(self, "split_file", require_path(self.split_file, "the split file"))
        if self.group_file is not None:
            object.__setattr__(self, "group_file", require_path(self.group_file, "the group file"))
        elif self.group_column is not None:
            raise InputError(f"the column of groups '{printable(self.group_column)}' has no group file to be in")
        if self.pair_pattern is not None:
            PairPattern.parse(self.pair_pattern)
        for name, share in self.splits.items():
            check_split_name(name, "--split")
            given: object = share
            if isinstance(given, bool) or not isinstance(given, numbers.Real):
                raise InputError(f"the share of split '{printable(name)}' must be a number, got {share!r}")
            if not 0 <= share <= 1:
                raise InputError(f"the share of split '{printable(name)}' must be between 0 and 1, got {share:g}")
        if self.split_file is None and abs(sum(self.splits.values()) - 1) > 1e-6:
            shares = ", ".join(f"{printable(n)} {s:g}" for n, s in self.splits.items())
            raise InputError(f"the shares of the splits must add up to 1, got {shares}")


class PrepareReport(msgspec.Struct, kw_only=True):
    """Report which pairs there were and what became of them; report.json.

    Example:
        >>> PrepareReport(pairs=2, prepared=2).left_out
        []
    """

    pairs: int = 0
    """Pairs found by name."""
    prepared: int = 0
    kept: int = 0
    """Of these, those an earlier call had made."""
    splits: dict[str, int] = {}
    images_without_mask: list[str] = []
    masks_without_image: list[str] = []
    ambiguous: list[str] = []
    not_in_split_file: list[str] = []
    only_in_split_file: list[str] = []
    not_in_group_file: list[str] = []
    """Pairs that the group file does not name; each is a group of its own."""
    left_out: list[str] = []
    """Messages about pairs that cannot be used."""
    sizes_differ: list[str] = []
    """Pairs of one aspect but two sizes; they are used."""
    empty_masks: list[str] = []
    full_masks: list[str] = []
    other_notes: dict[str, int] = {}
    """greyscale, CMYK, ...: how many photographs."""
    near_duplicates: list[tuple[str, str, float]] = []
    """(split/name, split/name, likeness) of photographs in two splits; see m2l_train.data.near_duplicates."""
    warnings: list[str] = []
    """Lines about what may not be intended."""
    was_stopped: bool = False


def check_split_name(name: str, where: str) -> None:
    """Make sure that `name` can be the name of a split.

    Raises:
        InputError: it is no string, is empty, too long, reserved, or has other characters than letters, digits, - and
            _; the message begins with `where`.
    """
    if not isinstance(name, str):
        raise InputError(f"{where}: the name of a split must be a string, got {name!r}")
    allowed = name and name.replace("-", "").replace("_", "").isalnum() and name.isascii()
    if not allowed or name in (COMBINED, IMAGES, MASKS) or len(name) > 64:
        raise InputError(f"{where}: '{printable(name)}' cannot be the name of a split; use letters, digits, - and _")


def require_path(value: str | os.PathLike[str], what: str) -> Path:
    """Return `value` as a path that a file system can be asked about.

    Raises:
        InputError: it is no path, or holds a NUL character.
    """
    name = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(name, str) or "\0" in name:
        raise InputError(f"{what} must be a path without NUL, got {value!r}")
    return Path(name)


def utf8_names(names: Sequence[str]) -> list[str]:
    """Return the names with bytes that are not UTF-8 escaped."""
    return [utf8(name) for name in names]
