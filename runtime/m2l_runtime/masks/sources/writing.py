"""Write drawn masks to a folder, all of them or none."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec

from m2l_runtime._utils import atomic
from m2l_runtime._utils.cpu import check_workers, usable_cpus
from m2l_runtime._utils.reading import MAX_LINE_BYTES, decode_line, read_input
from m2l_runtime._utils.text import printable
from m2l_runtime._version import __version__
from m2l_runtime.errors import OutputError
from m2l_runtime.masks.sources.mask_source import DrawnMasks

SOURCE_FILE: Final = "masks.json"
"""Says how the masks in a folder were made."""
FORMAT: Final = "m2l masks 1"
_MASK: Final = re.compile(r"\d{6,}-.*\.png", re.DOTALL)


def write_masks(
    masks: DrawnMasks,
    out: str | os.PathLike[str],
    about: dict[str, Any],
    *,
    overwrite: bool = False,
    workers: int | None = None,
    on_mask: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Draw masks and write them as PNG files, with a ``masks.json`` that says how they were made.

    The folder appears when all masks are in it. Memory does not grow with their number.

    Args:
        masks: what to draw.
        out: folder to write.
        about: the options, for masks.json.
        overwrite: replace a folder that this function has written before; nothing else is ever replaced.
        workers: threads; None: as many as CPUs.
        on_mask: called after each mask.
        should_stop: asked between masks; once true, nothing is written.

    Returns:
        Whether they were written; False if stopped.

    Raises:
        OutputError: `out` exists and may not be replaced, or cannot be written, or the disk does not take the name of
            a mask.
        InputError: a mask cannot be drawn with these options; nothing was written.
    """
    check_workers(workers)
    count = workers or usable_cpus()
    pending: deque[Future[None]] = deque()
    try:
        with atomic.staged_folder(Path(out), may_replace=_require_masks if overwrite else None) as staging:
            atomic.check_name(staging / max(masks.names, key=lambda name: len(os.fsencode(name)), default=""))

            def write(name: str) -> None:
                atomic.create_file(staging / name, masks.content(name))

            def take_result() -> None:
                pending.popleft().result()
                on_mask()

            with ThreadPoolExecutor(count, "m2l-worker") as pool:
                try:
                    for name in masks.names:
                        if should_stop():
                            raise _Stopped
                        pending.append(pool.submit(write, name))
                        if len(pending) >= 4 * count:
                            take_result()
                    while pending:
                        take_result()
                finally:
                    for future in pending:
                        future.cancel()
            text = {"format": FORMAT, "m2l": __version__, "count": len(masks.names), **about}
            atomic.create_file(staging / SOURCE_FILE, msgspec.json.format(msgspec.json.encode(text), indent=2) + b"\n")
    except _Stopped:
        return False
    return True


class _Stopped(Exception):
    """End the writing of a folder, so that it is discarded."""


def _require_masks(path: Path) -> None:
    """Refuse to replace anything but a folder of drawn masks."""
    try:
        about = decode_line(read_input(path / SOURCE_FILE, MAX_LINE_BYTES), dict[str, Any])
    except (OSError, ValueError):
        about = None
    foreign = (
        []
        if about is None
        else [p.name for p in path.iterdir() if not (p.name == SOURCE_FILE or _MASK.fullmatch(p.name))]
    )
    if foreign:
        raise OutputError(
            f"{printable(path)} also holds {printable(foreign[0])}, so it is not overwritten; move that elsewhere, or "
            "choose another name"
        )
    if about is None or about.get("format") != FORMAT:
        raise OutputError(
            f"{printable(path)} is no folder of `m2l masks`, so it is not overwritten; choose another name"
        )
