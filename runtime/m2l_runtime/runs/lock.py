"""Lock an output folder for one run at a time, or for the shards of one run."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from m2l_runtime._utils.file_lock import MARKER_SUFFIX, LockBusyError, hold, is_held
from m2l_runtime._utils.held_folder import held_folder
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import OutputError

_WHOLE: Final = ".m2l-lock"
_SHARD: Final = re.compile(r"\.m2l-lock-[0-9]+-of-[0-9]+")
_PATIENCE_S: Final = 1.0
"""Seconds to wait for a lock: a run that begins at the same time holds one for a moment, to see if it is free."""


@contextlib.contextmanager
def locked(out: Path, shard: tuple[int, int], on_note: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold `out` for shard `shard` (number from 1, of how many) while the block runs.

    Shards of a run work side by side. The same shard twice, or a shard beside a whole run, is an error. The
    operating system releases a lock when its process dies. Where the file system has no locks, `on_note` is called with
    a warning, and a file beside the lock stands in for it (:mod:`m2l_runtime._utils.file_lock`). What is written in the
    folder meanwhile goes into this very folder (:mod:`m2l_runtime._utils.held_folder`).

    Raises:
        OutputError: another run holds the folder, or a lock cannot be made there; or the folder was replaced meanwhile.
    """
    is_whole = shard[1] == 1
    own = out / (_WHOLE if is_whole else f"{_WHOLE}-{shard[0]}-of-{shard[1]}")
    with held_folder(out), contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(own, timeout_s=_PATIENCE_S, on_note=on_note))
            for other in _shard_locks(out) if is_whole else [out / _WHOLE]:
                busy = is_held(other, patience_s=_PATIENCE_S)
                if busy is not None:
                    raise busy
        except LockBusyError as busy:
            raise OutputError(
                f"another m2l run is writing to {printable(out)} (it holds {printable(busy.path.name)}); wait for it, "
                f"stop it, or choose another folder{busy.advice}"
            ) from None
        yield  # outside: an error of the block has nothing to do with the lock's file


def _shard_locks(out: Path) -> list[Path]:
    """Return the locks of shards that are or were in a folder."""
    names = {path.name.removesuffix(MARKER_SUFFIX) for path in out.glob(f"{_WHOLE}-*-of-*")}
    return [out / name for name in sorted(names) if _SHARD.fullmatch(name)]
