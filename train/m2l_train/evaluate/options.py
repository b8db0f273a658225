"""Hold the options of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import InputError
from m2l_train.evaluate.shipped import SHIPPED_SEGMENTER

SHEET_SUFFIXES: Final = (".png", ".jpg", ".jpeg")


class EvaluationStopped(Exception):
    """End an evaluation because the caller says to stop."""


@check_types()
@dataclass(frozen=True)
class EvaluationOptions:
    """Hold what an evaluation may be told beside its images.

    Example:
        >>> EvaluationOptions(split="test", workers=2).worker_count
        2

    Raises:
        InputError: seed or workers are out of range.
    """

    split: str | None = None
    """Split of the data; None: val, or all where there are no splits."""
    segmenter: str | os.PathLike[str] | None = SHIPPED_SEGMENTER
    """File of a segmenter; the one inside the package unless another is given. None: there are no metrics of masks and
    no KID on its features."""
    inception: str | os.PathLike[str] | None = None
    """File of Inception weights; without one there is no FID."""
    imagenet: bool = True
    """Whether ImageNet features are computed, if their weights are installed."""
    feature_cache: str | os.PathLike[str] | None = None
    """Folder that keeps ImageNet features of real images; None: they are computed each time."""
    encoding: Literal["real", "none"] = "real"
    """"real": synthesized images are encoded as most of the real files are, and compared as made beside that."""
    sheet: str | os.PathLike[str] | None = None
    """File for pictures of the images that are told apart most surely, .png or .jpg; None: no such file."""
    mask_is_left: bool = True
    """Of combined pictures."""
    seed: int = 0
    workers: int | None = None
    """Threads that read and compare; None: as many CPUs as this process may use. Nothing depends on it."""
    on_start: Callable[[int], None] = lambda total: None
    """Called with the number of images, each counted once for every pass over it."""
    on_images: Callable[[int], None] = lambda count: None
    should_stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"the seed must be 0 or above, got {self.seed}")
        if self.encoding not in ("real", "none"):
            raise InputError(f"encoding must be real or none, got {self.encoding}")
        if self.sheet is not None and Path(self.sheet).suffix.lower() not in SHEET_SUFFIXES:
            raise InputError(f"a sheet ends in {', '.join(SHEET_SUFFIXES)}, got '{printable(Path(self.sheet).name)}'")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers must be at least 1, got {self.workers}")

    @property
    def worker_count(self) -> int:
        """`workers`, or as many as there are CPUs."""
        return self.workers if self.workers is not None else usable_cpus()
