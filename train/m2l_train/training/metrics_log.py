"""Write the metrics of a run to metrics.jsonl, a line each, and to TensorBoard events."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import msgspec

from m2l_runtime._utils import atomic
from m2l_runtime._utils.held_folder import check_held, make_folder, place
from m2l_runtime._utils.plain_file import open_plain
from m2l_runtime._utils.reading import decode_line
from m2l_runtime.errors import OutputError
from m2l_runtime.runs.jsonl import open_log
from m2l_train.training.run_folder import EVENTS, METRICS

STEPS_PER_EVENT: Final = 10
"""TensorBoard gets every tenth step; metrics.jsonl has them all."""


class MetricsLog:
    """Append to a run's metrics. What a killed run wrote after its last state is dropped first.

    A context manager: it closes at the end, and does not hide the error that ended the block behind one of its own.
    """

    def __init__(self, run: Path, last_step: int, epoch: int, *, tensorboard: bool) -> None:
        """Open to continue after `last_step` in `epoch`; 0 and 1 for a new run.

        Raises:
            OutputError
        """
        self._path = run / METRICS
        descriptor = open_log(self._path)
        try:
            with atomic.output_errors(self._path), os.fdopen(descriptor, "r+b", closefd=False) as file:
                _drop_after(file, last_step, epoch)
        except BaseException:
            os.close(descriptor)
            raise
        self._file = os.fdopen(descriptor, "ab")
        self._events: _Events | None = None
        if tensorboard:
            try:
                self._events = _Events(run / EVENTS, last_step + 1)
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.ExitStack() as stack:
            if error is not None:
                stack.enter_context(contextlib.suppress(OutputError))
            self.close()

    def step(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Write the metrics of one step."""
        self._write({"step": step, "epoch": epoch, **metrics})
        if self._events is not None and step % STEPS_PER_EVENT == 0:
            self._events.scalars("train", metrics, step)

    def epoch(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Write the metrics of a whole epoch, at its last step."""
        self._write({"step": step, "epoch": epoch, **metrics})
        if self._events is not None:
            self._events.scalars("epoch", metrics, step)

    def picture(self, step: int, picture: Any) -> None:
        """Write a picture (H, W, 3) uint8 for TensorBoard."""
        if self._events is not None:
            self._events.picture("grid", picture, step)

    def _write(self, row: dict[str, Any]) -> None:
        with atomic.output_errors(self._path):
            self._file.write(msgspec.json.encode(row) + b"\n")

    def flush(self) -> None:
        """Hand everything to the operating system."""
        with atomic.output_errors(self._path):
            check_held(self._path)
            self._file.flush()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flush and close."""
        with contextlib.ExitStack() as stack:
            if self._events is not None:
                stack.callback(self._events.close)
            with atomic.output_errors(self._path):
                self._file.close()


class _Events:
    """Write a file of TensorBoard events, from the calling thread.

    TensorBoard's own SummaryWriter writes from a thread, which prints a traceback of its own on a full disk.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto import event_pb2  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
        from torch.utils.tensorboard import summary

        self._event: Any = event_pb2
        self._summary: Any = summary
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._path = _unused(folder / name)
        with atomic.output_errors(folder):
            make_folder(folder)
        with atomic.output_errors(self._path), place(self._path) as (at, file_name):
            self._file = os.fdopen(open_plain(file_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=at), "wb")
        self._records: Any = RecordWriter(self._file)
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        try:
            self._add(file_version="brain.Event:2")
            self._add(step=first_step, session_log=start)  # what is there from this step on is void
            self.flush()
        except BaseException:
            with contextlib.suppress(OutputError):
                self.close()
            raise

    def scalars(self, group: str, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._add(step=step, summary=self._summary.scalar(f"{group}/{name}", value))

    def picture(self, name: str, picture: Any, step: int) -> None:
        self._add(step=step, summary=self._summary.image(name, picture, dataformats="HWC"))

    def _add(self, **what: Any) -> None:
        with atomic.output_errors(self._path):
            self._records.write(self._event.Event(wall_time=time.time(), **what).SerializeToString())

    def flush(self) -> None:
        with atomic.output_errors(self._path):
            self._file.flush()

    def close(self) -> None:
        with atomic.output_errors(self._path):
            self._file.close()


def _unused(path: Path) -> Path:
    """Return `path`, or one with a number behind it: sessions of one process may begin in one second."""
    number, candidate = 0, path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate


def _drop_after(file: BinaryIO, last_step: int, epoch: int) -> None:
    """Keep the lines up to `last_step` and of epochs before `epoch`; they are in order, so the others are at the end.

    The line of an epoch has the number of its last step, so a kill between that line and the state shows in its epoch.
    """
    end = 0
    for line in file:
        row = decode_line(line, dict[str, Any]) or {}  # damaged, not of our making: left as it is
        is_late = _number(row, "step") > last_step or ("val_l1_levels" in row and _number(row, "epoch") >= epoch)
        if is_late or not line.endswith(b"\n"):
            break
        end += len(line)
    file.truncate(end)


def _number(row: dict[Any, Any], name: str) -> float:
    value = row.get(name)
    return value if isinstance(value, (int, float)) else 0
