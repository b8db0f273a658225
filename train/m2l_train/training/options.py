"""Hold the options of a training run beside its config, and what it reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from m2l_runtime._utils.arguments import check_types
from m2l_runtime.errors import InputError
from m2l_train.config import MAX_THREADS, TrainConfig, check_float, check_integer

if TYPE_CHECKING:
    from m2l_train.models.losses import Losses

STOP_REASONS: Final = (None, "max_minutes", "max_steps", "stopped")
"""Why a call may end before all epochs are done; of several, the last one is reported."""


def _option(default: Any, doc: str) -> Any:
    """Make a field whose line of documentation the command line shows as help."""
    return field(default=default, metadata={"doc": doc, "flag": None})


@check_types()
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Hold what a call of :func:`m2l_train.train` may choose that does not change what a run learns.

    Only `threads` has an effect on the bits of a run.

    Example:
        >>> options = TrainOptions(device="cpu", max_minutes=30)
        >>> options.save_minutes
        10.0

    Raises:
        InputError: a value is out of range, or of another type.
    """

    device: str = _option("auto", "auto, cpu, cuda or cuda:N.")
    """`auto` is CUDA where there is a GPU, else the CPU."""
    threads: int | None = _option(None, "CPU threads of PyTorch.  [default: the CPUs this process may use]")
    """At most 1024."""
    workers: int | None = _option(None, "Threads that read pictures.  [default: the CPUs this process may use]")
    """At most 1024; None: as many as CPUs, at most 8. Nothing depends on it."""
    max_steps: int | None = _option(None, "Stop after this many steps, over all sessions.")
    max_minutes: float | None = _option(None, "Stop after this many minutes of this call.")
    save_minutes: float = _option(10.0, "Minutes between two saved states within an epoch.")
    save_epochs: int = _option(0, "Also keep EPOCH_net_G.pth every this many epochs; 0: never.")
    skip_bad: bool = _option(False, "Leave out and count pairs that cannot be read, instead of stopping.")
    """An epoch must have a pair that can be read."""
    accept_changes: bool = _option(
        False, "With --resume: go on though the pairs or their pictures are not those that the run was trained on."
    )
    """An epoch that was begun with other pairs begins anew."""
    tensorboard: bool = _option(True, "Also write TensorBoard events.")

    def __post_init__(self) -> None:
        for name, low, high in (("threads", 1, MAX_THREADS), ("workers", 1, MAX_THREADS), ("max_steps", 1, 10**9)):
            value = getattr(self, name)
            if value is not None:
                check_integer(name, value, low, high)
        check_integer("save_epochs", self.save_epochs, 0, 10**9)
        for name in ("max_minutes", "save_minutes"):
            minutes = getattr(self, name)
            if minutes is None and name == "max_minutes":
                continue
            if not 0 <= check_float(name, minutes) <= 1e9:
                raise InputError(f"{name} must be between 0 and 1000000000, got {minutes}")


@dataclass(frozen=True)
class TrainReport:
    """Report what a call of :func:`m2l_train.train` did.

    Example:
        >>> report = TrainReport(
        ...     run=Path("run"),
        ...     config=TrainConfig(),
        ...     step=40,
        ...     epoch=1,
        ...     is_complete=False,
        ...     was_complete=False,
        ...     was_stopped=True,
        ...     images_per_s=8.5,
        ...     val_l1_levels=None,
        ... )
        >>> report.step, report.was_stopped, report.skipped
        (40, True, [])
    """

    run: Path
    config: TrainConfig
    step: int
    """Steps done, all sessions together."""
    epoch: int
    """From 1; the one under way, or the last one."""
    is_complete: bool
    """Whether all epochs are done."""
    was_complete: bool
    """Whether they were before this call, which then did nothing."""
    was_stopped: bool
    """Whether `should_stop` ended it before all epochs were done."""
    images_per_s: float
    """Trained on in this call, reading and all."""
    val_l1_levels: float | None
    warnings: tuple[str, ...] = ()
    skipped: list[str] = field(default_factory=list)
    """Messages about pairs that could not be read, of this call."""
    process: int = 0
    """Number of the process, where torchrun has started several; the first one, 0, has written the run."""


@dataclass(frozen=True)
class StepResult:
    """Describe one step, for a progress bar or a log.

    Example:
        >>> from m2l_train.models.losses import Losses
        >>> losses = Losses(G_GAN=0.7, G_L1=12.5, D_real=0.6, D_fake=0.8)
        >>> result = StepResult(step=3, epoch=1, image_count=8, losses=losses)
        >>> result.losses.G_L1
        12.5
    """

    step: int
    epoch: int
    image_count: int
    losses: Losses


@dataclass
class StopConditions:
    """Decide after each step whether to end."""

    max_steps: int | None
    max_minutes: float | None
    save_minutes: float
    should_stop: Callable[[], bool]
    began: float = field(default_factory=time.monotonic)

    def seconds_left(self) -> float:
        """Return the seconds until the limit, from 0; infinity if there is none."""
        if self.max_minutes is None:
            return math.inf
        return max(0.0, 60 * self.max_minutes - (time.monotonic() - self.began))

    def reason(self, step: int) -> str | None:
        """Return why to end now; None to go on."""
        if self.should_stop():
            return "stopped"
        if self.max_steps is not None and step >= self.max_steps:
            return "max_steps"
        if self.max_minutes is not None and time.monotonic() - self.began >= 60 * self.max_minutes:
            return "max_minutes"
        return None
