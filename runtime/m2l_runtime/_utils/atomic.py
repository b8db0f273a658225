"""Write files and folders that appear whole under their final name, or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from m2l_runtime._utils.text import printable
from m2l_runtime.errors import M2LError, OutputError

if sys.platform != "win32":
    import fcntl


PREFIX: Final = ".m2l-"
SUFFIX: Final = ".partial"


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
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass


def check_new_file(path: Path, *, overwrite: bool) -> None:
    """Check that a file can be written at `path`, before the work that its content takes.

    Raises:
        OutputError: it is a folder, exists and may not be replaced, or its folder is not there or cannot be written.
    """
    if path.is_dir():
        raise OutputError(f"{printable(path)} is a folder; expected the name of a file")
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{printable(path)} exists already; choose another name or give --overwrite")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {printable(path.parent)} does not exist; make it first")
    with output_errors(path), tempfile.TemporaryFile(dir=path.parent):
        pass


def check_new_folder(path: Path) -> None:
    """Check that a folder can be created or replaced at `path`, with missing parents, before the work.

    Raises:
        OutputError: a parent is a file, or cannot be written.
    """
    there = path.absolute().parent
    while not os.path.lexists(there):
        there = there.parent
    with output_errors(path), tempfile.TemporaryFile(dir=there):
        pass


def write_file(path: Path, data: bytes, *, durable: bool = False, tag: str = "") -> None:
    """Write `data` to a temporary name in the same folder, then rename it to `path`.

    Args:
        path: final name; its folder must exist; an existing file is replaced.
        data: the whole content.
        durable: also wait until the bytes are on the disk.
        tag: stands in the temporary name, for :func:`remove_leftovers`.

    Raises:
        OutputError: it could not be written; nothing is left behind.
    """
    with output_errors(path):
        if os.path.lexists(path) and not (path.is_file() or path.is_symlink()):
            raise OutputError(f"{printable(path)} is not a plain file, so it is not replaced; choose another name")
        descriptor, temporary = tempfile.mkstemp(prefix=f"{PREFIX}{tag}", suffix=SUFFIX, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            _apply_umask(temporary, 0o666)
            os.replace(temporary, path)  # noqa: PTH105 - one call, both names
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise


class HashedFile:
    """Write a file piece by piece under a temporary name; `commit` renames it to `path`.

    The content is hashed while it is written, so it can only be written forwards.
    """

    def __init__(self, path: Path, *, tag: str = "") -> None:
        self.path = path
        with output_errors(path):
            prefix = f"{PREFIX}{tag}"
            descriptor, self._temporary = tempfile.mkstemp(prefix=prefix, suffix=SUFFIX, dir=path.parent)
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
                os.fsync(self._file.fileno())
                self._file.close()
                _apply_umask(self._temporary, 0o666)
                os.replace(self._temporary, self.path)  # noqa: PTH105
            except BaseException:
                self.discard()
                raise
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Remove the temporary file."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)  # noqa: PTH108


def remove_inside(folder: Path, name: str) -> None:
    """Remove the file `name` below `folder`, if it is there and lies inside. No file has a name that none can have.

    Raises:
        OutputError: it cannot be removed.
    """
    path = folder / name
    with output_errors(path), contextlib.suppress(IsADirectoryError, NotADirectoryError, ValueError, RuntimeError):
        try:
            if path.parent.resolve().is_relative_to(folder.resolve()):  # RuntimeError: links in a circle
                path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
                raise


def remove_leftovers(folder: Path, tag: str) -> int:
    """Remove the temporary files of `tag` that a killed run has left in `folder` and below; return how many.

    Call it only while nobody else may write with this tag.
    """
    count = 0
    for path in folder.rglob(f"{PREFIX}{tag}*{SUFFIX}"):
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
    mark = f".{path.name[:100]}.m2l"
    previous = path.parent / f"{mark}-previous"
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path, mark, previous)
        if os.path.lexists(path):
            if may_replace is None:
                raise OutputError(f"{printable(path)} exists already; choose another name or --overwrite it")
            may_replace(path)
        staging = Path(tempfile.mkdtemp(prefix=f"{mark}-", suffix=".partial", dir=path.parent))
        hold = _lock_folder(staging)
        try:
            _apply_umask(staging, 0o777)
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


def _sync(path: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _apply_umask(path: str | Path, mode: int) -> None:
    """Set the permissions that open() and mkdir() would have set; tempfile makes everything private."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, mode & ~umask)  # noqa: PTH101


def file_sha256(path: Path) -> str | None:
    """Hash a plain file (SHA-256); None if it is not one, or cannot be read."""
    try:
        if not path.is_file():  # a pipe would wait for somebody to write to it
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
