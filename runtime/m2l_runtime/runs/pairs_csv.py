"""Write the tables of a run with pairs from the logs of an output folder.

pairs.csv is for segmentation trainers. metadata.csv makes the folder one that Hugging Face datasets reads as pairs:
``load_dataset("imagefolder", data_dir=OUT)``: https://huggingface.co/docs/datasets/image_dataset
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Final

from m2l_runtime._utils import atomic
from m2l_runtime._utils.file_lock import LockBusyError, hold
from m2l_runtime._utils.text import printable, stem, utf8
from m2l_runtime.conditioning.conditions import item_seed
from m2l_runtime.errors import OutputError
from m2l_runtime.masks.samples import source_mask
from m2l_runtime.output.writers.base import Writer
from m2l_runtime.runs.checks import METADATA, PAIRS, Run
from m2l_runtime.runs.log import LogIndex

_LOCK: Final = ".m2l-pairs-lock"
_PATIENCE_S: Final = 600.0
_BUFFER_CHARACTERS: Final = 1 << 16

Cells = Sequence[str | int]


def write_pairs(run: Run, writer: Writer, tag: str) -> None:
    """Write both tables from the logs of all shards, in input order. The shard that ends last makes them complete.

    Columns of pairs.csv: image, mask, source (the mask's file), seed (of the image, as a call of a synthesizer takes
    it; empty where the generator takes the mask alone), mask_seed (that masks are drawn with; empty where they are
    files). Of metadata.csv: file_name (which datasets reads as ``image``), mask_file_name (``mask``), source.

    Raises:
        OutputError: one cannot be written.
    """
    try:
        with atomic.output_errors(run.out / PAIRS), hold(run.out / _LOCK, timeout_s=_PATIENCE_S):
            _write_tables(run, writer, tag)
    except LockBusyError as busy:
        raise OutputError(
            f"another m2l run has been writing {printable(run.out / PAIRS)} for {_PATIENCE_S:.0f} s; --resume writes "
            f"it anew{busy.advice}"
        ) from None


def _write_tables(run: Run, writer: Writer, tag: str) -> None:
    index = LogIndex(run.out, run.masks.names)
    try:
        rows = _rows(run, writer, index)
        _write_table(run, PAIRS, tag, itertools.chain([("image", "mask", "source", "seed", "mask_seed")], rows))
        files = (row[:3] for row in _rows(run, writer, index))
        _write_table(run, METADATA, tag, itertools.chain([("file_name", "mask_file_name", "source")], files))
    finally:
        index.close()


def _rows(run: Run, writer: Writer, index: LogIndex) -> Iterator[Cells]:
    """Yield the rows of pairs.csv: those of images that a log says are there."""
    for place, name in enumerate(run.masks.names):
        record = index.get(place)
        targets = [utf8(target) for target in writer.targets(name, place)]
        if record is None or record.problem is not None or record.outputs != targets:
            continue
        source, sample = source_mask(run.masks, name)
        seed: str | int = "" if record.image_seed is None else item_seed(record.image_seed, stem(source), sample)
        yield (*targets, utf8(source), seed, "" if record.seed is None else record.seed)


def _write_table(run: Run, name: str, tag: str, rows: Iterator[Cells]) -> None:
    file = atomic.HashedFile(run.out / name, tag=tag)
    try:
        buffer = io.StringIO(newline="")
        table = csv.writer(buffer, lineterminator="\n")
        for row in rows:
            table.writerow(row)
            if buffer.tell() > _BUFFER_CHARACTERS:
                file.write(buffer.getvalue().encode())
                buffer.seek(0)
                buffer.truncate()
        file.write(buffer.getvalue().encode())
        file.commit()
    finally:
        file.discard()
