"""Hold a folder that is written to, so that what is written cannot land in another one that takes its name meanwhile.

While a folder is held, whatever goes through :func:`place` to a path in it goes through its descriptor. Where a system
has no such calls (Windows), paths are used as they are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from m2l_runtime._utils.text import printable
from m2l_runtime.errors import OutputError

HAS_DESCRIPTORS: Final = {os.open, os.mkdir, os.unlink, os.rename, os.stat, os.readlink} <= os.supports_dir_fd
"""Whether calls take the descriptor of a folder in place of its path."""

_FOLDER_FLAGS: Final[int] = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_FOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)


@dataclass
class _Held:
    path: str
    """Absolute; links in it are not resolved."""
    descriptor: int
    links: dict[str, str | None] = field(default_factory=dict)
    """Where each folder below led when it was first used: the target of a link, None for a folder."""
    folders: dict[str, int] = field(default_factory=dict)
    """Descriptors of the folders below that were used first, at most `_MAX_FOLDERS`."""

    def check(self) -> None:
        """Raise an OSError if another folder, a link or nothing has this name now."""
        try:
            is_same = os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))  # noqa: PTH116
        except FileNotFoundError:
            is_same = False
        if not is_same:
            raise _replaced(self.path)

    def check_folder(self, descriptor: int, below: str) -> None:
        """Raise an OSError if the folder below that has just been opened is not the one that was used first.

        Its descriptor is kept for that: not every file system gives a folder the same number each time.
        """
        with _lock:
            if below not in self.folders and len(self.folders) < _MAX_FOLDERS:
                self.folders[below] = os.dup(descriptor)
            first = self.folders.get(below)
            is_same = first is None or os.path.samestat(os.fstat(first), os.fstat(descriptor))
        if not is_same:
            raise _replaced(self.path + below)

    def close(self) -> None:
        for descriptor in (self.descriptor, *self.folders.values()):
            os.close(descriptor)


def _replaced(path: str) -> OSError:
    return OSError(
        errno.ESTALE,
        f"the folder {printable(path)} was moved, removed or replaced meanwhile; bring back the one that had this "
        "name, and --resume",
    )


_MAX_FOLDERS: Final = 64
_held: list[_Held] = []
_lock: Final = threading.Lock()


@contextlib.contextmanager
def held_folder(path: Path) -> Iterator[None]:
    """Hold a folder while the block runs, and make sure at its end that it is still the one of this name.

    Raises:
        OutputError: it is not there any more, or another folder or a link has taken its place.
    """
    if not HAS_DESCRIPTORS:
        yield
        return
    try:
        descriptor = os.open(path, _FOLDER_FLAGS)
    except OSError as error:
        raise OutputError(f"cannot write to {printable(path)}: {error.strerror or error}") from None
    held = _Held(os.path.abspath(path), descriptor)  # noqa: PTH100 - links stay
    with _lock:
        _held.append(held)
    try:
        yield
        try:
            held.check()
        except OSError as error:
            raise OutputError(error.strerror) from None
    finally:
        with _lock:
            _held.remove(held)
        held.close()


@contextlib.contextmanager
def place(path: Path, *, make_parents: bool = False) -> Iterator[tuple[int | None, str]]:
    """Yield where a file is to be reached: (descriptor of its folder, its name), or (None, its path).

    Args:
        path: of the file.
        make_parents: make folders that are not there. Of a folder that is not held, none is made but its parents are
            left to the caller.

    Raises:
        OSError: its folder is not there or cannot be opened; or is held or lies in a held one, and another one or a
            link has taken its place since it was first used.
    """
    held, parts = _find(path)
    if held is None:
        if make_parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield None, os.fspath(path)
        return
    held.check()
    descriptors: list[int] = []
    try:
        at, below = held.descriptor, ""
        for part in parts[:-1]:
            below = f"{below}/{part}"
            if make_parents:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=at)
            at = _open_folder(held, at, part, below)
            descriptors.append(at)
        yield at, parts[-1]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def check_held(path: Path) -> None:
    """Make sure that the held folder that a path lies in, if there is one, and those between are still the same.

    Raises:
        OSError: another one or a link has taken the place of one.
    """
    if _find(path)[0] is not None:
        with place(path):
            pass


def make_folder(folder: Path) -> None:
    """Make a folder and its parents below a held one, or anywhere if it is in none.

    Raises:
        OSError: as :func:`place`.
    """
    with place(folder / "any", make_parents=True):
        pass


def remove_folder(folder: Path) -> None:
    """Remove an empty folder. Below a held one, another may take its name from then on.

    Raises:
        OSError: it is not there, or not empty.
    """
    folder.rmdir()
    forget(folder)


def forget(folder: Path) -> None:
    """Let other folders take the names of one that was removed on purpose, and of those in it."""
    held, parts = _find(folder)
    if held is None:
        return
    below = "".join(f"/{part}" for part in parts)
    with _lock:
        for name in [name for name in held.links if name == below or name.startswith(f"{below}/")]:
            del held.links[name]
            descriptor = held.folders.pop(name, None)
            if descriptor is not None:
                os.close(descriptor)


def _find(path: Path) -> tuple[_Held | None, list[str]]:
    """Return (the innermost held folder that a path lies in, the parts of the path below it)."""
    if not _held:
        return None, []
    absolute = os.path.abspath(path)  # noqa: PTH100 - links stay
    with _lock:
        around = [held for held in _held if absolute.startswith(held.path.rstrip(os.sep) + os.sep)]
    if not around:
        return None, []
    innermost = max(around, key=lambda held: len(held.path))
    return innermost, list(Path(absolute).relative_to(innermost.path).parts)


def _open_folder(held: _Held, at: int, part: str, below: str) -> int:
    """Open a folder in folder `at`, the one that was used first.

    A link is followed if it was one, to the same target, when it was first used.
    """
    try:
        descriptor, target = os.open(part, _FOLDER_FLAGS | _NO_FOLLOW, dir_fd=at), None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            raise
        if not stat.S_ISLNK(os.stat(part, dir_fd=at, follow_symlinks=False).st_mode):
            raise
        target = os.readlink(part, dir_fd=at)
        descriptor = os.open(part, _FOLDER_FLAGS, dir_fd=at)
    first = held.links.setdefault(below, target)
    if target is not None and target != first:
        os.close(descriptor)
        raise OSError(errno.ELOOP, f"the folder {printable(held.path + below)} has become a link meanwhile")
    try:
        held.check_folder(descriptor, below)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
