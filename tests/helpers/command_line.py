"""Describe a call of the command line in this process and its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


class CommandLine(Protocol):
    def __call__(self, *arguments: object) -> Outcome: ...
