"""Handle SIGINT and SIGTERM so that work in progress can finish first."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self

_POLL_S: Final = 0.1
_AGAIN_S: Final = 1.0
_SHOW_CURSOR: Final = b"\x1b[?25h"  # which a progress bar hides


@contextlib.contextmanager
def second_signal_ends() -> Iterator[None]:
    """End the process at once at the second SIGINT or SIGTERM within the block, whatever it is doing.

    Python handles signals between two operations of its own in the main thread. An engine that never returns keeps it
    from that, and so does a wait for a thread that runs one. So a thread of its own is told of signals by the system
    (:func:`signal.set_wakeup_fd`). It needs Python's lock, which engines give back while they compute. Temporary files
    stay, as after a kill; the next run removes them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    _stop_telling_forks()
    threading.Thread(target=_watch, args=(reading,), name="m2l-signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writing.close()


@functools.cache
def _stop_telling_forks() -> None:
    """Keep processes that are forked from this one from telling its thread of their signals."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_tell_nobody)


def _tell_nobody() -> None:
    with contextlib.suppress(ValueError):  # it is not the main thread that forked
        signal.set_wakeup_fd(-1)


def _watch(reading: socket.socket) -> None:
    """Count the signals that the system tells of; end the process at the second one."""
    count = 0
    with reading:
        while numbers := reading.recv(16):
            for number in numbers:
                count += number in (signal.SIGINT, signal.SIGTERM)
                if count == 2:
                    end_at_once(number)


def end_at_once(number: int) -> NoReturn:
    """End the process with the status of a signal, without waiting for anything."""
    with contextlib.suppress(OSError, ValueError):
        os.write(2, (_SHOW_CURSOR if os.isatty(2) else b"") + b"m2l: stopped at once\n")
    for child in list(children):
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)
    os._exit(128 + number)


children: Final[set[int]] = set()
"""Process groups that are ended with this process."""


class StopSignals:
    """Set a flag at the first signal within a block; a second one ends the process at once."""

    def __init__(self, ending: str = "finishing what is in flight") -> None:
        self._ending = ending
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def is_set(self) -> bool:
        """Tell whether a signal has come."""
        return self._signal is not None

    @property
    def exit_status(self) -> int:
        """128 plus the signal's number, as shells report it."""
        return 128 + (self._signal or 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            end_at_once(number)
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


class WorkInterrupted(BaseException):
    """Signal that work within :func:`interrupted_when` was ended; not an Exception, which libraries would wrap."""


@contextlib.contextmanager
def interrupted_when(is_over: Callable[[], bool]) -> Iterator[None]:
    """Raise WorkInterrupted within the block once `is_over`, which another thread asks ten times a second.

    For work that cannot ask by itself. Where signals are not handled (off the main thread, on Windows) the block runs
    to its end.

    Raises:
        WorkInterrupted: it is over; raised again and again until the block has ended, as libraries may drop it. Python
            drops it in a destructor or a callback of a weak reference: that is not told then.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_kill"):
        yield
        return
    main, has_ended = threading.main_thread().ident or 0, threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not has_ended.is_set():
            raise WorkInterrupted

    def watch() -> None:
        while not has_ended.wait(_POLL_S):
            if is_over():
                signal.pthread_kill(main, signal.SIGALRM)
                has_ended.wait(_AGAIN_S)

    tell = sys.unraisablehook

    def tell_of_others(dropped: sys.UnraisableHookArgs) -> None:
        if not isinstance(dropped.exc_value, WorkInterrupted):
            tell(dropped)

    sys.unraisablehook = tell_of_others
    before = signal.signal(signal.SIGALRM, interrupt)
    watcher = threading.Thread(target=watch, name="m2l-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        has_ended.set()
        watcher.join()
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = tell


def raise_interrupt(error: BaseException) -> None:
    """Raise the KeyboardInterrupt or SystemExit that caused `error`, if one did.

    Libraries that catch everything turn a signal into their own error.
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
    """Turn SIGTERM within the block into SystemExit(143), so that temporary files are removed."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Delay SIGINT and SIGTERM until the end of the block; the callable tells whether one has come.

    For libraries whose native code calls back into Python: they print what a handler raises there, and go on.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # where signals are not handled
        yield lambda: False
        return

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            end_at_once(number)
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
