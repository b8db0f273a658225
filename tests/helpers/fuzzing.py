"""Damage files on purpose, the same way each time, and count what a reader makes of them."""

from __future__ import annotations

import contextlib
import json
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

import numpy as np

from m2l_runtime.errors import M2LError

HANG_CPU_S: Final = 10.0
"""CPU seconds for one input above which it counts as a hang. Time of the clock would count other processes' work."""

_BYTES: Final = [
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff" * 4,
    b"\x00" * 4,
    b"\xff\xff\xff\x7f",
    b"\x80" * 9 + b"\x01",
]

HOSTILE: Final[list[Any]] = [
    None,
    True,
    -1,
    0,
    10**18,
    1e308,
    -0.0,
    "",
    "a\0b",
    "\u202e\x1b[31m",
    "x" * 5000,
    "../../outside",
    [],
    {},
    [[[[[[]]]]]],
]


@dataclass
class Counts:
    """What became of the inputs of one kind."""

    kind: str
    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    unexpected: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"fuzz: {self.kind}: {self.inputs:,} inputs, {self.refused:,} refused, {self.accepted:,} accepted, "
            f"{len(self.unexpected)} unexpected, {len(self.hangs)} hangs"
        )


class _Hang(BaseException):
    """End what has run for too long; no `except Exception` takes it for a problem of a file."""


def run(kind: str, inputs: Iterable[bytes], read: Callable[[bytes], object]) -> Counts:
    """Call `read` on each input: an `M2LError` is a refusal, anything else that is raised is unexpected."""
    counts = Counts(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in inputs:
            counts.inputs += 1
            try:
                with _time_limit():
                    read(content)
            except M2LError as error:
                str(error)
                counts.refused += 1
            except _Hang:
                counts.hangs.append(f"input {counts.inputs}")
            except BaseException as error:  # noqa: BLE001 - which is what is looked for
                counts.unexpected.append(f"input {counts.inputs}: {type(error).__name__}: {str(error)[:200]}")
            else:
                counts.accepted += 1
    return counts


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise _Hang

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def mutations(wholes: list[bytes], count: int, seed: int, *, head: int | None = None) -> Iterator[bytes]:
    """Yield damaged copies of files: bytes changed, cut off, put in, repeated, or of two files mixed.

    Args:
        wholes: files as they should be.
        count: of damaged ones.
        seed: of the damage.
        head: of three changes, two are within so many bytes from the start.
    """
    random = np.random.default_rng(seed)
    for _ in range(count):
        content = bytearray(wholes[int(random.integers(len(wholes)))])
        for _ in range(int(random.integers(1, 6))):
            end = len(content) if head is None or random.random() < 1 / 3 else min(head, len(content))
            at = int(random.integers(max(1, end)))
            kind = int(random.integers(6))
            word = _BYTES[int(random.integers(len(_BYTES)))]
            if kind <= 1:
                content[at : at + 1] = bytes([int(random.integers(256))])
            elif kind == 2:
                content[at : at + len(word)] = word
            elif kind == 3:
                content[at:at] = word
            elif kind == 4:
                length = int(random.integers(1, 64))
                content[at:at] = content[at : at + length] * int(random.integers(1, 4))
            else:
                other = wholes[int(random.integers(len(wholes)))]
                content[at : at + 32] = other[at : at + 32]
        if random.random() < 0.2:
            del content[int(random.integers(max(1, len(content)))) :]
        yield bytes(content)


def documents(document: Any, count: int, seed: int) -> Iterator[bytes]:
    """Yield JSON documents like `document`, with one to three of its values replaced, removed or repeated."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        changed = json.loads(json.dumps(document))
        for _ in range(int(random.integers(1, 4))):
            holders = [node for node in _nodes(changed) if node]
            if not holders:
                break
            holder = holders[int(random.integers(len(holders)))]
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = keys[int(random.integers(len(keys)))]
            choice = int(random.integers(len(HOSTILE) + 3))
            if choice < len(HOSTILE):
                holder[key] = json.loads(json.dumps(HOSTILE[choice]))
            elif choice == len(HOSTILE):
                del holder[key]
            elif choice == len(HOSTILE) + 1 and isinstance(holder, dict):
                holder["unknown"] = holder[key]
            else:
                other = holders[int(random.integers(len(holders)))]
                holder[key] = json.loads(json.dumps(other))
        text = json.dumps(changed)
        if random.random() < 0.05:
            text = text.replace('""', "[" * 200_000, 1)
        yield text.encode()


def _nodes(document: Any) -> Iterator[Any]:
    if isinstance(document, dict | list):
        yield document
        for value in document.values() if isinstance(document, dict) else document:
            yield from _nodes(value)
