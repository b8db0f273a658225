"""Write files and folders that appear whole under their final name, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from m2l_runtime._utils import held_folder
from m2l_runtime._utils.file_system import cut_name, is_name_error, name_error, sync
from m2l_runtime._utils.held_folder import place
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import M2LError, OutputError

if sys.platform != "win32":
    import fcntl


PREFIX: Final = ".m2l-"
SUFFIX: Final = ".partial"

_NEW_FILE: Final[int] = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing `path` into an OutputError that names it."""
    try:
        yield
    except M2LError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {printable(path)}: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """Make `path` and its parents, and make sure that files can be created in it.

    Raises:
        OutputError: it is a file, or nothing can be created there.
    """
    with output_errors(path):
        held_folder.make_folder(path)
        _require_writable(path)


def _require_writable(folder: Path) -> None:
    """Make a file in `folder` and remove it."""
    with place(folder / "any") as (at, name):
        descriptor, temporary = _make_temporary(at, name, "")
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=at)


def _make_temporary(folder: int | None, name: str, tag: str, mode: int = 0o666) -> tuple[int, str]:
    """Make a new file beside `name` and return (descriptor, its name), both as :func:`place` gives them.

    Its permissions are never changed: not every file system lets them be, and the umask is the whole process's.
    """
    while True:
        temporary = os.path.join(os.path.dirname(name), f"{PREFIX}{tag}{secrets.token_hex(6)}{SUFFIX}")  # noqa: PTH118, PTH120
        with contextlib.suppress(FileExistsError):
            return _open_new(temporary, folder, mode), temporary


def _open_new(name: str, folder: int | None, mode: int) -> int:
    if folder is None:
        return os.open(name, _NEW_FILE, mode)
    return os.open(name, _NEW_FILE, mode, dir_fd=folder)


def create_file(path: Path, data: bytes) -> None:
    """Write a file in a folder that is built (:func:`staged_folder`), with the folders it lies in.

    Raises:
        OutputError: it is there, or cannot be written.
    """
    with (
        output_errors(path),
        place(path, make_parents=True) as (folder, name),
        os.fdopen(_open_new(name, folder, 0o666), "wb") as file,
    ):
        file.write(data)


def check_new_file(path: Path, *, overwrite: bool) -> None:
    """Check that a file can be written at `path`, before the work that its content takes.

    Raises:
        OutputError: it is a folder, exists and may not be replaced, its folder is not there or cannot be written, or
            the disk takes no such name.
    """
    check_name(path)
    if path.is_dir():
        raise OutputError(f"{printable(path)} is a folder; expected the name of a file")
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{printable(path)} exists already; choose another name or give --overwrite")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {printable(path.parent)} does not exist; make it first")
    with output_errors(path):
        _require_writable(path.parent)


def check_name(path: Path) -> None:
    """Check that the disk takes a name, before the work that its content takes.

    Raises:
        OutputError: it does not.
    """
    refused = name_error(path)
    if refused is not None:
        raise OutputError(f"cannot write {printable(path)}: {refused.strerror}; choose a shorter name") from refused


def check_new_folder(path: Path) -> None:
    """Check that a folder can be created or replaced at `path`, with missing parents, before the work.

    Raises:
        OutputError: a parent is a file, or cannot be written, or the disk takes no such name.
    """
    check_name(path)
    there = path.absolute().parent
    while not os.path.lexists(there):
        there = there.parent
    with output_errors(path):
        _require_writable(there)


