"""Record what a run is trained and validated on, file by file, and tell what has changed when it is resumed.

A file is hashed once. It is hashed again only where its size, times or number in the file system are others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Final, Self

import msgspec

from m2l_runtime._utils.atomic import file_sha256
from m2l_runtime._utils.reading import decode_line
from m2l_runtime._utils.text import plural, printable, utf8
from m2l_train.data.data_folder import TRAIN, VAL, DataFolder
from m2l_train.data.pairing import Pair

_SHOWN: Final = 3
_NO_STAMP: Final = (0, 0, 0, 0)

Stamp = tuple[int, int, int, int]
"""Size in bytes, times of the last change of content and of the entry in ns, and inode."""


class FileRecord(msgspec.Struct, frozen=True, array_like=True):
    """Describe a file."""

    name: str
    """Without folders."""
    sha256: str
    """Empty where it is not known: the file could not be read, or was no picture."""
    stamp: Stamp


class PairRecord(msgspec.Struct, frozen=True, array_like=True):
    """Describe the files of a pair; they are the same where both stand in one picture."""

    image: FileRecord
    mask: FileRecord


class DataRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Describe the files of all pairs, in the order that they are trained and validated on."""

    format: int = 1
    train: tuple[PairRecord, ...]
    val: tuple[PairRecord, ...]

    @classmethod
    def from_json(cls, content: bytes) -> Self | None:
        """Read a record; None if it is damaged, or of another format."""
        found = decode_line(content, cls)
        return found if found is not None and found.format == 1 else None

    def to_json(self) -> bytes:
        """Write it."""
        return msgspec.json.encode(self) + b"\n"

    def without(self, problems: Iterable[str]) -> DataRecord:
        """Return a record in which files that could not be read are not known, so that they may be mended.

        Args:
            problems: messages of pairs that could not be read; each begins with the path of a file.
        """
        heads = {Path(problem.partition(": ")[0].partition(" (its ")[0]).name for problem in problems}

        def forget(pair: PairRecord) -> PairRecord:
            if not heads & {printable(pair.image.name), printable(pair.mask.name)}:
                return pair
            files = (msgspec.structs.replace(file, sha256="", stamp=_NO_STAMP) for file in (pair.image, pair.mask))
            return PairRecord(*files)

        if not heads:
            return self
        return DataRecord(train=tuple(map(forget, self.train)), val=tuple(map(forget, self.val)))


def record_data(data: DataFolder, pool: Executor, before: DataRecord | None) -> DataRecord:
    """Hash the files of all pairs, but for those that are in an earlier record and have not been touched since.

    Args:
        data: the pairs.
        pool: threads that read files.
        before: the record of the run so far; None if there is none.

    Returns:
        The record. A file that cannot be read, or is empty, keeps what was known of it.
    """

    def record(path: Path, known: FileRecord | None) -> FileRecord:
        name = utf8(path.name)
        known = None if known is None or known.name != name else known
        try:
            found = path.stat()
        except OSError:
            return known or FileRecord(name, "", _NO_STAMP)
        stamp = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        if known is not None and known.stamp == stamp and known.sha256:
            return known
        sha256 = file_sha256(path) if found.st_size else None
        return FileRecord(name, sha256, stamp) if sha256 else known or FileRecord(name, "", _NO_STAMP)

    def record_pair(pair: Pair, known: PairRecord | None) -> PairRecord:
        image = record(pair.image, None if known is None else known.image)
        return PairRecord(
            image, image if pair.is_combined else record(pair.mask, None if known is None else known.mask)
        )

    found: dict[str, tuple[PairRecord, ...]] = {}
    for split, pairs, known in ((TRAIN, data.train, before and before.train), (VAL, data.val, before and before.val)):
        by_name = _by_name(known or ())
        earlier = [by_name.get(utf8(pair.image.name)) for pair in pairs]
        found[split] = tuple(pool.map(record_pair, pairs, earlier))
    return DataRecord(train=found[TRAIN], val=found[VAL])


def data_changes(before: DataRecord, now: DataRecord) -> list[str]:
    """Say what of a run's data is not what it was; nothing if all is. What is not known counts as unchanged.

    Example:
        >>> def pair(name, image, mask):
        ...     return PairRecord(*(FileRecord(name, sha256, (1, 1, 1, 1)) for sha256 in (image, mask)))
        >>> before = DataRecord(train=(pair("a.png", "1", "2"), pair("b.png", "3", "4")), val=())
        >>> now = DataRecord(train=(pair("a.png", "3", "2"), pair("b.png", "1", "4")), val=())
        >>> data_changes(before, now)
        ['the photographs of 2 pairs to train on have changed places (a.png, b.png)']
    """
    return [
        *_changes(before.train, now.train, "to train on"),
        *_changes(before.val, now.val, "to validate on"),
    ]


def _changes(before: Sequence[PairRecord], now: Sequence[PairRecord], use: str) -> list[str]:
    old, new = _by_name(before), _by_name(now)
    changes = []
    for names, what in (
        ([name for name in old if name not in new], "gone"),
        ([name for name in new if name not in old], "new"),
    ):
        if names:
            is_all = what == "gone" and not new
            verb = "is" if len(names) == 1 else "are"
            changes.append(f"{'all ' if is_all else ''}{plural(len(names), 'pair')} {use} {verb} {what}{_some(names)}")
    both = [(name, pair, new[name]) for name, pair in old.items() if name in new]
    files: tuple[tuple[str, Callable[[PairRecord], FileRecord]], ...] = (
        ("photographs", lambda pair: pair.image),
        ("masks", lambda pair: pair.mask),
    )
    if all(pair.image == pair.mask for _, *pairs in both for pair in pairs):
        files = (("pictures", lambda pair: pair.image),)
    for noun, file in files:
        others = [(name, file(one), file(other)) for name, one, other in both if _is_other(file(one), file(other))]
        if others:
            are_moved = sorted(one.sha256 for _, one, _ in others) == sorted(other.sha256 for _, _, other in others)
            verb = "have changed places" if are_moved else "are others"
            names = [name for name, *_ in others]
            changes.append(f"the {noun} of {plural(len(names), 'pair')} {use} {verb}{_some(names)}")
    if not changes and [pair.image.name for pair in before] != [pair.image.name for pair in now]:
        changes.append(f"the pairs {use} come in another order")
    return changes


def _is_other(before: FileRecord, now: FileRecord) -> bool:
    return bool(before.sha256 and now.sha256) and before.sha256 != now.sha256


def _by_name(pairs: Sequence[PairRecord]) -> Mapping[str, PairRecord]:
    """Return pairs by the name of their photograph, and a number where several have one name."""
    found: dict[str, PairRecord] = {}
    for pair in pairs:
        names = itertools.chain([pair.image.name], (f"{pair.image.name} {n}" for n in itertools.count(2)))
        found[next(name for name in names if name not in found)] = pair
    return found


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f" ({printable(', '.join(names[:_SHOWN]))}{more})"
