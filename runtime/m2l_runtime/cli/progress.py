"""Show progress: a bar on a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from m2l_runtime._utils.text import plural, print_stderr, printable, rate

_SECONDS_BETWEEN_LINES = 10.0
_MAX_NOTES = 20


class _RateColumn(ProgressColumn):
    def __init__(self, done_before: int, items: str) -> None:
        super().__init__()
        self._done_before, self._items = done_before, items

    def render(self, task: Task) -> Text:
        """Write items a second since the start."""
        if not task.elapsed:
            return Text("")
        return Text(f"{rate((task.completed - self._done_before) / task.elapsed)} {self._items}/s")


class Reporter:
    """Count what is done and print notes beside it, the first `_MAX_NOTES` of them. Not thread-safe."""

    def __init__(self, what: str = "synthesizing", items: str = "images") -> None:
        self._what, self._items = what, items
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar: Progress | None = None
        self._total = self._done = self._notes = self._done_at_last_line = 0
        self._last_line = time.monotonic()

    def start(self, total: int, done: int = 0) -> None:
        """Start to count towards `total`, `done` of which are done already."""
        self._done = self._done_at_last_line = done
        self._total, self._last_line = total, time.monotonic()
        if self._console.is_terminal:
            columns = (
                TextColumn(self._what),
                BarColumn(),
                MofNCompleteColumn(),
                _RateColumn(done, self._items),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
            self._bar.add_task("", total=total, completed=done)

    def advance(self, count: int = 1) -> None:
        """Count `count` more as done."""
        self._done += count
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], count)
        elif (seconds := time.monotonic() - self._last_line) >= _SECONDS_BETWEEN_LINES:
            speed = (self._done - self._done_at_last_line) / seconds
            left = f", {timedelta(seconds=round((self._total - self._done) / speed))} to go" if speed else ""
            self.message(f"{self._done:,} of {self._total:,}, {rate(speed)} {self._items}/s{left}")
            self._last_line, self._done_at_last_line = time.monotonic(), self._done

    def note(self, text: str) -> None:
        """Print a line about one item. After `_MAX_NOTES` of them only their number is told, at the end."""
        self._notes += 1
        if self._notes <= _MAX_NOTES:
            self.message(text)

    def message(self, text: str) -> None:
        """Print a line, whole however narrow the terminal is."""
        with contextlib.suppress(OSError, ValueError):  # nobody listens; that is no reason to stop
            self._console.print(printable(text), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._notes > _MAX_NOTES:
            self.message(f"... and {plural(self._notes - _MAX_NOTES, 'more such line')}")


class BuildProgress:
    """Show steps as lines, and phases of a builder as bars where standard error is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def message(self, text: str) -> None:
        """Print a line."""
        print_stderr(text)

    def step(self, phase: str, done: int, total: int) -> bool:
        """Show that `done` of the `total` steps of a phase are done; phases may be nested. Returns True: go on."""
        if not self._console.is_terminal:
            return True
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(printable(phase), total=total)
        self._bar.update(self._tasks[phase], completed=done, total=total)
        if done >= total:
            self._bar.remove_task(self._tasks.pop(phase))
        return True

    def close(self) -> None:
        """Remove the bars."""
        if self._bar is not None:
            self._bar.stop()
