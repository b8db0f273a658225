"""Compile the networks of a run, where that pays, in a way that a stop or a limit can end."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch

from m2l_runtime._utils.signals import WorkInterrupted, interrupted_when
from m2l_runtime._utils.text import printable
from m2l_train.models.pix2pix import Pix2Pix
from m2l_train.training.memory import is_out_of_memory

MIN_MINUTES: Final = 10.0
"""Minutes of training below which nothing is compiled. Compiling takes one or two, and makes steps some tenth or two
faster."""
_COMPILERS: Final = frozenset({"c++", "cc1plus", "g++", "gcc", "clang", "clang++", "ld", "as", "collect2", "ptxas"})


def why_not(networks: Pix2Pix, count: int, step_count: int, seconds_left: float) -> str | None:
    """Say why a run is not compiled: it is too short to win back the time; None where it is not.

    Args:
        networks: to be compiled; two steps are rehearsed to see how long one takes.
        count: pairs in a batch.
        step_count: steps that the call has ahead of it, at most.
        seconds_left: that it has for them.
    """
    if seconds_left >= 60 * MIN_MINUTES:
        networks.rehearse(count)  # the first one also prepares what later ones use
        began = time.perf_counter()
        networks.rehearse(count)
        if networks.device.type == "cuda":
            torch.cuda.synchronize(networks.device)
        seconds_left = min(seconds_left, step_count * (time.perf_counter() - began))
    if seconds_left >= 60 * MIN_MINUTES:
        return None
    return f"not compiled: {_minutes(seconds_left)} of training are too short to win back the time that it takes"


def _minutes(seconds: float) -> str:
    return f"{math.ceil(seconds / 6) / 10:g} min"


def compile_networks(
    networks: Pix2Pix, count: int, is_over: Callable[[], bool], on_note: Callable[[str], None]
) -> None:
    """Compile networks for batches of `count` pairs; where the compiler fails, they stay as they are.

    Args:
        networks: nothing of them is trained.
        count: pairs in a batch.
        is_over: asked on another thread; once true, compiling ends within a second or so.
        on_note: called with lines of text.

    Raises:
        RuntimeError: there is too little memory, as :func:`is_out_of_memory` tells.
    """
    on_note(f"compiling the networks for batches of {count}: it takes a minute or more (--no-compile does without)")
    began = time.monotonic()
    earlier, running = set(_descendants(os.getpid())), set[int]()

    def is_over_now() -> bool:
        over = is_over()
        if over:  # what a driver has started is nobody's child any more once PyTorch, interrupted, has ended the driver
            running.update(_compilers())
        return over

    try:
        with networks.unchanged(), warnings.catch_warnings(), interrupted_when(is_over_now):
            # What PyTorch traces looks for anomalies, and tells of an interruption as one, with all of its stack.
            warnings.filterwarnings("ignore", "Error detected in")
            networks.compile(count)
    except (WorkInterrupted, KeyboardInterrupt, SystemExit) as stop:
        _end_compilers(earlier, running)
        if not isinstance(stop, WorkInterrupted):
            raise
    except Exception as error:
        if is_over():  # a signal to the whole group has ended the compiler
            _end_compilers(earlier, running)
            return
        if is_out_of_memory(error):
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        on_note(
            f"warning: PyTorch cannot compile here, so training goes on without ({printable(first.strip())[:200]}); "
            "--no-compile does not try"
        )
    else:
        on_note(f"compiled in {time.monotonic() - began:.0f} s")


def _end_compilers(earlier: set[int], running: set[int]) -> None:
    """End the processes of PyTorch's compiler. Its own way waits until they are done with what they are at.

    Args:
        earlier: processes below this one that are not its.
        running: compilers that ran when it was interrupted, whoever they belong to now.
    """
    logging.getLogger("torch._inductor").disabled = True
    logging.getLogger("torch._inductor.compile_worker.subproc_pool").disabled = True
    pools: list[Any] = list(getattr(sys.modules.get("torch._inductor.async_compile"), "_pool_set", ()))
    roots = [process.pid for pool in pools if (process := getattr(pool, "process", None)) is not None]
    roots += [pid for pool in pools for pid in getattr(pool, "_processes", None) or ()]
    below = {pid for root in roots for pid in _descendants(root)} - earlier
    compilers = _compilers() | {pid for pid in running if _name(pid) in _COMPILERS}
    for pid in (*(set(roots) - earlier), *below, *(compilers - earlier)):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _compilers() -> set[int]:
    """Return the compilers and linkers below this process."""
    return {pid for pid in _descendants(os.getpid()) if _name(pid) in _COMPILERS}


def _descendants(pid: int) -> Iterator[int]:
    """Yield the processes below one, as Linux tells; none elsewhere."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield child
                yield from _descendants(child)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
