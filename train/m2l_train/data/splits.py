"""Assign pairs to splits."""

from __future__ import annotations

import csv
import io
import itertools
import stat
from collections.abc import Sequence
from pathlib import Path

from m2l_runtime._utils.text import printable, utf8
from m2l_runtime.conditioning.random import random_uint64
from m2l_runtime.errors import InputError
from m2l_train.data.pairing import Pair, pair_key
from m2l_train.data.prepare_options import PrepareOptions, PrepareReport, check_split_name, utf8_names


def split_pairs(pairs: Sequence[Pair], options: PrepareOptions, report: PrepareReport) -> dict[str, str]:
    """Assign each pair to a split, by its name. The result depends on seed, names and shares, not on their order."""
    if options.split_file is not None:
        return _read_split_file(Path(options.split_file), pairs, report)
    ranked = sorted((int(random_uint64(1, options.seed, "split", utf8(pair.name))[0]), pair.name) for pair in pairs)
    ends = [round(share * len(pairs)) for share in itertools.accumulate(options.splits.values())]
    split_of: dict[str, str] = {}
    start = 0
    for split, end in zip(options.splits, ends, strict=True):
        split_of.update((name, split) for _, name in ranked[start:end])
        start = end
    return split_of


def _read_split_file(path: Path, pairs: Sequence[Pair], report: PrepareReport) -> dict[str, str]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{printable(path)} is not a plain file; expected a CSV file of splits")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {printable(path)}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return _splits_in(text, path, pairs, report)
    except csv.Error as error:
        raise InputError(f"{printable(path)} is no CSV file of splits: {error}") from None


def _splits_in(text: str, path: Path, pairs: Sequence[Pair], report: PrepareReport) -> dict[str, str]:
    rows = csv.DictReader(io.StringIO(text))
    columns = {str(c).strip().lower(): c for c in rows.fieldnames or ()}
    name_column = next((columns[c] for c in ("name", "id", "image", "image_id") if c in columns), None)
    if name_column is None or "split" not in columns:
        got = printable(", ".join(map(str, rows.fieldnames or ()))) or "nothing"
        raise InputError(f"{printable(path)} has the columns {got}; expected name (or id, image) and split")
    wanted: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        name, split = (row[name_column] or "").strip(), (row[columns["split"]] or "").strip()
        check_split_name(split, f"{printable(path)} line {number}")
        key = pair_key(name)
        if wanted.setdefault(key, split) != split:
            raise InputError(f"{printable(path)} line {number}: {printable(name)} is in two splits")
    split_of = {pair.name: wanted.pop(pair_key(pair.name)) for pair in pairs if pair_key(pair.name) in wanted}
    report.not_in_split_file = utf8_names([pair.name for pair in pairs if pair.name not in split_of])
    report.only_in_split_file = utf8_names(sorted(wanted))
    if not split_of:
        raise InputError(f"{printable(path)} names none of the {len(pairs)} pairs; expected names as {pairs[0].name}")
    return split_of
