"""Open files that must be plain ones, in the folder that they are named in: no link is followed, no pipe waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from m2l_runtime._utils import atomic
from m2l_runtime._utils.held_folder import place
from m2l_runtime._utils.reading import read_bounded

_NO_FOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT: Final[int] = getattr(os, "O_NONBLOCK", 0)
_BINARY: Final[int] = getattr(os, "O_BINARY", 0)  # of Windows
_LINK_ERRORS: Final = (errno.ELOOP, errno.EMLINK)  # the latter on FreeBSD


def open_plain(path: str | os.PathLike[str], flags: int = os.O_RDONLY, *, dir_fd: int | None = None) -> int:
    """Open a plain file and return its descriptor.

    Args:
        path: of the file; its folder may be reached through links, the file itself may not.
        flags: as os.open takes them.
        dir_fd: what `path` is relative to, as os.open takes it.

    Raises:
        OSError: it cannot be opened, or is a link, a folder, a pipe, a socket or a device.
    """
    flags |= _NO_FOLLOW | _NO_WAIT | _BINARY
    try:
        if not _NO_FOLLOW and os.path.islink(path):  # noqa: PTH114
            raise OSError(errno.ELOOP, "")
        descriptor = os.open(path, flags, 0o666) if dir_fd is None else os.open(path, flags, 0o666, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in _LINK_ERRORS:
            raise OSError(error.errno, "it is a symbolic link, not a plain file; move it away") from None
        if error.errno in (errno.ENXIO, errno.EISDIR):  # a pipe that nobody reads, a socket; a folder
            raise OSError(error.errno, "it is not a plain file; move it away") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a plain file; move it away")
    return descriptor


def read_plain(path: str | os.PathLike[str], max_bytes: int = 1 << 32) -> bytes:
    """Read a plain file of at most `max_bytes` whole.

    Raises:
        OSError: as :func:`open_plain`, or it has more bytes.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        return read_bounded(file, max_bytes)


def open_append(path: Path) -> int:
    """Open a plain file to read it, cut it and write at its end, made if it is not there; return its descriptor.

    A file that has another name as well, or lies on another device than its folder, is copied first and the copy takes
    its place: what somebody else knows by another name stays as it is.

    Raises:
        OSError: as :func:`open_plain`; or no copy can take its place; or its folder is held, and was replaced
            (:mod:`m2l_runtime._utils.held_folder`).
    """
    descriptor, is_alone = _open_append(path)
    if not is_alone:
        with os.fdopen(descriptor, "rb") as file:
            atomic.write_file(path, file.read())
        descriptor, is_alone = _open_append(path)
        if not is_alone:
            os.close(descriptor)
            raise OSError(errno.EXDEV, "it has other names or lies on another device; move it away")
    return descriptor


def _open_append(path: Path) -> tuple[int, bool]:
    """Return (descriptor, whether it has this name alone and lies on the device of its folder)."""
    with place(path) as (dir_fd, name):
        descriptor = open_plain(name, os.O_RDWR | os.O_APPEND | os.O_CREAT, dir_fd=dir_fd)
        folder = os.stat(path.parent) if dir_fd is None else os.fstat(dir_fd)  # noqa: PTH116
    file = os.fstat(descriptor)
    return descriptor, file.st_nlink <= 1 and file.st_dev == folder.st_dev
