"""Resume a run: find what of an earlier run can be kept, and remove what is out of date."""

from __future__ import annotations

import threading

from m2l_runtime._utils import atomic
from m2l_runtime._utils.atomic import file_sha256
from m2l_runtime._utils.text import utf8
from m2l_runtime.output.writers.base import Writer
from m2l_runtime.runs.checks import Run
from m2l_runtime.runs.jsonl import read_lines
from m2l_runtime.runs.log import LogIndex, Record, log_paths


class PreviousGroup:
    """Find whether an earlier run's files of a group are as they should be; done once, for whoever asks first."""

    def __init__(self, run: Run, writer: Writer, index: LogIndex | None, items: list[tuple[int, str]]) -> None:
        self._run, self._writer, self._index, self._items = run, writer, index, items
        self._lock = threading.Lock()
        self._kept: dict[str, Record] | None = None

    def kept(self) -> dict[str, Record]:
        """Return records of the whole group by name; none if any of it must be made again. Safe on several threads."""
        with self._lock:
            if self._kept is None:
                self._kept = {} if self._index is None else self._find(self._index)
            return self._kept

    def _find(self, index: LogIndex) -> dict[str, Record]:
        records: dict[str, Record] = {}
        hashes: dict[str, str] = {}
        for place, name in self._items:
            record = index.get(place)
            if record is None:
                return {}
            if record.problem is not None and len(self._items) > 1:
                records[name] = record  # a bad mask in a tar: fine if it is still the same file
            elif not record.matches(self._run.settings):
                return {}
            if record.mask_sha256 != self._run.masks.sha256(name):
                return {}
            if record.problem is None:
                targets = self._writer.targets(name, place)
                if [utf8(target) for target in targets] != record.outputs or len(targets) != len(record.sha256s):
                    return {}
                for target, expected in zip(targets, record.sha256s, strict=True):
                    if target not in hashes:
                        hashes[target] = file_sha256(self._run.out / target) or ""
                    if hashes[target] != expected:
                        return {}
            records[name] = record
        return records


def remove_stale(run: Run, writer: Writer) -> None:
    """Remove what the logs say earlier runs wrote and what this one, on its masks of now, does not hold.

    Those are images of masks that are gone or have turned bad, tars or parquet files that hold none any more, and
    what was written with another format or layout. Files that no log names are left alone.

    Raises:
        OutputError: one cannot be removed.
    """
    index = LogIndex(run.out, run.masks.names)
    try:
        for path in log_paths(run.out):
            for record in read_lines(path, Record):
                for output in record.outputs:
                    if not _is_held(output, record.name, run, writer, index):
                        atomic.remove_inside(run.out, output)
    finally:
        index.close()


def _is_held(output: str, name: str, run: Run, writer: Writer, index: LogIndex) -> bool:
    """Tell whether a file once written for mask `name` is what this run has written for a mask of now."""
    own = index.place(name)
    if own is None and not output.isascii():
        return True  # names may be escaped in the log; rather keep one file too many
    for place in (*(() if own is None else (own,)), *writer.places(output, run.masks.names)):
        record = index.get(place)
        if record is not None and record.problem is None and output in record.outputs:
            return True
    return False
