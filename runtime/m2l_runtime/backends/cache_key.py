"""Keep the key that seals compiled models: a user's own, which nobody else can read."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import Final

from m2l_runtime._utils.atomic import write_file
from m2l_runtime._utils.plain_file import open_plain
from m2l_runtime.errors import OutputError

KEY_NAME: Final = "cache-key"
_HEAD: Final = b"m2l cache key 1\n"
_KEY_BYTES: Final = 32
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def user_folder() -> Path:
    """Return the folder of m2l in the user's cache folder.

    Raises:
        RuntimeError: the user has no home.
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base or Path.home() / "AppData" / "Local", "m2l")
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if Path(base).is_absolute() else Path.home() / ".cache", "m2l")


def user_key(otherwise: Path) -> tuple[bytes, bool]:
    """Return (the user's key, whether it will be the same the next time).

    It is made where there is none, or one that is not the user's alone. It lies in the user's cache folder.

    Args:
        otherwise: folder for a key of its own, where the user has no folder that can be written.
    """
    with contextlib.suppress(RuntimeError, OSError, OutputError):
        folder = user_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name != "posix" or folder.stat().st_uid == os.geteuid():  # not so of `sudo -E`
            return _key_in(folder), True
    with contextlib.suppress(OSError, OutputError):
        return _key_in(otherwise), True
    return secrets.token_bytes(_KEY_BYTES), False


def _key_in(folder: Path) -> bytes:
    """Read the key in a folder, or make one.

    Raises:
        OSError, OutputError: none can be kept there, or not as the user's alone.
    """
    path = folder / KEY_NAME
    with contextlib.suppress(OSError):
        return _read_key(path)
    if os.path.lexists(path) and not path.is_file() and not path.is_symlink():
        path.unlink()  # a pipe
    write_file(path, _HEAD + secrets.token_bytes(_KEY_BYTES), durable=True, mode=0o600)
    return _read_key(path)


def _read_key(path: Path) -> bytes:
    with os.fdopen(open_plain(path), "rb") as file:
        status, content = os.fstat(file.fileno()), file.read(len(_HEAD) + _KEY_BYTES + 1)
    if not is_own(status) or (os.name == "posix" and (status.st_mode & _OTHERS or status.st_nlink != 1)):
        raise OSError(f"{path} is not its owner's alone")
    if len(content) != len(_HEAD) + _KEY_BYTES or not content.startswith(_HEAD):
        raise OSError(f"{path} is damaged")
    return content.removeprefix(_HEAD)


def is_own(status: os.stat_result) -> bool:
    """Tell whether a file or folder belongs to the user who runs this process, who alone may write to it."""
    if os.name != "posix":
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
