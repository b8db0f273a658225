"""Tell errors of short memory from others, whatever library raises them."""

from __future__ import annotations

import errno
from typing import Final

_WORDS: Final = (
    "bad_alloc",
    "bad allocation",
    "failed to allocate",
    "unable to allocate",
    "out of memory",
    "outofmemory",
    "could not be allocated",
    "can't alloc",
    "cannot allocate memory",
    "can't allocate memory",
    "storage size calculation overflowed",
    "can't start new thread",  # for want of memory for its stack, or of threads
    "resource temporarily unavailable",
)
_WORDS_OF_MORE: Final = ("failed to map segment", "could not create a primitive")
"""Of the system's loader, also where a file system lets nothing be run; of oneDNN, also where it lacks an operation."""
_PROBE_BYTES: Final = 1 << 26


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory, or the threads that may be started, are used up.

    Example:
        >>> is_out_of_memory(RuntimeError("std::bad_alloc")), is_out_of_memory(RuntimeError("bad graph"))
        (True, False)
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    if any(words in text for words in _WORDS):
        return True
    return any(words in text for words in _WORDS_OF_MORE) and (_is_limited() or is_memory_short())


def _is_limited() -> bool:
    """Tell whether a limit is set on the memory of this process (`ulimit -v`)."""
    try:
        import resource
    except ImportError:  # on Windows
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def is_memory_short(needed_bytes: int = 0) -> bool:
    """Tell whether no more memory can be had: for engines that say something else when they fail for want of it.

    Args:
        needed_bytes: what the failed call worked on; a few times as much is tried, and 64 MiB at least.
    """
    try:
        probe = bytearray(max(_PROBE_BYTES, 4 * needed_bytes))
    except MemoryError:
        return True
    del probe
    return False
