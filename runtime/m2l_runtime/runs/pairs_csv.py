"""Write pairs.csv, the table that segmentation trainers read, from the logs of an output folder."""

from __future__ import annotations

import csv
import io
from typing import Final

from m2l_runtime._utils import atomic
from m2l_runtime._utils.file_lock import LockBusyError, hold
from m2l_runtime._utils.text import printable, utf8
from m2l_runtime.errors import OutputError
from m2l_runtime.masks.samples import source_mask
from m2l_runtime.output.writers.base import Writer
from m2l_runtime.runs.checks import Run
from m2l_runtime.runs.log import LogIndex

PAIRS: Final = "pairs.csv"
_LOCK: Final = ".m2l-pairs-lock"
_PATIENCE_S: Final = 600.0


def write_pairs(run: Run, writer: Writer, tag: str) -> None:
    """Write pairs.csv from the logs of all shards, in input order. The shard that ends last makes it complete.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with atomic.output_errors(run.out / PAIRS), hold(run.out / _LOCK, timeout_s=_PATIENCE_S):
            _write(run, writer, tag)
    except LockBusyError as busy:
        raise OutputError(
            f"another m2l run has been writing {printable(run.out / PAIRS)} for {_PATIENCE_S:.0f} s; --resume writes "
            f"it anew{busy.advice}"
        ) from None


def _write(run: Run, writer: Writer, tag: str) -> None:
    index = LogIndex(run.out, run.masks.names)
    file = atomic.HashedFile(run.out / PAIRS, tag=tag)
    try:
        buffer = io.StringIO(newline="")
        table = csv.writer(buffer, lineterminator="\n")
        table.writerow(("image", "mask", "source", "seed"))
        for place, name in enumerate(run.masks.names):
            record = index.get(place)
            targets = [utf8(target) for target in writer.targets(name, place)]
            if record is not None and record.problem is None and record.outputs == targets:
                source, seed = utf8(source_mask(run.masks, name)[0]), "" if record.seed is None else record.seed
                table.writerow((*targets, source, seed))
            if buffer.tell() > 1 << 16:
                file.write(buffer.getvalue().encode())
                buffer.seek(0)
                buffer.truncate()
        file.write(buffer.getvalue().encode())
        file.commit()
    finally:
        file.discard()
        index.close()
