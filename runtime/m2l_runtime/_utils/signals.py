"""SIGINT and SIGTERM to a wish to stop, so that what is in flight can be finished first."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignals:
    """While the block runs, the first signal only sets a flag; a second one interrupts as usual."""

    def __init__(self, ending: str = "finishing what is in flight") -> None:
        self._ending = ending
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def is_set(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    @property
    def exit_status(self) -> int:
        """128 plus the signal's number, as a shell would say it."""
        return 128 + (self._signal or 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            if number == signal.SIGTERM:  # an interrupt would end with the status of SIGINT
                raise SystemExit(128 + number)
            raise KeyboardInterrupt
        self._signal = number
        with contextlib.suppress(AttributeError, OSError, ValueError):  # standard error may be closed, hence None
            sys.stderr.write(f"stopping: {self._ending} (once more to stop at once)\n")

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def raise_interrupt(error: BaseException) -> None:
    """Raise the KeyboardInterrupt or SystemExit that `error` came of, if it came of one.

    Libraries that catch everything turn a signal into an error of their own.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, KeyboardInterrupt | SystemExit):
            raise cause from None
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """SIGTERM leaves the block as SystemExit(143), so that temporary files go; by itself it ends a process at once."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM wait for the end of the block, then do what they do; within, the callable says if one came.

    For libraries whose native code calls back into Python: what a handler raises there they print, and go on.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where signals are not handled
        yield lambda: False
        return

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    heeded = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            handler = before[signal.Signals(came[0])]
            if callable(handler):
                handler(came[0], None)
            else:
                os.kill(os.getpid(), came[0])
