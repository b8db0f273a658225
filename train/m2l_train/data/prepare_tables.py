"""Complete the report of a preparation, and write its tables."""

from __future__ import annotations

import csv
import io
import itertools
import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from m2l_runtime._utils import atomic
from m2l_runtime._version import __version__
from m2l_train.data.data_folder import DATASET_FILE, TRAIN
from m2l_train.data.near_duplicates import Descriptor, near_duplicates
from m2l_train.data.prepare_job import PAIRS, REPORT, TAG, Prepared
from m2l_train.data.prepare_options import MAX_NAMED, PrepareOptions, PrepareReport

ENLARGED_NOTE: Final = "smaller than --size, enlarged"


def fill_report(report: PrepareReport, prepared: Sequence[Prepared], options: PrepareOptions) -> None:
    """Count splits and notes, and look for near duplicates; `report` is changed in place."""
    splits = list(options.splits) if options.split_file is None else []
    report.splits = dict.fromkeys(splits, 0)
    for record in prepared:
        report.splits[record.split] = report.splits.get(record.split, 0) + 1
        named = {"empty": report.empty_masks, "full": report.full_masks, "sizes differ": report.sizes_differ}
        smaller = record.original_size is not None and any(map(operator.lt, record.original_size, options.sides))
        for note in (*record.notes, *((ENLARGED_NOTE,) if smaller else ())):
            if note in named:
                named[note].append(record.name)
            else:
                report.other_notes[note] = report.other_notes.get(note, 0) + 1
    if TRAIN not in report.splits:
        report.warnings.append(f"there is no split called {TRAIN}, which is what m2l train reads")
    for split, count in report.splits.items():
        wanted = options.split_file is not None or options.splits.get(split, 0) > 0
        if not count and wanted and not report.was_stopped:
            report.warnings.append(f"no pair is in the split {split}")
    report.near_duplicates = [
        (f"{one.split}/{one.name}", f"{other.split}/{other.name}", round(likeness, 4))
        for one, other, likeness in _across_splits(prepared)
    ]


def _across_splits(made: Sequence[Prepared]) -> Iterator[tuple[Prepared, Prepared, float]]:
    by_split: dict[str, list[Prepared]] = {}
    for record in made:
        by_split.setdefault(record.split, []).append(record)
    for one, other in itertools.combinations(by_split.values(), 2):
        for row, column, likeness in near_duplicates(_stacked(one), _stacked(other)):
            yield one[row], other[column], likeness


def _stacked(records: Sequence[Prepared]) -> Descriptor:
    return np.stack([np.frombuffer(record.descriptor, np.float16).astype(np.float32) for record in records])


def write_tables(root: Path, made: Sequence[Prepared], options: PrepareOptions, report: PrepareReport) -> None:
    """Write pairs.csv, report.json and dataset.json."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("name", "split", "image", "mask", "height", "width", "lesion_fraction", "notes"))
    for record in made:
        height, width = record.original_size or (0, 0)
        row = (record.name, record.split, record.image, record.mask, height, width, record.lesion_fraction)
        writer.writerow((*row, "; ".join(record.notes)))
    atomic.write_file(root / PAIRS, buffer.getvalue().encode(), tag=TAG)
    capped = {
        f: value[:MAX_NAMED] if isinstance(value := getattr(report, f), list) else value
        for f in report.__struct_fields__
    }
    atomic.write_file(root / REPORT, msgspec.json.format(msgspec.json.encode(capped), indent=2) + b"\n", tag=TAG)
    facts = {
        "format": 1,
        "m2l": __version__,
        "size": options.size,
        "seed": options.seed,
        "splits": report.splits,
        "resampling": "bicubic, antialiased, the frame squashed",
    }
    atomic.write_file(root / DATASET_FILE, msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n", tag=TAG)
