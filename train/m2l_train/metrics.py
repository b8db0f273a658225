"""Figures of a run to metrics.jsonl, a line each, and to TensorBoard events."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from m2l_runtime import atomic
from m2l_train.runfolder import EVENTS, METRICS

STEPS_PER_EVENT: Final = 10
"""TensorBoard gets every tenth step; metrics.jsonl has them all."""


class MetricsLog:
    """Appends to a run's metrics; what a run that was killed wrote after its last state is dropped first."""

    def __init__(self, run: Path, last_step: int, *, tensorboard: bool) -> None:
        """Open for going on after `last_step`; 0 for a new run.

        Raises:
            OutputError
        """
        self._path = run / METRICS
        _drop_after(self._path, last_step)
        with atomic.output_errors(self._path):
            self._file = self._path.open("ab")
        self._events: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(run / EVENTS), purge_step=last_step + 1)

    def step(self, step: int, epoch: int, figures: dict[str, float]) -> None:
        """Figures of one step."""
        self._write({"step": step, "epoch": epoch, **figures})
        if self._events is not None and step % STEPS_PER_EVENT == 0:
            for name, value in figures.items():
                self._events.add_scalar(f"train/{name}", value, step)

    def epoch(self, step: int, epoch: int, figures: dict[str, float]) -> None:
        """Figures of a whole epoch, at its last step."""
        self._write({"step": step, "epoch": epoch, **figures})
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(f"epoch/{name}", value, step)

    def picture(self, step: int, picture: Any) -> None:
        """A grid (H, W, 3) uint8 for TensorBoard."""
        if self._events is not None:
            self._events.add_image("grid", picture, step, dataformats="HWC")

    def _write(self, row: dict[str, Any]) -> None:
        with atomic.output_errors(self._path):
            self._file.write(msgspec.json.encode(row) + b"\n")

    def flush(self) -> None:
        """Hand everything to the operating system."""
        with atomic.output_errors(self._path):
            self._file.flush()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flush and close."""
        with atomic.output_errors(self._path):
            self._file.close()
        if self._events is not None:
            self._events.close()


def _drop_after(path: Path, last_step: int) -> None:
    """Keep the lines up to `last_step`; they are in order, so the others are at the end."""
    if not path.exists():
        return
    with atomic.output_errors(path), path.open("r+b") as file:
        end = 0
        for line in file:
            try:
                step = msgspec.json.decode(line).get("step", 0)
            except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
                step = 0  # damaged, not of our making: left as it is
            if step > last_step or not line.endswith(b"\n"):
                break
            end += len(line)
        file.truncate(end)
