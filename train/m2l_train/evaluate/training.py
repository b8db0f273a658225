"""Train a segmenter on a data folder.

Loss: cross-entropy plus one minus the soft Dice coefficient of each image (Milletari, Navab, Ahmadi, 3DV 2016). Adam,
with a learning rate that rises over the first twentieth of the steps and falls along half a cosine to zero. Every
image is rotated and mirrored in one of eight ways and its contrast, brightness and colour are moved a little; what is
drawn depends on seed, epoch and pair alone. The network of the last step is kept: none is chosen by its metrics.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from torch import Tensor

from m2l_runtime import __version__
from m2l_runtime._utils import atomic
from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._utils.text import printable
from m2l_runtime.conditioning.random import random_permutation, uniform
from m2l_runtime.errors import Diverged, InputError, OutputError
from m2l_runtime.types import Image, Images, Mask, Masks
from m2l_train.data.data_folder import open_data
from m2l_train.device import open_device, torch_threads
from m2l_train.evaluate.metrics.mask_fidelity import LESION_FROM, dice
from m2l_train.evaluate.segmenter import (
    SegmenterFacts,
    SegmenterNetwork,
    SegmenterSpec,
    new_network,
    save_segmenter,
    to_input,
)
from m2l_train.evaluate.sets import fingerprint, read_pairs, refuse_synthetic

EPOCHS: Final = 10
BATCH_SIZE: Final = 16
LEARNING_RATE: Final = 4e-3
_RISE: Final = 0.05
_MAX_BRIGHTNESS_CHANGE: Final = 0.2
_MAX_COLOR_CHANGE: Final = 0.08


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


def train_segmenter(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    epochs: int | None = None,
    width: int = SegmenterSpec.width,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    max_minutes: float | None = None,
    mask_is_left: bool = True,
    overwrite: bool = False,
    on_start: Callable[[int], None] = lambda total: None,
    on_images: Callable[[int], None] = lambda count: None,
    on_note: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
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
        epochs: passes over the training pairs; None: `EPOCHS`.
        width: channels of the first level.
        seed: of weights, order and augmentation.
        device: auto | cpu | cuda | cuda:N.
        threads: CPU threads of PyTorch; None: as many CPUs as this process may use.
        workers: threads that read pictures; None: likewise.
        max_minutes: end after so many minutes and keep what was reached.
        mask_is_left: of combined pictures.
        overwrite: replace a file that is there.
        on_start: called with the number of images that will be seen, all epochs together.
        on_images: called with the number of images of each step.
        on_note: called with a line after each epoch.
        should_stop: asked before each step; then nothing is written.

    Raises:
        InputError: the data cannot be used, has no val split, or a number is out of range.
        OutputError: `out` exists or cannot be written.
        DeviceUnavailable: there is no such device.
        Diverged: the loss is not a finite number.
    """
    target = Path(out)
    epochs = EPOCHS if epochs is None else epochs
    if epochs < 1:
        raise InputError(f"epochs must be at least 1, got {epochs}")
    if max_minutes is not None and not max_minutes > 0:
        raise InputError(f"the minutes must be above 0, got {max_minutes:g}")
    if seed < 0:
        raise InputError(f"the seed must be 0 or above, got {seed}")
    atomic.check_new_file(target, overwrite=overwrite)
    spec = SegmenterSpec(width=width)
    where = open_device(device)
    started = time.monotonic()
    folder = open_data(data)
    if not folder.val:
        raise InputError(
            f"{printable(data)} has no val split; a segmenter is judged by pairs it was not trained on: m2l prepare "
            "makes such a split"
        )
    thread_count = threads if threads is not None else usable_cpus()
    if thread_count < 1 or (workers is not None and workers < 1):
        raise InputError("threads and workers must be at least 1")
    reading = workers if workers is not None else usable_cpus()
    refuse_synthetic((*folder.train, *folder.val), reading)
    train, val = (
        read_pairs(pairs, spec.side, workers=reading, mask_is_left=mask_is_left) for pairs in (folder.train, folder.val)
    )
    with torch_threads(thread_count):
        training = _Training(spec, train.images, train.masks, epochs, seed, where)
        on_start(epochs * len(train.names))
        deadline = math.inf if max_minutes is None else started + max_minutes * 60
        for epoch in range(1, epochs + 1):
            if not training.run_epoch(epoch, deadline, on_images, should_stop):
                return SegmenterReport(target, None, None, time.monotonic() - started, True, ())
            val_dice = _mean_dice(training.network, val.images, val.masks, spec.side, where)
            on_note(f"epoch {epoch} of {epochs}: loss {training.mean_loss:.4f}, Dice {val_dice:.4f} on the val split")
            if time.monotonic() >= deadline:
                break
    facts = SegmenterFacts(
        val_dice=val_dice,
        train_count=len(train.names),
        val_count=len(val.names),
        epochs=epochs,
        steps=training.step,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        seed=seed,
        threads=thread_count,
        device=str(where),
        data_fingerprint=fingerprint(train.names, train.images, train.masks),
        versions={
            "m2l": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "Pillow": PIL.__version__,
        },
    )
    if os.path.lexists(target) and not overwrite:
        raise OutputError(f"{printable(target)} has appeared meanwhile; it was left as it is")
    sha256 = save_segmenter(target, spec, training.network, facts)
    warnings = tuple(f"left out {problem}" for found in (train, val) for problem in found.problems)
    return SegmenterReport(target, sha256, facts, time.monotonic() - started, False, warnings)


