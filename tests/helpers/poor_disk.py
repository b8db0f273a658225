"""Let this process see a file system that lacks a part of what others have."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest


def refuse(monkeypatch: pytest.MonkeyPatch, number: int, *names: str) -> None:
    """Let functions of `os`, or ``flock``, answer with an error number."""

    def function(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in names:
        monkeypatch.setattr(fcntl if name == "flock" else os, name, function)


def limit_names(monkeypatch: pytest.MonkeyPatch, root: Path, max_bytes: int, *, tells_ahead: bool) -> None:
    """Take no names of more than `max_bytes` below `root`; whoever looks for one is told so only if `tells_ahead`."""
    for function in ("replace", "rename", "open", "mkdir", "unlink", *(("lstat", "stat") if tells_ahead else ())):
        _limit(monkeypatch, function, root, max_bytes)


def _limit(monkeypatch: pytest.MonkeyPatch, function: str, root: Path, max_bytes: int) -> None:
    original: Any = getattr(os, function)

    def limited(*arguments: Any, **options: Any) -> Any:
        is_below = any(options.get(name) is not None for name in ("dir_fd", "dst_dir_fd"))  # of a folder that is held
        for path in arguments[:2]:
            name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
            is_long = any(len(os.fsencode(part)) > max_bytes for part in name.split("/"))
            if is_long and (is_below or name.startswith(f"{root}/")):
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        return original(*arguments, **options)

    monkeypatch.setattr(os, function, limited)
