"""Assign pairs to splits."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from m2l_runtime._utils.reading import read_input, reader_errors
from m2l_runtime._utils.text import plural, printable, utf8
from m2l_runtime.conditioning.random import random_uint64
from m2l_runtime.errors import InputError
from m2l_train.data.pairing import Pair, pair_key
from m2l_train.data.prepare_options import PrepareOptions, PrepareReport, check_split_name, utf8_names

GROUP_COLUMNS: Final = ("group", "group_id", "patient", "patient_id", "lesion", "lesion_id", "subject", "subject_id")
"""Names of the column of groups, the first that is there."""

_MAX_CSV_BYTES: Final = 1 << 28
_NAME_COLUMNS: Final = ("name", "id", "image", "image_id", "isic_id")


def split_pairs(pairs: Sequence[Pair], options: PrepareOptions, report: PrepareReport) -> dict[str, str]:
    """Assign each pair to a split, by its name. The result depends on seed, names and shares, not on their order.

    Where groups are told, whole groups are assigned, in an order that the seed draws, until a split has its share.

    Raises:
        InputError: a file of splits or groups is not one, or the splits cut a group.
    """
    if options.split_file is not None:
        split_of = _read_split_file(Path(options.split_file), pairs, report)
        check_groups([pair for pair in pairs if pair.name in split_of], split_of, options, report)
        return split_of
    if options.group_file is not None:
        return _split_groups(pairs, options, report)
    ranked = sorted((_rank(options.seed, pair.name), pair.name) for pair in pairs)
    ends = [round(share * len(pairs)) for share in itertools.accumulate(options.splits.values())]
    split_of = {}
    start = 0
    for split, end in zip(options.splits, ends, strict=True):
        split_of.update((name, split) for _, name in ranked[start:end])
        start = end
    return split_of


def _rank(seed: int, name: str) -> int:
    return int(random_uint64(1, seed, "split", utf8(name))[0])


def _split_groups(pairs: Sequence[Pair], options: PrepareOptions, report: PrepareReport) -> dict[str, str]:
    """Assign each group to the split that lacks most of its share; large groups first, as they fit worst."""
    members: dict[str, list[str]] = {}
    for name, group in _groups(pairs, options, report).items():
        members.setdefault(group, []).append(name)
    ranked = sorted(members, key=lambda group: (-len(members[group]), _rank(options.seed, group), group))
    room = {split: share * len(pairs) for split, share in options.splits.items()}
    split_of: dict[str, str] = {}
    for group in ranked:
        size = len(members[group])
        fitting = [split for split, left in room.items() if left >= size - 0.5 and left > 0] or list(room)
        at = _rank(options.seed, f"place of {group}") / 2**64 * sum(max(room[split], 1e-9) for split in fitting)
        ends = itertools.accumulate(max(room[split], 1e-9) for split in fitting)
        split = next((split for split, end in zip(fitting, ends, strict=True) if at < end), fitting[-1])
        room[split] -= size
        split_of.update(dict.fromkeys(members[group], split))
    return split_of


def check_groups(
    pairs: Sequence[Pair], split_of: Mapping[str, str], options: PrepareOptions, report: PrepareReport
) -> None:
    """Make sure that splits that are given leave every group whole.

    Raises:
        InputError: one has pairs in two splits.
    """
    if options.group_file is None:
        return
    first: dict[str, str] = {}
    cut: dict[str, tuple[str, str]] = {}
    for name, group in _groups(pairs, options, report).items():
        other = first.setdefault(group, name)
        if split_of[other] != split_of[name]:
            cut.setdefault(group, (other, name))
    if cut:
        group, (one, other) = next(iter(cut.items()))
        raise InputError(
            f"the splits cut {plural(len(cut), 'group')} of {printable(Path(options.group_file))}, such as "
            f"{printable(group)}: {printable(one)} is in {split_of[one]}, {printable(other)} in {split_of[other]}; "
            "expected each in one split, as --split makes them with --group-file"
        )


def _groups(pairs: Sequence[Pair], options: PrepareOptions, report: PrepareReport) -> dict[str, str]:
    """Return the group of each pair by its name; what the file does not name is a group of its own."""
    assert options.group_file is not None  # noqa: S101 - the callers ask
    path = Path(options.group_file)
    columns = GROUP_COLUMNS if options.group_column is None else (options.group_column.strip().lower(),)
    what = " or ".join(columns[:5])
    group_by_key: dict[str, str] = {}
    for number, name, group in _rows(path, "groups", columns, what):
        if group and group_by_key.setdefault(pair_key(name), group) != group:
            raise InputError(f"{printable(path)} line {number}: {printable(name)} is in two groups")
    groups = {pair.name: group_by_key.get(_key_in(group_by_key, pair)) for pair in pairs}
    report.not_in_group_file = utf8_names([name for name, group in groups.items() if group is None])
    if len(report.not_in_group_file) == len(groups):
        raise InputError(f"{printable(path)} names none of the {len(pairs)} pairs; expected names as {pairs[0].name}")
    return {name: f"group {group}" if group is not None else f"pair {name}" for name, group in groups.items()}


def _key_in(table: Mapping[str, str], pair: Pair) -> str:
    """Return the key by which a table names a pair: its photograph's name, or what it shares with its mask's."""
    own = pair_key(pair.name)
    return own if own in table else pair.key


def _read_split_file(path: Path, pairs: Sequence[Pair], report: PrepareReport) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for number, name, split in _rows(path, "splits", ("split",), "split"):
        check_split_name(split, f"{printable(path)} line {number}")
        if wanted.setdefault(pair_key(name), split) != split:
            raise InputError(f"{printable(path)} line {number}: {printable(name)} is in two splits")
    keys = {pair.name: key for pair in pairs if (key := _key_in(wanted, pair)) in wanted}
    split_of = {name: wanted[key] for name, key in keys.items()}
    for key in set(keys.values()):
        del wanted[key]
    report.not_in_split_file = utf8_names([pair.name for pair in pairs if pair.name not in split_of])
    report.only_in_split_file = utf8_names(sorted(wanted))
    if not split_of:
        raise InputError(f"{printable(path)} names none of the {len(pairs)} pairs; expected names as {pairs[0].name}")
    return split_of


def _rows(path: Path, what: str, columns: Sequence[str], expected: str) -> list[tuple[int, str, str]]:
    """Read (line, name, value of the first of `columns` that is there) of a CSV file.

    Raises:
        InputError: it cannot be read, is no CSV file, or lacks a column.
    """
    with reader_errors(InputError, path, f"is no CSV file of {what}"):
        text = read_input(path, _MAX_CSV_BYTES).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text))
        by_name = {str(c).strip().lower(): c for c in rows.fieldnames or ()}
        name_column, value_column = (
            next((by_name[c] for c in wanted if c in by_name), None) for wanted in (_NAME_COLUMNS, columns)
        )
        if name_column is None or value_column is None:
            got = printable(", ".join(map(str, rows.fieldnames or ()))) or "nothing"
            raise InputError(f"{printable(path)} has the columns {got}; expected name (or id, image) and {expected}")
        return [
            (number, (row[name_column] or "").strip(), (row[value_column] or "").strip())
            for number, row in enumerate(rows, 2)
        ]
