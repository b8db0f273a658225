"""Names and counts to text that is safe and readable on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable


def print_stderr(text: str) -> None:
    """A line on standard error; if nobody can hear it, that is no reason to fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def printable(name: str | os.PathLike[str]) -> str:
    r"""`name` with all that could steer a terminal escaped: control characters, surrogates, bidi marks.

    >>> printable("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    text = os.fspath(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def utf8(name: str) -> str:
    r"""A file name that JSON and CSV can hold: bytes of it that are not UTF-8 become escapes.

    >>> utf8("caf\udce9")
    'caf\\udce9'
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def plural(count: int, noun: str) -> str:
    """'1 mask', '2 masks'.

    >>> plural(1, "mask"), plural(1200, "mask")
    ('1 mask', '1,200 masks')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows of cells as columns two spaces apart, the last column left ragged."""
    cells = [tuple(row) for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]) - 1)] if cells else []
    return "\n".join(
        "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]]).rstrip()
        for row in cells
    )


def stem(name: str) -> str:
    """A name without the ending of its file: what images are named after."""
    return os.path.splitext(name)[0]  # noqa: PTH122
