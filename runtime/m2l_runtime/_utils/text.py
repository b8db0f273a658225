"""Write names and counts so that they are safe and readable on a terminal."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterable
from typing import Final

from m2l_runtime.errors import kind_of

_LIKE_ESCAPE: Final = re.compile(r"\\(?=u[0-9a-f]{4}|x5c)")


def print_stderr(text: str) -> None:
    """Write a line to standard error, if it is open."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def printable(name: str | os.PathLike[str]) -> str:
    r"""Escape what could control a terminal: control characters, surrogates, bidirectional marks.

    >>> printable("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    text = os.fspath(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def command_word(name: str | os.PathLike[str]) -> str:
    r"""Write a file name as a word of a command that can be pasted into a shell (sh; bash where it has odd characters).

    >>> command_word("runs/a"), command_word("my runs/it's"), command_word("-rf"), command_word("a\x1b[31m")
    ('runs/a', '\'my runs/it\'"\'"\'s\'', './-rf', "$'a\\x1b[31m'")
    """
    text = os.fspath(name)
    text = f"./{text}" if text.startswith("-") else text
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(_bash_character(c) for c in text) + "'"


def _bash_character(character: str) -> str:
    """Write a character as it stands within $'...' of bash, zsh and ksh."""
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def utf8(name: str) -> str:
    r"""Make a file name fit for JSON and CSV: bytes that are not UTF-8 become escapes, and two names stay two.

    >>> utf8("caf\udce9")
    'caf\\udce9'

    A backslash that would read as one of these escapes becomes one itself.

    >>> utf8(r"caf\udce9")
    'caf\\x5cudce9'
    """
    return _LIKE_ESCAPE.sub(r"\\x5c", name).encode("utf-8", "backslashreplace").decode("utf-8")


def ascii_json(text: str) -> str:
    r"""Escape in JSON what could control a terminal, as :func:`printable` does for a name.

    >>> ascii_json('"a\u202eb\x7f"')
    '"a\\u202eb\\u007f"'
    """
    return "".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def plural(count: int, noun: str) -> str:
    """Count things in words.

    >>> plural(1, "mask"), plural(1200, "mask")
    ('1 mask', '1,200 masks')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def rate(per_second: float) -> str:
    """Write things per second in three significant digits, so that a slow rate is not rounded to nothing.

    >>> rate(0.4123), rate(11.8), rate(5120.4)
    ('0.412', '11.8', '5,120')
    """
    return f"{per_second:.3g}" if per_second < 999.5 else f"{per_second:,.0f}"


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Align rows of cells in columns, two spaces apart."""
    cells = [tuple(row) for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]) - 1)] if cells else []
    return "\n".join(
        "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]]).rstrip()
        for row in cells
    )


def stem(name: str) -> str:
    """Remove the suffix of a file name. Images are named after the rest."""
    return os.path.splitext(name)[0]  # noqa: PTH122


def shown(value: object, max_chars: int = 40) -> str:
    """Show a value that a file or a caller gave, in few characters whatever it is.

    >>> shown("star"), shown(3.5), shown(10**5000), shown([1, 2])
    ("'star'", '3.5', 'a number of about 5000 digits', 'a list')
    """
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of about {round(value.bit_length() * 0.30103)} digits"
    if not isinstance(value, (str, int, float, type(None))):
        return kind_of(value)
    text = repr(value[: max_chars + 1] if isinstance(value, str) else value)
    return printable(text if len(text) <= max_chars else f"{text[:max_chars]}...")
