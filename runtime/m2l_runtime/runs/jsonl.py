"""Append records to a file, a JSON line each, and read them. A last line that was cut off is dropped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from m2l_runtime._utils import atomic
from m2l_runtime._utils.file_system import sync
from m2l_runtime._utils.held_folder import check_held
from m2l_runtime._utils.plain_file import open_append, open_plain
from m2l_runtime._utils.reading import decode_line, lines_of
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import InputError

_T = TypeVar("_T")


class LineWriter:
    """Append records to a file.

    Raises:
        OutputError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.fdopen(open_log(path), "r+b", buffering=0)
        with atomic.output_errors(path):
            try:
                _drop_torn_line(self._file)
            except BaseException:
                self._file.close()
                raise
        self._encoder = msgspec.json.Encoder()

    def write(self, records: Sequence[msgspec.Struct]) -> None:
        """Append records, in one write.

        Raises:
            OutputError: the disk is full, or the folder that it lies in was replaced.
        """
        with atomic.output_errors(self._path):
            check_held(self._path)
            data = b"".join(self._encoder.encode(record) + b"\n" for record in records)
            written = self._file.write(data)
            if written != len(data):
                raise OSError(28, "the disk is full")

    def close(self) -> None:
        """Make sure that the lines are on the disk, and close the file."""
        with atomic.output_errors(self._path):
            sync(self._file.fileno())
            self._file.close()


def open_log(path: Path) -> int:
    """Open a log to append to it, made if it is not there; return its descriptor.

    Raises:
        OutputError: it cannot be opened, or is a link, or something else than a plain file.
    """
    with atomic.output_errors(path):
        return open_append(path)


def read_lines(path: Path, kind: type[_T]) -> Iterator[_T]:
    """Yield the records of a file; lines that are no such record are passed over.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            for line in lines_of(file):
                record = decode_line(line, kind)
                if record is not None:
                    yield record
    except OSError as error:
        raise InputError(f"cannot read {printable(path)}: {error.strerror or error}") from None


def _drop_torn_line(file: BinaryIO) -> None:
    """Cut off a last line that has no end."""
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
