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

    def check(self) -> None:
        """Raise an OSError if another folder, a link or nothing has this name now."""
        try:
            is_same = os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))  # noqa: PTH116
        except FileNotFoundError:
            is_same = False
        if not is_same:
            raise OSError(
                errno.ESTALE,
                f"the folder {printable(self.path)} was moved, removed or replaced meanwhile; bring back the one that "
                "had this name, and --resume",
            )


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
        os.close(descriptor)


@contextlib.contextmanager
def place(path: Path, *, make_parents: bool = False) -> Iterator[tuple[int | None, str]]:
    """Yield where a file is to be reached: (descriptor of its folder, its name), or (None, its path).

    Args:
        path: of the file.
        make_parents: make folders that are not there. Of a folder that is not held, none is made but its parents are
            left to the caller.

    Raises:
        OSError: its folder is not there or cannot be opened; or is held, and another one has taken its place; or lies
            in a held one, and has become a link since it was first used.
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
    """Make sure that the held folder that a path lies in, if there is one, is still the one of its name.

    Raises:
        OSError: another one has taken its place.
    """
    held, _ = _find(path)
    if held is not None:
        held.check()


def make_folder(folder: Path) -> None:
    """Make a folder and its parents below a held one, or anywhere if it is in none.

    Raises:
        OSError: as :func:`place`.
    """
    with place(folder / "any", make_parents=True):
        pass


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
    """Open a folder in folder `at`. A link is followed if it was one, to the same target, when it was first used."""
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
    return descriptor
