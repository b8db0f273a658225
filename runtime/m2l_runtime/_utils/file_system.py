"""Get along with file systems that lack a part of what others have: network folders, FUSE mounts, memory cards."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

_ENOTSUPP: Final = 524  # the Linux kernel's own, which some network file systems let through

UNSUPPORTED: Final = frozenset(
    {
        errno.EINVAL,
        errno.ENOSYS,
        errno.ENOTTY,
        errno.EOPNOTSUPP,
        getattr(errno, "ENOTSUP", errno.EOPNOTSUPP),
        _ENOTSUPP,
        errno.EBADF,
        errno.EPERM,
        errno.EACCES,
    }
)
"""Numbers of errors by which a file system says that it does not do what it was asked for with an open file."""

_NAME_ERRORS: Final = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL})
"""Numbers of errors by which a disk says that it takes no such name: too long, bytes or characters it does not have."""


def sync(descriptor: int) -> None:
    """Wait until what was written is on the disk, where the file system can tell.

    Args:
        descriptor: of an open file or folder.

    Raises:
        OSError: it did not get there: the disk is full or broken.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def is_name_error(error: BaseException | None) -> bool:
    """Tell whether an error says that the disk does not take a name, rather than that it cannot be written to.

    >>> is_name_error(OSError(errno.ENAMETOOLONG, "File name too long")), is_name_error(OSError(errno.ENOSPC, "full"))
    (True, False)
    """
    return isinstance(error, OSError) and error.errno in _NAME_ERRORS


def name_error(path: Path) -> OSError | None:
    """Ask the disk whether it takes a name, by looking for it; None if nothing speaks against it.

    Disks differ: 255 bytes on most, 143 on eCryptfs. Some tell only when a file is written.
    """
    try:
        path.lstat()
    except (OSError, ValueError) as error:
        return error if isinstance(error, OSError) and is_name_error(error) else None
    return None


def cut_name(name: str, max_bytes: int) -> str:
    """Cut a file's name to a number of bytes, between characters.

    >>> cut_name("mole.png", 4), cut_name("母斑", 4)
    ('mole', '母')
    """
    encoded = os.fsencode(name)
    return name if len(encoded) <= max_bytes else encoded[:max_bytes].decode("utf-8", "ignore")
