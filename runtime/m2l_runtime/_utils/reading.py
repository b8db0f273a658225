"""Read files that others have made: plain ones alone, bounded in size, and one kind of error for all that may happen.

Readers raise whatever a damaged file leads them to: of zip alone there are seven classes. So no place lists classes. It
reads within :func:`reader_errors`, which turns everything that is raised into one error that names the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, TypeVar

import msgspec

from m2l_runtime._utils.memory import is_out_of_memory
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import M2LError

_T = TypeVar("_T")

MAX_REASON_CHARS: Final = 300

_PART_BYTES: Final = 1 << 20
MAX_LINE_BYTES: Final = 1 << 20
"""Length of a line of a log; a longer one is no line of ours."""


def open_input(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a plain file for reading. A pipe or a device is refused, and not waited for.

    Raises:
        OSError: it cannot be opened, or is not a plain file; `strerror` says so.
        ValueError: the name is none that a file can have.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - Path.open takes no opener
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a plain file", os.fspath(path))
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def read_input(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read a plain file of at most `max_bytes`.

    Example:
        >>> read_input("no-such-file", 100)
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: 'no-such-file'

    Raises:
        OSError, ValueError: as :func:`open_input`, or it has more bytes; `strerror` says how many.
    """
    with open_input(path) as file:
        return read_bounded(file, max_bytes)


def read_bounded(file: IO[bytes], max_bytes: int) -> bytes:
    """Read an open file of at most `max_bytes`.

    Raises:
        OSError: it has more bytes; `strerror` says how many.
    """
    size = os.fstat(file.fileno()).st_size
    content = b"" if size > max_bytes else read_at_most(file, max_bytes + 1)
    if max(size, len(content)) > max_bytes:
        raise OSError(errno.EFBIG, f"it has {max(size, len(content)):,} bytes; at most {max_bytes:,} are read")
    return content


def read_at_most(file: IO[bytes], max_bytes: int) -> bytes:
    """Read an open file to its end, or `max_bytes` of it.

    Memory is taken for as much as there is: Python's own `read` takes it for as much as is asked for, which a limit on
    memory (`ulimit -v`) does not grant.
    """
    size = os.fstat(file.fileno()).st_size
    parts = [file.read(min(size + 1, max_bytes))]
    count = len(parts[0])
    while size < count < max_bytes and (part := file.read(min(_PART_BYTES, max_bytes - count))):  # it grows, or is sent
        parts.append(part)
        count += len(part)
    return b"".join(parts)


@contextlib.contextmanager
def reader_errors(kind: type[M2LError], path: str | os.PathLike[str], problem: str, advice: str = "") -> Iterator[None]:
    """Turn whatever is raised while a file is read into an error of one kind that names the file.

    Errors of m2l pass as they are.

    Example:
        >>> from m2l_runtime.errors import InputError
        >>> with reader_errors(InputError, "a.json", "is no JSON", "; write it again"):
        ...     msgspec.json.decode(b"{")
        Traceback (most recent call last):
        m2l_runtime.errors.InputError: a.json is no JSON: Input data was truncated; write it again

    Args:
        kind: of the error.
        path: the file, for the message.
        problem: what to say of a file whose content is at fault; the reader's own words follow.
        advice: what to say at the end.

    Raises:
        M2LError: of `kind`.
    """
    name = printable(path)
    try:
        yield
    except M2LError:
        raise
    except OSError as error:
        if error.errno is not None and error.errno != errno.ENOMEM:
            raise kind(f"cannot read {name}: {printable(error.strerror or str(error))}{advice}") from None
        raise kind(f"{name} {_content_problem(error, problem)}{advice}") from error
    except Exception as error:
        raise kind(f"{name} {_content_problem(error, problem)}{advice}") from error


@contextlib.contextmanager
def content_errors(error_of: Callable[[str], Exception]) -> Iterator[None]:
    """Turn whatever is raised while content in memory is read into one error, made of the reader's words.

    Errors of m2l pass as they are, and so does too little memory.

    Example:
        >>> with content_errors(lambda words: ValueError(f"no JSON: {words}")):
        ...     msgspec.json.decode(b"{")
        Traceback (most recent call last):
        ValueError: no JSON: Input data was truncated

    Args:
        error_of: makes the error.
    """
    try:
        yield
    except (M2LError, MemoryError):
        raise
    except Exception as error:
        raise error_of(reason(error)) from error


def _content_problem(error: Exception, problem: str) -> str:
    return "does not fit in memory" if is_out_of_memory(error) else f"{problem}: {reason(error)}"


def reason(error: BaseException) -> str:
    r"""Put what a library says on one line, printable and not too long; the error's class where it says nothing.

    Example:
        >>> reason(ValueError("not a\n number")), reason(KeyError())
        ('not a number', 'KeyError')
    """
    text = printable(" ".join(str(error).split()))
    return (text if len(text) <= MAX_REASON_CHARS else f"{text[:MAX_REASON_CHARS]} ...") or type(error).__name__


def decode_line(line: bytes, kind: type[_T]) -> _T | None:
    """Decode a line of JSON; None if it is no such record, whatever is wrong with it.

    Example:
        >>> decode_line(b"[1, 2]", list[int]), decode_line(b"[" * 100_000, list[int])
        ([1, 2], None)
    """
    try:
        return msgspec.json.decode(line, type=kind)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - a torn or foreign line is passed over
        return None


def lines_of(file: IO[Any]) -> Iterator[bytes]:
    r"""Yield the lines of a file; of one that is longer than `MAX_LINE_BYTES`, pieces of that length.

    Example:
        >>> import io
        >>> [len(line) for line in lines_of(io.BytesIO(b"a\n" + bytes(MAX_LINE_BYTES + 1)))]
        [2, 1048576, 1]
    """
    while line := file.readline(MAX_LINE_BYTES):
        yield line
