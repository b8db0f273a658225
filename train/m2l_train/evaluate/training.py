"""Train a segmenter on a data folder.

Loss, optimizer and schedule are those of :mod:`m2l_train.evaluate.fitting`. Every image is rotated and mirrored in one
of eight ways and its contrast, brightness and color are moved a little; what is drawn depends on seed, epoch and pair
alone. The network of the last step is kept: none is chosen by its metrics.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL
import torch

from m2l_runtime import __version__
from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._utils.text import printable
from m2l_runtime.conditioning.random import random_permutation
from m2l_runtime.errors import InputError, OutputError
from m2l_runtime.types import Images, Masks
from m2l_train.data.data_folder import open_data
from m2l_train.device import open_device, torch_threads
from m2l_train.evaluate.fitting import BATCH_SIZE, LEARNING_RATE, Fitting, augment_batch, mean_dice
from m2l_train.evaluate.segmenter import (
    SegmenterFacts,
    SegmenterNetwork,
    SegmenterSpec,
    save_segmenter,
)
from m2l_train.evaluate.sets import RealSet, fingerprint, read_pairs, refuse_synthetic

EPOCHS: Final = 10


@check_types()
@dataclass(frozen=True)
class SegmenterOptions:
    """Hold what the training of a segmenter may be told.

    Example:
        >>> SegmenterOptions(epochs=5, threads=2).thread_count
        2

    Raises:
        InputError: a number is out of range.
    """

    epochs: int | None = None
    """Passes over the training pairs; None: `EPOCHS`."""
    width: int = SegmenterSpec.width
    """Channels of the first level."""
    seed: int = 0
    """Of weights, order and augmentation."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N."""
    threads: int | None = None
    """CPU threads of PyTorch; None: as many CPUs as this process may use."""
    workers: int | None = None
    """Threads that read pictures; None: likewise."""
    max_minutes: float | None = None
    """End after so many minutes and keep what was reached."""
    mask_is_left: bool = True
    """Of combined pictures."""

    def __post_init__(self) -> None:
        if self.epoch_count < 1:
            raise InputError(f"epochs must be at least 1, got {self.epochs}")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise InputError(f"the minutes must be above 0, got {self.max_minutes:g}")
        if self.seed < 0:
            raise InputError(f"the seed must be 0 or above, got {self.seed}")
        if self.thread_count < 1 or (self.workers is not None and self.workers < 1):
            raise InputError("threads and workers must be at least 1")

    @property
    def epoch_count(self) -> int:
        """`epochs`, or the default."""
        return EPOCHS if self.epochs is None else self.epochs

    @property
    def thread_count(self) -> int:
        """`threads`, or as many as there are CPUs."""
        return self.threads if self.threads is not None else usable_cpus()


@dataclass(frozen=True)
class SegmenterReport:
    """Report a training that has ended.

    Example:
        >>> report = SegmenterReport(
        ...     path=Path("segmenter.pt"), sha256=None, facts=None, seconds=2.5, was_stopped=True, warnings=()
        ... )
        >>> report.facts is None
        True
    """

    path: Path
    """The file; not there if `was_stopped`."""
    sha256: str | None
    facts: SegmenterFacts | None
    seconds: float
    was_stopped: bool
    """Whether `should_stop` ended it: nothing was written."""
    warnings: tuple[str, ...]


