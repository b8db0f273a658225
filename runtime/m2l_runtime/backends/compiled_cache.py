"""Keep compiled models on disk, by what they were compiled from and for. None is taken that its user did not seal."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from m2l_runtime._utils import atomic
from m2l_runtime._utils.file_lock import hold_if_possible
from m2l_runtime._utils.plain_file import open_plain
from m2l_runtime._utils.text import command_word, printable
from m2l_runtime.backends.cache_key import is_own, user_key
from m2l_runtime.errors import OutputError

_SUFFIX: Final = ".compiled"
_MAX_BYTES: Final = 1 << 32
_HASH_BYTES: Final = hashlib.sha256().digest_size
_HEAD_BYTES: Final = 2 * _HASH_BYTES


class CompiledCache:
    """Keep files in a folder: in each a seal, the SHA-256 of what follows, then what an engine gave to be kept.

    An engine that is given altered bytes may do anything. So the folder and each file must belong to the user alone,
    and the seal says that this user wrote these bytes for these words: it is their HMAC-SHA-256 with a key that nobody
    else can read (:mod:`m2l_runtime.backends.cache_key`). What somebody left there while others could write to the
    folder, and what was moved from another name, is passed over. Processes may share it: files appear whole.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder, for its owner alone, if it is not there.

        Raises:
            OutputError: it is a file, cannot be made or written, belongs to somebody else, or others may write to it.
        """
        self._folder = folder
        with atomic.output_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.make_folder(folder)
        _require_private(folder)
        self._key, is_lasting = user_key(folder)
        self.notes: tuple[str, ...] = () if is_lasting else (_NO_KEY_NOTE,)
        """What a person should know."""

    def read(self, key: Mapping[str, str], allocate: Callable[[int], Any]) -> bool:
        """Read what this user kept under the same words into the engine's own memory; False if nothing, or if damaged.

        Args:
            key: as it was written.
            allocate: a number of bytes to as much memory to write to. Called only for a size that the seal vouches for.
        """
        try:
            with os.fdopen(open_plain(self._path(key)), "rb") as file:
                status, head = os.fstat(file.fileno()), file.read(_HEAD_BYTES)
                size = status.st_size - _HEAD_BYTES
                if not is_own(status) or not 0 < size <= _MAX_BYTES:
                    return False
                seal, expected = head[:_HASH_BYTES], head[_HASH_BYTES:]
                if not hmac.compare_digest(seal, self._seal(key, size, expected)):
                    return False
                memory = allocate(size)
                return file.readinto(memory) == size and hashlib.sha256(memory).digest() == expected
        except OSError:
            return False

    def write(self, key: Mapping[str, str], content: bytes) -> None:
        """Keep data, in place of what was kept under the same words.

        Raises:
            OutputError: it cannot be written, or is larger than 4 GiB.
        """
        path, sha256 = self._path(key), hashlib.sha256(content).digest()
        if len(content) > _MAX_BYTES:
            raise OutputError(f"{len(content):,} bytes are more than the {_MAX_BYTES:,} that are kept")
        with atomic.output_errors(path):
            if path.is_dir() and not path.is_symlink():
                raise OutputError(f"a folder has the name of the compiled model, {printable(path)}; remove it")
            if os.path.lexists(path) and not path.is_file():
                path.unlink()  # a pipe
        atomic.write_file(path, self._seal(key, len(content), sha256) + sha256 + content, mode=0o600)

    @contextmanager
    def locked(self, key: Mapping[str, str], on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Let one process at a time into the block, of all that ask for what is kept under the same words.

        Where the file system has no locks, all of them: files appear whole, so work is done twice at worst.

        Args:
            key: as it is written.
            on_wait: called once if another is in it.

        Raises:
            OutputError: the folder cannot be written to.
        """
        with hold_if_possible(self._path(key).with_suffix(".lock"), on_wait=on_wait, mode=0o600):
            yield

    def _path(self, key: Mapping[str, str]) -> Path:
        return self._folder / f"{hashlib.sha256(_words(key)).hexdigest()[:32]}{_SUFFIX}"

    def _seal(self, key: Mapping[str, str], size: int, sha256: bytes) -> bytes:
        return hmac.digest(self._key, size.to_bytes(8, "little") + sha256 + _words(key), "sha256")


_NO_KEY_NOTE: Final = (
    "compiled models are kept for this process alone: no key of this user's own can be kept, neither in the cache "
    "folder of the home (XDG_CACHE_HOME) nor beside them"
)


def _words(key: Mapping[str, str]) -> bytes:
    return json.dumps(dict(key), sort_keys=True).encode()


def _require_private(folder: Path) -> None:
    if os.name != "posix":
        return
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise OutputError(
            f"the folder for compiled models {printable(folder)} belongs to another user; choose one of your own"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OutputError(
            f"others may write to the folder for compiled models {printable(folder)}, and so choose what runs here; "
            f"choose another, or: chmod go-w {command_word(folder)} (of what is in it, only what you wrote is taken)"
        )
