"""Lock files, so that one process at a time does a thing; also where the file system has no locks.

Network folders and FUSE mounts may answer to ``flock`` with an error: no locks available, not supported, bad file
descriptor (NFS), input/output error. A file that is made with O_EXCL stands in for the lock there. The operating
system does not remove it when its process dies, so it says whose it is: a process of this machine that is gone holds
nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from m2l_runtime._utils.plain_file import open_plain
from m2l_runtime._utils.reading import decode_line
from m2l_runtime._utils.text import command_word, printable
from m2l_runtime.errors import OutputError

if sys.platform == "win32":
    from filelock import FileLock, Timeout
else:
    import fcntl

MARKER_SUFFIX: Final = ".held"
_POLL_S: Final = 0.05
_IN_USE: Final = frozenset({errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK})
"""Numbers of errors by which ``flock`` says that another holds the lock."""
_MAX_MARKER_BYTES: Final = 4096


class LockBusyError(Exception):
    """Signal that another process holds a lock: the native one of `path`, or the marker that stands in for it."""

    def __init__(self, path: Path, owner: str | None = None) -> None:
        super().__init__(f"{path} is in use")
        self.path, self.owner = path, owner
        """What is in the way, and for a marker who made it."""

    @property
    def advice(self) -> str:
        """What to do about it beside waiting, for a message; empty for a native lock, which ends with its process."""
        if self.owner is None:
            return ""
        return (
            f"; the file system has no locks, so if nothing runs any more (it was {printable(self.owner)}): "
            f"rm {command_word(self.path)}"
        )


@contextlib.contextmanager
def hold(
    path: Path,
    *,
    timeout_s: float | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Iterator[None]:
    """Hold a lock while the block runs, with a marker beside `path` where the file system has no locks.

    Args:
        path: file to lock; made if need be, and left there.
        timeout_s: seconds to wait for another; None: without end.
        on_note: called with a line of text where a marker stands in.

    Raises:
        LockBusyError: another held it all the time.
        OutputError: neither a lock nor a marker can be made there.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    release = _wait_for(path, deadline, 0o644)
    if release is None:
        marker = path.with_name(path.name + MARKER_SUFFIX)
        on_note(
            f"warning: the file system of {printable(path.parent)} has no locks; {printable(marker.name)} keeps other "
            "runs away meanwhile"
        )
        release = _wait_for_marker(marker, deadline)
    try:
        yield
    finally:
        release()


@contextlib.contextmanager
def hold_if_possible(
    path: Path, *, on_wait: Callable[[], None] = lambda: None, patience_s: float = 0.5, mode: int = 0o644
) -> Iterator[None]:
    """Hold a lock while the block runs; where the file system has no locks, run it without.

    For work that may be done twice, but need not.

    Args:
        path: file to lock; made if need be, and left there.
        on_wait: called once if another holds it for longer than `patience_s`.
        patience_s: seconds.
        mode: permissions of the file.

    Raises:
        OutputError: the file cannot be made.
    """
    try:
        release = _wait_for(path, time.monotonic() + patience_s, mode)
    except LockBusyError:
        on_wait()
        release = _wait_for(path, None, mode)
    try:
        yield
    finally:
        if release is not None:
            release()


def is_held(path: Path, *, patience_s: float = 0.0) -> LockBusyError | None:
    """Look whether another process holds the lock of `path` for `patience_s` seconds; nothing is made there.

    Raises:
        OutputError: the file cannot be opened.
    """
    deadline = time.monotonic() + patience_s
    if os.path.lexists(path):
        try:
            release = _wait_for(path, deadline, 0o644)
        except LockBusyError as error:
            return error
        if release is not None:
            release()
            return None
    marker = path.with_name(path.name + MARKER_SUFFIX)
    while (owner := _live_owner(marker)) is not None:
        if time.monotonic() >= deadline:
            return LockBusyError(marker, owner)
        time.sleep(_POLL_S)
    return None