@check_types()
def train_segmenter(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: SegmenterOptions | None = None,
    *,
    overwrite: bool = False,
    on_start: Callable[[int], None] = lambda total: None,
    on_images: Callable[[int], None] = lambda count: None,
    on_note: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> SegmenterReport:
    """Train a segmenter on the pairs of `data` and write it to `out`.

    On the CPU of one machine, with one torch version and number of threads, the same seed gives the same weights,
    unless `max_minutes` ends it early.

    Example:
        >>> report = train_segmenter("data", "segmenter.pt", epochs=5)  # doctest: +SKIP
        >>> report.facts.val_dice  # doctest: +SKIP
        0.91

    Args:
        data: a data folder with a train and a val split, as :func:`m2l_train.data.data_folder.open_data` reads it.
        out: the file to write.
        options: epochs, width, seed, device, limits; None: the defaults.
        overwrite: replace a file that is there.
        on_start: called with the number of images that will be seen, all epochs together.
        on_images: called with the number of images of each step.
        on_note: called with a line after each epoch.
        should_stop: asked before each step; then nothing is written.
        fields: any field of `SegmenterOptions` by its name, in place of that of `options`.

    Raises:
        InputError: the data cannot be used, has no val split, or a number is out of range.
        OutputError: `out` exists or cannot be written.
        DeviceUnavailable: there is no such device.
        Diverged: the loss is not a finite number.
    """
    options = dataclasses.replace(options or SegmenterOptions(), **fields)
    target = Path(out)
    atomic.check_new_file(target, overwrite=overwrite)
    spec = SegmenterSpec(width=options.width)
    where = open_device(options.device)
    started = time.monotonic()
    train, val = _read_splits(data, spec.side, options)
    with torch_threads(options.thread_count):
        training = _Training(spec, train.images, train.masks, options.epoch_count, options.seed, where)
        on_start(options.epoch_count * len(train.names))
        deadline = math.inf if options.max_minutes is None else started + options.max_minutes * 60
        for epoch in range(1, options.epoch_count + 1):
            if not training.run_epoch(epoch, deadline, on_images, should_stop):
                return SegmenterReport(target, None, None, time.monotonic() - started, True, ())
            val_dice = mean_dice(training.network, val.images, val.masks, where)
            counted = f"epoch {epoch} of {options.epoch_count}"
            on_note(f"{counted}: loss {training.mean_loss:.4f}, Dice {val_dice:.4f} on the val split")
            if time.monotonic() >= deadline:
                break
    facts = _facts(options, train, val, training.step, str(where), val_dice)
    if os.path.lexists(target) and not overwrite:
        raise OutputError(f"{printable(target)} has appeared meanwhile; it was left as it is")
    sha256 = save_segmenter(target, spec, training.network, facts)
    warnings = tuple(f"left out {problem}" for pairs in (train, val) for problem in pairs.problems)
    return SegmenterReport(target, sha256, facts, time.monotonic() - started, False, warnings)


def _read_splits(data: str | os.PathLike[str], side: int, options: SegmenterOptions) -> tuple[RealSet, RealSet]:
    """Read the pairs to train on and those to validate on, at (side, side)."""
    folder = open_data(data)
    if not folder.val:
        raise InputError(
            f"{printable(data)} has no val split; a segmenter is evaluated on pairs it was not trained on: m2l prepare "
            "makes such a split"
        )
    workers = options.workers if options.workers is not None else usable_cpus()
    refuse_synthetic((*folder.train, *folder.val), workers)
    train, val = (
        read_pairs(pairs, side, workers=workers, mask_is_left=options.mask_is_left)
        for pairs in (folder.train, folder.val)
    )
    return train, val


def _facts(
    options: SegmenterOptions, train: RealSet, val: RealSet, steps: int, device: str, val_dice: float
) -> SegmenterFacts:
    """Describe a training that has ended, for the segmenter's file."""
    return SegmenterFacts(
        val_dice=val_dice,
        train_count=len(train.names),
        val_count=len(val.names),
        epochs=options.epoch_count,
        steps=steps,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        seed=options.seed,
        threads=options.thread_count,
        device=device,
        data_fingerprint=fingerprint(train.names, train.images, train.masks),
        versions={
            "m2l": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "Pillow": PIL.__version__,
        },
    )


class _Training:
    """Run epochs over the pairs of a folder."""

    def __init__(
        self, spec: SegmenterSpec, images: Images, masks: Masks, epochs: int, seed: int, device: torch.device
    ) -> None:
        self.mean_loss = math.nan
        self._images, self._masks, self._seed = images, masks, seed
        self._batch = min(BATCH_SIZE, len(images))
        self._fitting = Fitting(spec, seed, epochs * (len(images) // self._batch), device)

    @property
    def network(self) -> SegmenterNetwork:
        return self._fitting.network

    @property
    def step(self) -> int:
        return self._fitting.step

    def run_epoch(
        self, epoch: int, deadline: float, on_images: Callable[[int], None], should_stop: Callable[[], bool]
    ) -> bool:
        """Run one pass, or as much of it as the deadline allows; False if it is to stop."""
        order = random_permutation(len(self._images), self._seed, "segmenter", "order", epoch)
        losses: list[float] = []
        for start in range(0, len(order) - self._batch + 1, self._batch):
            if should_stop():
                return False
            if losses and time.monotonic() >= deadline:
                break
            places = [int(place) for place in order[start : start + self._batch]]
            losses.append(
                self._fitting.train(
                    *augment_batch(self._images, self._masks, places, self._seed, [epoch] * len(places))
                )
            )
            on_images(self._batch)
        if left := len(order) % self._batch:
            on_images(left)
        self.mean_loss = float(np.mean(losses))
        return True
