"""Hold the options of a report."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime.errors import ArgumentError
from m2l_train.evaluate.shipped import SHIPPED_SEGMENTER

MAX_PICTURES: Final = 24


@check_types()
@dataclass(frozen=True)
class ReportOptions:
    """Hold what a report may be told beside its results.

    Example:
        >>> ReportOptions(data="data", bundles=("my-bundle",), pictures=6).pictures
        6

    Raises:
        ArgumentError: pictures or workers are out of range.
    """

    data: str | os.PathLike[str] | None = None
    """Folder of the real pairs that the results were measured on; None: no galleries."""
    bundles: tuple[str | os.PathLike[str], ...] = ()
    """Folders of the bundles that were measured; the model inside the package need not be given."""
    synthesized: tuple[str | os.PathLike[str], ...] = ()
    """Folders of the images that were measured, of results of `m2l evaluate images`."""
    segmenter: str | os.PathLike[str] | None = SHIPPED_SEGMENTER
    """File of a segmenter, to show which masks are followed best and worst; the one inside the package unless another
    is given. None: they are not shown."""
    mask_is_left: bool = True
    """Of combined pictures."""
    pictures: int = 8
    """Rows of a gallery, or pictures of a sheet, at most."""
    workers: int | None = None
    """Threads that read pictures; None: as many CPUs as this process may use. Nothing depends on it."""
    backend: str = "auto"
    device: str = "auto"
    threads: int | None = None
    """As :meth:`m2l_runtime.Synthesizer.open` takes them."""
    on_note: Callable[[str], None] = lambda text: None
    """Called with a line before a step that takes a while."""
    should_stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        if not 1 <= self.pictures <= MAX_PICTURES:
            raise ArgumentError(f"pictures must be between 1 and {MAX_PICTURES}, got {self.pictures}")
        if self.workers is not None and self.workers < 1:
            raise ArgumentError(f"workers must be at least 1, got {self.workers}")

    @property
    def worker_count(self) -> int:
        """`workers`, or as many as there are CPUs."""
        return self.workers if self.workers is not None else usable_cpus()