def write_file(path: Path, data: bytes, *, durable: bool = False, tag: str = "", mode: int = 0o666) -> None:
    """Write `data` to a temporary name in the same folder, then rename it to `path`.

    Args:
        path: final name; its folder must exist; an existing file is replaced.
        data: the whole content.
        durable: also wait until the bytes are on the disk.
        tag: stands in the temporary name, for :func:`remove_leftovers`.
        mode: permissions, of which the umask is taken away.

    Raises:
        OutputError: it could not be written; nothing is left behind.
    """
    with output_errors(path):
        if os.path.lexists(path) and not (path.is_file() or path.is_symlink()):
            raise OutputError(f"{printable(path)} is not a plain file, so it is not replaced; choose another name")
        with place(path) as (folder, name):
            descriptor, temporary = _make_temporary(folder, name, tag, mode)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    if durable:
                        file.flush()
                        sync(file.fileno())
                _replace(temporary, name, folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise


def _replace(temporary: str, name: str, folder: int | None) -> None:
    if folder is None:
        os.replace(temporary, name)  # noqa: PTH105 - one call, both names
    else:
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


class HashedFile:
    """Write a file piece by piece under a temporary name; `commit` renames it to `path`.

    The content is hashed while it is written, so it can only be written forwards.
    """

    def __init__(self, path: Path, *, tag: str = "") -> None:
        self.path = path
        with output_errors(path), place(path) as (folder, name):
            descriptor, self._temporary = _make_temporary(folder, name, tag)
        self._file = os.fdopen(descriptor, "wb")
        self._hash = hashlib.sha256()
        self._at = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Append `data`; return its length in bytes."""
        self._hash.update(data)
        self._at += memoryview(data).nbytes
        return self._file.write(data)

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._at

    def flush(self) -> None:
        """Pass what is written to the operating system."""
        self._file.flush()

    def writable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return False."""
        return False

    def seekable(self) -> bool:
        """Return False."""
        return False

    def close(self) -> None:
        """Do nothing. Writers close what they write to, but only `commit` and `discard` end this file."""

    def commit(self) -> str:
        """Wait until the bytes are on the disk, rename, and return the SHA-256 of the content."""
        with output_errors(self.path):
            try:
                self._file.flush()
                sync(self._file.fileno())
                self._file.close()
                with place(self.path) as (folder, name):
                    _replace(self._temporary, name, folder)
            except BaseException:
                self.discard()
                raise
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Remove the temporary file."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError), place(self.path) as (folder, _):
            os.unlink(self._temporary, dir_fd=folder)


def remove_inside(folder: Path, name: str) -> None:
    """Remove the file `name` below `folder`, if it is there and lies inside. No file has a name that none can have.

    Raises:
        OutputError: it cannot be removed.
    """
    path = folder / name
    gone_or_folder = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    of_no_file = (ValueError, RuntimeError)  # a name with NUL, links in a circle
    with output_errors(path), contextlib.suppress(*gone_or_folder, *of_no_file):
        try:
            if path.parent.resolve().is_relative_to(folder.resolve()):
                with place(path) as (at, file):
                    os.unlink(file, dir_fd=at)
        except OSError as error:
            if not is_name_error(error):  # nothing can be there by a name that the disk does not take
                raise


def remove_leftovers(folder: Path, tag: str, *, is_deep: bool = True) -> int:
    """Remove the temporary files of `tag` that a killed run has left in `folder` and below; return how many.

    Call it only while nobody else may write with this tag.

    Args:
        folder: where to look.
        tag: part of the temporary names.
        is_deep: whether to look in folders below, too.
    """
    count = 0
    pattern = f"{PREFIX}{tag}*{SUFFIX}"
    for path in folder.rglob(pattern) if is_deep else folder.glob(pattern):
        with contextlib.suppress(OSError):
            path.unlink()
            count += 1
    return count


@contextlib.contextmanager
def staged_folder(path: Path, *, may_replace: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Build a folder beside `path`; it becomes `path` when the block ends without an error.

    What a killed build has left beside `path` is removed first. An existing `path` is moved aside, the new folder moved
    in, and the old one removed. If the machine dies at any moment, the old or the new folder is there whole. The old
    one may then have a hidden name; the next call restores it.

    Args:
        path: the final place of the folder.
        may_replace: called with `path` if it exists; raises if it may not be replaced. None: it may not.

    Raises:
        OutputError: `path` exists and may not be replaced, or its parent cannot be written.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - the final name counts, not what a link points to
    mark = f".{_short(path.name)}.m2l"
    previous = path.parent / f"{mark}-previous"
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path, mark, previous)
        if os.path.lexists(path):
            if may_replace is None:
                raise OutputError(f"{printable(path)} exists already; choose another name or --overwrite it")
            may_replace(path)
        check_name(path)
        staging = path.parent / f"{mark}-{secrets.token_hex(6)}.partial"
        staging.mkdir()
        made = staging.lstat()
        hold = _lock_folder(staging)
        try:
            with held_folder.held_folder(staging):
                yield staging
            for file in staging.rglob("*"):
                _sync(file)
            _sync(staging)
            if os.path.lexists(path):
                if may_replace is None:
                    raise OutputError(f"{printable(path)} has appeared meanwhile; it was left as it is")
                path.rename(previous)
            staging.rename(path)
            _sync(path.parent)
            _remove(previous)
        finally:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(staging.lstat(), made):  # not what took its place
                    _remove(staging)
            if hold is not None:
                os.close(hold)


def _remove_leftovers(path: Path, mark: str, previous: Path) -> None:
    if os.path.lexists(previous):
        if os.path.lexists(path):
            _remove(previous)
        else:
            previous.rename(path)
    for stale in path.parent.glob(f"{_literal(mark)}-*.partial"):
        hold = _lock_folder(stale)
        if hold is not None:  # nobody alive holds it
            _remove(stale)
            os.close(hold)


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _lock_folder(folder: Path) -> int | None:
    """Mark `folder` as in use while this process lives: return a descriptor, or None if it is in use."""
    if sys.platform == "win32":  # nothing there tells a living build from a dead one, so none is swept away
        return None
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def _short(name: str) -> str:
    """Shorten a name so that more can be added to it; two long ones stay two."""
    short = cut_name(name, 60)
    return name if short == name else f"{short}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk.

    Raises:
        OSError: it did not get there.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a folder cannot be opened everywhere
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def file_sha256(path: Path) -> str | None:
    """Hash a plain file (SHA-256); None if it is not one, or cannot be read."""
    try:
        if not path.is_file():  # a pipe would wait for somebody to write to it
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
