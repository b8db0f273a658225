"""Keep compiled models on disk, by what they were compiled from and for. They are never trusted without their hash."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from m2l_runtime._utils import atomic
from m2l_runtime._utils.file_lock import hold_if_possible
from m2l_runtime._utils.text import command_word, printable
from m2l_runtime.errors import OutputError

_SUFFIX: Final = ".compiled"
_MAX_BYTES: Final = 1 << 33
_HASH_SIZE: Final = hashlib.sha256().digest_size


class CompiledCache:
    """Keep files in a folder: in each the SHA-256 of what follows, then what an engine gave to be kept.

    It belongs to the user alone: an engine that is given altered bytes may do anything. The hash finds damage, which
    OpenVINO does not; it does not keep out who may write there. Processes may share it: files appear whole.
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
        if os.name == "posix":
            _require_private(folder)

    def read(self, key: Mapping[str, str], allocate: Callable[[int], Any]) -> bool:
        """Read what was kept under the same words into the engine's own memory; False if nothing was, or if damaged.

        Args:
            key: as it was written.
            allocate: a number of bytes to as much memory to write to.
        """
        try:
            with self._path(key).open("rb") as file:
                size = os.fstat(file.fileno()).st_size - _HASH_SIZE
                if not 0 < size <= _MAX_BYTES:
                    return False
                expected, memory = file.read(_HASH_SIZE), allocate(size)
                return file.readinto(memory) == size and hashlib.sha256(memory).digest() == expected
        except OSError:
            return False

    def write(self, key: Mapping[str, str], content: bytes) -> None:
        """Keep data, in place of what was kept under the same words.

        Raises:
            OutputError: it cannot be written.
        """
        atomic.write_file(self._path(key), hashlib.sha256(content).digest() + content)

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
        words = json.dumps(dict(key), sort_keys=True).encode()
        return self._folder / f"{hashlib.sha256(words).hexdigest()[:32]}{_SUFFIX}"


def _require_private(folder: Path) -> None:
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise OutputError(
            f"the folder for compiled models {printable(folder)} belongs to another user; choose one of your own"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OutputError(
            f"others may write to the folder for compiled models {printable(folder)}, and so choose what runs here; "
            f"choose another, or: chmod go-w {command_word(folder)}"
        )
