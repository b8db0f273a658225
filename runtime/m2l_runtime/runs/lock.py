"""Lock an output folder for one run at a time, or for the shards of one run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from m2l_runtime._utils import atomic
from m2l_runtime._utils.held_folder import held_folder
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import OutputError

_WHOLE: Final = ".m2l-lock"
_PATIENCE_S: Final = 1.0
"""Seconds to wait for a lock: a run that begins at the same time holds one for a moment, to see if it is free."""


@contextlib.contextmanager
def locked(out: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Hold `out` for shard `shard` (number from 1, of how many) while the block runs.

    Shards of a run work side by side. The same shard twice, or a shard beside a whole run, is an error. The
    operating system releases a lock when its process dies. What is written in the folder meanwhile goes into this very
    folder (:mod:`m2l_runtime._utils.held_folder`).

    Raises:
        OutputError: another run holds the folder, or a lock cannot be made there; or the folder was replaced meanwhile.
    """
    is_whole = shard[1] == 1
    own = out / (_WHOLE if is_whole else f"{_WHOLE}-{shard[0]}-of-{shard[1]}")
    with held_folder(out), contextlib.ExitStack() as stack:
        with atomic.output_errors(own):
            try:
                stack.enter_context(FileLock(own, timeout=_PATIENCE_S))
                others = sorted(out.glob(f"{_WHOLE}-*-of-*")) if is_whole else [out / _WHOLE]
                for other in others:
                    if other.exists():
                        with FileLock(other, timeout=_PATIENCE_S):
                            pass
            except Timeout as error:
                name = Path(error.lock_file).name
                raise OutputError(
                    f"another m2l run is writing to {printable(out)} (it holds {name}); wait for it, stop it, or "
                    "choose another folder"
                ) from None
        yield  # outside: an error of the block has nothing to do with the lock's file