class _Training:
    def __init__(
        self, spec: SegmenterSpec, images: Images, masks: Masks, epochs: int, seed: int, device: torch.device
    ) -> None:
        self.network = new_network(spec, seed).to(device).train()
        self.step = 0
        self.mean_loss = math.nan
        self._images, self._masks, self._seed, self._device, self._side = images, masks, seed, device, spec.side
        self._batch = min(BATCH_SIZE, len(images))
        self._steps = epochs * (len(images) // self._batch)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)

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
            losses.append(self._train([int(place) for place in order[start : start + self._batch]], epoch))
            on_images(self._batch)
        if left := len(order) % self._batch:
            on_images(left)
        self.mean_loss = float(np.mean(losses))
        return True

    def _train(self, places: Sequence[int], epoch: int) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _schedule(self.step / self._steps)
        pairs = [augment(self._images[p], self._masks[p], self._seed, epoch, p) for p in places]
        x = to_input(np.stack([image for image, _ in pairs]), self._side).to(self._device)
        y = torch.from_numpy(np.stack([mask for _, mask in pairs])).to(self._device).float() / 255
        loss = _loss(self.network(x)[:, 0], y)
        if not bool(torch.isfinite(loss)):
            raise Diverged(f"the segmenter's loss is {loss.item():g} at step {self.step + 1}; try another seed")
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.step += 1
        return loss.item()


def _schedule(done: float) -> float:
    """Return the share of the full learning rate when `done` (0..1) of the steps are done."""
    return min(1.0, (done + 1e-3) / _RISE) * 0.5 * (1 + math.cos(math.pi * done))


def _loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss of logits (B, H, W) and targets (B, H, W) in 0..1."""
    probability = torch.sigmoid(logits)
    both = (probability * target).sum((1, 2))
    dice = (2 * both + 1) / (probability.sum((1, 2)) + target.sum((1, 2)) + 1)
    return F.binary_cross_entropy_with_logits(logits, target) + (1 - dice).mean()


def augment(image: Image, mask: Mask, seed: int, epoch: int, place: int) -> tuple[Image, Mask]:
    """Rotate and mirror a pair (H, W, 3), (H, W) in one of eight ways, and change its light and colour a little."""
    numbers = uniform(7, seed, "segmenter", "augment", epoch, place)
    quarter_turns, mirrored = int(numbers[0] * 4), numbers[1] < 0.5
    image, mask = np.rot90(image, quarter_turns), np.rot90(mask, quarter_turns)
    if mirrored:
        image, mask = image[:, ::-1], mask[:, ::-1]
    moves = 2 * numbers[2:] - 1
    contrast = 1 + _MAX_BRIGHTNESS_CHANGE * moves[0]
    light = 255 * _MAX_BRIGHTNESS_CHANGE / 2 * moves[1]
    gain = contrast * (1 + _MAX_COLOR_CHANGE * moves[2:5])
    offset = 128 * (1 - contrast) + light
    moved = image * gain.astype(np.float32) + np.float32(offset)
    return np.clip(np.rint(moved), 0, 255).astype(np.uint8), np.ascontiguousarray(mask)


@torch.no_grad()
def _mean_dice(network: SegmenterNetwork, images: Images, masks: Masks, side: int, device: torch.device) -> float:
    """Return the mean Dice coefficient at the network's own size."""
    network.eval()
    scores: list[float] = []
    try:
        for start in range(0, len(images), BATCH_SIZE):
            logits = network(to_input(images[start : start + BATCH_SIZE], side).to(device))[:, 0]
            for ours, mask in zip((logits > 0).cpu().numpy(), masks[start : start + BATCH_SIZE], strict=True):
                scores.append(dice(ours, mask >= LESION_FROM))
    finally:
        network.train()
    return float(np.mean(scores))
