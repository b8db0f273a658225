"""Log what was made, one JSON line per image, and index the log for a run that is resumed.

A log lies in the folder `.m2l` of the output folder, so that no tool takes it for an image; m2l 0.1 put it among the
images, and there it is read, too. Lines are only ever added, each once its file is there under its final name. So a
line may be missing for a file, but never a file for a line (unless somebody removed it, which its hash shows). Of two
lines for one name the later one counts. A last line that was cut off is dropped.
"""

from __future__ import annotations

import bisect
import os
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated, Final

import msgspec

from m2l_runtime._utils.plain_file import open_plain
from m2l_runtime._utils.reading import MAX_LINE_BYTES, decode_line, lines_of
from m2l_runtime._utils.text import printable, stem, utf8
from m2l_runtime.errors import InputError

LOG_FOLDER: Final = ".m2l"
LOG_NAME: Final = "m2l-log{shard}.jsonl"
LOG_PATTERN: Final = "m2l-log*.jsonl"

_NO_LINE: Final = -1

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Hold everything beside the mask that the bytes of an output depend on.

    Fields are those of a line of the log, hence flat. Of a backend's settings these are the ones that bytes depend on.
    """

    bundle_sha256: Sha256
    backend: str
    engine: str
    device: str
    precision: str
    batch_size: int
    threads: int
    seed: int | None
    encoder: str
    layout: str
    """What is written for each mask and where: format, pairs, size, masks per tar."""
    image_seed: int | None = None
    """Seed of the images; None where the generator takes the mask alone."""
    appearance_choice: str | None = None
    """What was asked of appearances; None where the generator takes none."""


class Record(RunSettings, frozen=True, kw_only=True, omit_defaults=True):
    """Hold a line of the log: a mask, what was made of it and how, or why nothing was."""

    name: str
    """Name of the mask file, relative to its folder; bytes that are not UTF-8 escaped."""
    mask_sha256: Sha256 | None = None
    output: str | None = None
    """File with the image, relative to the output folder."""
    output_sha256: Sha256 | None = None
    """SHA-256 of that file."""
    mask_output: str | None = None
    mask_output_sha256: Sha256 | None = None
    note: str | None = None
    problem: str | None = None
    """Why there is no image; such a mask is tried again."""
    appearance: tuple[float, ...] | None = None
    """Appearance that the generator was given, three decimals of each number that the bundle names."""

    @property
    def sha256s(self) -> tuple[str, ...]:
        """SHA-256 of each file written, the image's first."""
        return tuple(s for s in (self.output_sha256, self.mask_output_sha256) if s is not None)

    @property
    def outputs(self) -> list[str]:
        """Each file written, the image's first, relative to the output folder."""
        return [name for name in (self.output, self.mask_output) if name is not None]

    def matches(self, settings: RunSettings) -> bool:
        """Tell whether there is an image, and all settings are these."""
        fields = RunSettings.__struct_fields__
        return self.problem is None and all(getattr(self, f) == getattr(settings, f) for f in fields)


def log_path(out: Path, shard: tuple[int, int]) -> Path:
    """Return the path of the log of one shard (number from 1, of how many) in an output folder."""
    return out / LOG_FOLDER / _log_name(shard)


def log_paths(out: Path, shard: tuple[int, int] | None = None) -> list[Path]:
    """Return the logs that are in an output folder, those of 0.1 first, so that later lines come later.

    Args:
        out: the output folder.
        shard: whose logs; None: those of all shards.
    """
    pattern = LOG_PATTERN if shard is None else _log_name(shard)
    return [*sorted(out.glob(pattern)), *sorted((out / LOG_FOLDER).glob(pattern))]


def _log_name(shard: tuple[int, int]) -> str:
    return LOG_NAME.format(shard="" if shard[1] == 1 else f"-{shard[0]}-of-{shard[1]}")


def names_output(path: Path) -> bool:
    """Tell whether a log names a file that was written. A log of a run that made nothing does not.

    Of a line that no log of this version has, True: it is not known what it says. A last line that was cut off counts
    for nothing.

    Raises:
        InputError: the log cannot be read.
    """
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            for line in lines_of(file):
                record = decode_line(line, Record)
                if line.endswith(b"\n") if record is None else record.outputs:
                    return True
    except OSError as error:
        raise InputError(f"cannot read {printable(path)}: {error.strerror or error}") from None
    return False


class LogIndex:
    """Find the last line about each mask in the logs of an output folder. It takes 16 bytes a mask.

    Masks are known by their place in `names`, which are sorted by stem. Lookups are safe on several threads.

    Raises:
        InputError: a log cannot be read.
    """

    def __init__(self, out: Path, names: Sequence[str], shard: tuple[int, int] | None = None) -> None:
        """Read the logs of one shard, or of all shards."""
        self._names = names
        self._odd = {utf8(name): place for place, name in enumerate(names) if utf8(name) != name}
        self._files: list[IO[bytes]] = []
        self._offsets = array("q", [_NO_LINE]) * len(names)
        self._logs = array("i", [0]) * len(names)
        """Number of the log among `_files`."""
        self._bundles = array("i", [0]) * len(names)
        """Number of the bundle in `_bundle_numbers`."""
        self._bundle_numbers: dict[str, int] = {}
        self._lock = threading.Lock()
        for path in log_paths(out, shard):
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            file = os.fdopen(open_plain(path), "rb")
        except OSError as error:
            raise InputError(f"cannot read {printable(path)}: {error.strerror or error}") from None
        self._files.append(file)
        number, offset, expected = len(self._files) - 1, 0, 0
        for line in lines_of(file):
            record = decode_line(line, Record)
            if record is not None:  # else it is torn
                place = self.place(record.name, expected)
                if place is not None:
                    self._offsets[place], self._logs[place] = offset, number
                    self._bundles[place] = self._bundle_numbers.setdefault(
                        record.bundle_sha256, len(self._bundle_numbers)
                    )
                    expected = place + 1
            offset += len(line)

    def place(self, name: str, expected: int = 0) -> int | None:
        """Return the place of a name; None if it is no mask of now. Lines mostly come in order: try `expected`."""
        odd = self._odd.get(name)
        if odd is not None:
            return odd
        if "\\" in name and utf8(name) != name:
            return None  # the escape of a name that is not there
        names = self._names
        if expected < len(names) and names[expected] == name:
            return expected
        place = bisect.bisect_left(names, stem(name), key=stem)
        while place < len(names) and stem(names[place]) == stem(name):
            if names[place] == name:
                return place
            place += 1
        return None

    def __len__(self) -> int:
        """Count the masks that there is a line about."""
        return sum(offset != _NO_LINE for offset in self._offsets)

    def get(self, place: int) -> Record | None:
        """Read the last line about a mask; None if there is none. Safe to call from several threads."""
        offset = self._offsets[place]
        if offset == _NO_LINE:
            return None
        with self._lock:
            file = self._files[self._logs[place]]
            file.seek(offset)
            line = file.readline(MAX_LINE_BYTES)
        record = decode_line(line, Record)
        if record is None:
            raise InputError("a log was changed while it was read; run again")
        return record

    def other_bundle(self, place: int, bundle_sha256: str) -> str | None:
        """Return the SHA-256 of the bundle that made the image of a mask, if it is not the one given."""
        if self._offsets[place] == _NO_LINE or self._bundles[place] == self._bundle_numbers.get(bundle_sha256):
            return None
        record = self.get(place)
        return None if record is None or record.problem is not None else record.bundle_sha256

    def close(self) -> None:
        """Close the logs."""
        for file in self._files:
            file.close()
