"""Log and files of an earlier run to what of it can be kept."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from m2l_runtime.run import Run
from m2l_runtime.runlog import LogIndex, Record
from m2l_runtime.sinks import Sink


class EarlierGroup:
    """Whether an earlier run's files of a group are as they should be; found out once, by whoever asks first."""

    def __init__(self, run: Run, sink: Sink, index: LogIndex | None, items: list[tuple[int, str]]) -> None:
        self._run, self._sink, self._index, self._items = run, sink, index, items
        self._lock = threading.Lock()
        self._kept: dict[str, Record] | None = None

    def kept(self) -> dict[str, Record]:
        """Records of the whole group by name; empty if any of it must be made again. Safe on several threads."""
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
            elif not record.was_made_with(self._run.settings):
                return {}
            if record.mask_sha256 != file_sha256(self._run.masks.path(name)):
                return {}
            if record.problem is None:
                for target, expected in zip(self._sink.targets(name, place), record.sha256s, strict=False):
                    if target not in hashes:
                        hashes[target] = file_sha256(self._run.out / target) or ""
                    if hashes[target] != expected:
                        return {}
            records[name] = record
        return records


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a file; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
