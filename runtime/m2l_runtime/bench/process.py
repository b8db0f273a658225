"""Run a command for the JSON that it prints last, or the reason why there is none. Its process never outlives the call.

Benchmarks run each side in a process of its own: one that crashes, hangs or runs out of memory spoils no other.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from m2l_runtime._utils.signals import children
from m2l_runtime._utils.temporary import temporary_errors
from m2l_runtime._utils.text import printable

TIMEOUT_S: Final = 900.0
_POLL_S: Final = 0.1
_MAX_MESSAGE_CHARS: Final = 300


@dataclass(frozen=True)
class ProcessResult:
    """Hold what became of a process."""

    document: Any = None
    """What the last line of its standard output was, as JSON; None if there is a reason."""
    reason: str | None = None
    """Why there is no document."""
    was_stopped: bool = False
    """Whether `should_stop` ended it."""


def run_for_json(
    command: Sequence[str | Path],
    *,
    request: bytes = b"",
    timeout_s: float = TIMEOUT_S,
    should_stop: Callable[[], bool] = lambda: False,
) -> ProcessResult:
    """Run `command` to its end, and read what it printed last.

    Example:
        >>> import sys
        >>> run_for_json([sys.executable, "-c", "print('[1, 2]')"]).document
        [1, 2]

    Args:
        command: program and arguments. It becomes the leader of a process group, so that a Ctrl-C reaches the caller
            alone; whatever ends this call, an exception included, ends the group first.
        request: written to its standard input, which then stays open as long as the caller lives: a process that reads
            on until the end of it knows when it is alone.
        timeout_s: seconds after which it is killed.
        should_stop: asked ten times a second; once it is true, the process is killed.
    """
    deadline = time.monotonic() + timeout_s
    with temporary_errors(), tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(  # noqa: S603 - the caller's own command
                command, stdin=subprocess.PIPE, stdout=out, stderr=err, process_group=0
            )
        except OSError as error:
            return ProcessResult(reason=f"its process does not start: {error.strerror or error}")
        children.add(process.pid)
        try:
            _send_request(process, request)
            while not _has_ended(process):
                if should_stop():
                    return ProcessResult(reason="stopped", was_stopped=True)
                if time.monotonic() > deadline:
                    return ProcessResult(reason=f"not done after {timeout_s:g} s, so its process was ended")
        finally:
            _end(process)
            children.discard(process.pid)
        return _read(process.returncode, out, err)


def _send_request(process: subprocess.Popen[bytes], request: bytes) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # it has ended already; how, its status tells
            process.stdin.write(request)
            process.stdin.flush()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _read(status: int, out: IO[bytes], err: IO[bytes]) -> ProcessResult:
    last_message = _last_line(err) or "it said nothing"
    if status < 0:
        return ProcessResult(reason=f"its process was ended by {_signal_name(-status)}: {last_message}")
    if status > 0:
        return ProcessResult(reason=f"its process ended with status {status}: {last_message}")
    try:
        return ProcessResult(json.loads(_last_line(out, max_chars=None)))
    except ValueError:
        return ProcessResult(reason=f"its process printed nothing that can be read: {last_message}")


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (too little memory?)" if number == signal.SIGKILL else name


def _last_line(file: IO[bytes], max_chars: int | None = _MAX_MESSAGE_CHARS) -> str:
    file.seek(0)
    lines = file.read().decode("utf-8", "replace").split("\n")
    text = next((line for line in reversed(lines) if line.strip()), "")
    return text if max_chars is None else printable(text.strip()[:max_chars])