def _wait_for(path: Path, deadline: float | None, mode: int) -> Callable[[], None] | None:
    """Acquire the native lock and return what releases it; None if the file system has none."""
    if sys.platform == "win32":
        lock = FileLock(path, mode=mode)
        try:
            lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic()))
        except Timeout:
            raise LockBusyError(path) from None
        return lock.release
    while True:
        state = _try(path, mode)
        if state is False:
            return None
        if state is not None:
            owner = _live_owner(path.with_name(path.name + MARKER_SUFFIX))
            if owner is None:
                return lambda: _close(state)
            _close(state)  # another machine sees the same folder without locks
        if deadline is not None and time.monotonic() >= deadline:
            marker = path.with_name(path.name + MARKER_SUFFIX)
            raise LockBusyError(path) if state is None else LockBusyError(marker, owner)
        time.sleep(_POLL_S)


def _try(path: Path, mode: int) -> int | bool | None:
    """Try to lock a file: a descriptor that holds the lock, None if another holds it, False if there are no locks."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        raise OutputError(f"cannot write {printable(path)}: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_there = os.fstat(descriptor).st_nlink != 0  # somebody may have removed it since it was opened
    except BaseException as error:
        _close(descriptor)
        if not isinstance(error, OSError):
            raise
        return None if error.errno in _IN_USE else False
    if is_there:
        return descriptor
    _close(descriptor)
    return None


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # which network file systems may answer; the lock ends all the same
        os.close(descriptor)


class _Owner(msgspec.Struct, frozen=True):
    """Say which process made a marker."""

    host: str
    machine: str
    """Of the running system and, in containers, of the set of processes it sees."""
    pid: int
    started: str
    """When the process began, as its system counts; empty where that cannot be told."""
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} of {self.host}"


def _wait_for_marker(marker: Path, deadline: float | None) -> Callable[[], None]:
    """Make a marker, once no live process has one, and return what removes it."""
    own = _Owner(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()), secrets.token_hex(8))
    content = msgspec.json.encode(own)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    while True:
        try:
            descriptor = os.open(marker, flags, 0o644)
        except FileExistsError:
            owner = _live_owner(marker)
            if owner is None:
                continue
            if deadline is not None and time.monotonic() >= deadline:
                raise LockBusyError(marker, owner) from None
            time.sleep(_POLL_S)
        except OSError as error:
            raise OutputError(f"cannot write {printable(marker)}: {error.strerror or error}") from error
        else:
            try:
                os.write(descriptor, content)
            finally:
                _close(descriptor)
            return lambda: _remove_own(marker, content)


def _remove_own(marker: Path, content: bytes) -> None:
    with contextlib.suppress(OSError):
        if marker.read_bytes() == content:
            marker.unlink()


def _live_owner(marker: Path) -> str | None:
    """Return whose a marker is; None if there is none, or if it was of a process of here that is gone: it is removed.

    A marker that says nothing was just made, or its process died in between: it is taken for alive.
    """
    try:
        with os.fdopen(open_plain(marker), "rb") as file:
            content = file.read(_MAX_MARKER_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"cannot read {printable(marker)}: {error.strerror or error}") from error
    owner = decode_line(content, _Owner)
    if owner is None:
        return "a process that did not say which"
    if owner.machine != _machine() or not owner.machine or _is_alive(owner):
        return str(owner)
    stale = marker.with_name(f"{marker.name}-{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        marker.rename(stale)  # one process alone can; the others look again
        if stale.read_bytes() != content and not os.path.lexists(marker):
            stale.rename(marker)  # another process was quicker, and this is its own
        else:
            stale.unlink()
    return None


def _is_alive(owner: _Owner) -> bool:
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return owner.started == _started(owner.pid)


def _machine() -> str:
    """Name the running system and the set of processes it sees; empty where numbers of processes say nothing."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return "" if sys.platform == "win32" else socket.gethostname()


def _started(pid: int) -> str:
    """Return when a process began: its number may be another's by now."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return ""
    return status.rpartition(")")[2].split()[19]
