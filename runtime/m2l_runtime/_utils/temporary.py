"""Say what to do where no folder takes temporary files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from m2l_runtime.errors import OutputError

ADVICE = (
    "no folder takes temporary files: neither TMPDIR, /tmp, /var/tmp, /usr/tmp nor the current one; set TMPDIR to a "
    "folder that can be written to"
)


@contextlib.contextmanager
def temporary_errors() -> Iterator[None]:
    """Turn what `tempfile` raises where there is no folder for it into an error that says what to do.

    Raises:
        OutputError: no folder takes temporary files.
    """
    try:
        yield
    except FileNotFoundError as error:
        if not is_no_temporary_folder(error):
            raise
        raise OutputError(ADVICE) from error


def is_no_temporary_folder(error: BaseException) -> bool:
    """Tell whether an error, or what led to it, says that no folder takes temporary files."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, FileNotFoundError) and "usable temporary directory" in str(cause):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False
