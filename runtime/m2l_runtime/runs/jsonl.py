"""Append records to a file, a JSON line each, and read them. A last line that was cut off is dropped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from m2l_runtime._utils import atomic
from m2l_runtime._utils.reading import decode_line, lines_of, open_plain
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import InputError, OutputError

_T = TypeVar("_T")


class LineWriter:
    """Append records to a file.

    Raises:
        OutputError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if os.path.lexists(path) and not path.is_file():
            raise OutputError(f"{printable(path)} is not a plain file; move it away")
        with atomic.output_errors(path):
            _drop_torn_line(path)
            self._file = path.open("ab", buffering=0)
        self._encoder = msgspec.json.Encoder()

    def write(self, records: Sequence[msgspec.Struct]) -> None:
        """Append records, in one write.

        Raises:
            OutputError: the disk is full, or the file is gone.
        """
        with atomic.output_errors(self._path):
            data = b"".join(self._encoder.encode(record) + b"\n" for record in records)
            written = self._file.write(data)
            if written != len(data):
                raise OSError(28, "the disk is full")

    def close(self) -> None:
        """Make sure that the lines are on the disk, and close the file."""
        with atomic.output_errors(self._path):
            os.fsync(self._file.fileno())
            self._file.close()


def read_lines(path: Path, kind: type[_T]) -> Iterator[_T]:
    """Yield the records of a file; lines that are no such record are passed over.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with open_plain(path) as file:
            for line in lines_of(file):
                record = decode_line(line, kind)
                if record is not None:
                    yield record
    except OSError as error:
        raise InputError(f"cannot read {printable(path)}: {error.strerror or error}") from None


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line that has no end."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        keep = end
        while keep > 0:
            start = max(0, keep - 65536)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep != end:
            file.truncate(keep)
