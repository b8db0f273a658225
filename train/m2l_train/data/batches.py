"""Make batches of pairs: a new order each epoch, and the same random crop and flip for mask and image.

As the original at commit 0442670 (data/aligned_dataset.py): pictures straight to `load_size`, bicubic; the crop's
offsets uniform in 0..load_size - image_size - 1, each along its side; a flip for half of the pairs. Random numbers
depend on seed, epoch and pair alone (:mod:`m2l_runtime.conditioning.random`), so a run that is resumed sees what it
would have seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from m2l_runtime._utils.text import printable
from m2l_runtime.conditioning.random import random_below, random_permutation, random_uint64
from m2l_runtime.types import Image, Images, Mask, Masks
from m2l_train.config import TrainConfig
from m2l_train.data.pairing import Pair
from m2l_train.data.photograph import DecodedPair, PairError, read_pair, with_margins


@dataclass(frozen=True)
class Batch:
    """Hold the pairs of one step."""

    names: tuple[str, ...]
    """Of the photographs' files."""
    masks: Masks | Tensor
    """uint8 (B, H, W)."""
    images: Images | Tensor
    """uint8 (B, H, W, 3)."""
    last_position: int
    """Place in the epoch's order of the last pair used or skipped, from 0."""


def order(count: int, config: TrainConfig, epoch: int) -> list[int]:
    """Return the places of the pairs in the order in which `epoch` (from 1) takes them."""
    return [int(place) for place in random_permutation(count, config.seed, "order", epoch)]


@dataclass(frozen=True)
class Placement:
    """Describe the crop of a pair in an epoch, and its orientation."""

    top: int
    left: int
    is_flipped: bool
    """Left to right, after the crop."""
    quarter_turns: int
    """0 to 3, anticlockwise, after the flip."""


def placement(config: TrainConfig, epoch: int, place: int) -> Placement:
    """Choose a random crop of `image_size`, a flip and a rotation for pair number `place`."""
    numbers = random_uint64(3, config.seed, "augment", epoch, place)
    (height, width), (high, wide) = config.size, config.crop_from
    (top,), (left,) = random_below(max(1, high - height), numbers[:1]), random_below(max(1, wide - width), numbers[1:2])
    is_flipped, quarter_turns = int(numbers[2]) >> 63, int(numbers[2]) >> 61 & (3 if height == width else 2)
    return Placement(int(top), int(left), config.flip and bool(is_flipped), quarter_turns if config.turn else 0)


def augment(arrays: DecodedPair, config: TrainConfig, epoch: int, place: int) -> tuple[Mask, Image]:
    """Crop, flip and rotate mask and image of a pair alike, as :func:`placement` says."""
    at, (height, width) = placement(config, epoch, place), config.size
    halves = []
    for half in (arrays.mask, arrays.image):
        cropped = half[at.top : at.top + height, at.left : at.left + width]
        halves.append(np.rot90(cropped[:, ::-1] if at.is_flipped else cropped, at.quarter_turns))
    return halves[0], halves[1]


def epoch_batches(
    pairs: Sequence[Pair],
    config: TrainConfig,
    epoch: int,
    pool: ThreadPoolExecutor,
    *,
    after: int = -1,
    skipped: list[str] | None = None,
    ahead: int = 8,
) -> Generator[Batch, None, None]:
    """Yield the batches of one epoch; the last one may be smaller.

    Args:
        pairs: of the training split, always in the same order.
        config: settings of the run.
        epoch: from 1.
        pool: threads that read pictures.
        after: place in the epoch's order after which to begin; -1 for the whole epoch.
        skipped: gets the message of each pair that cannot be read, which is then left out; None: it is an error.
        ahead: batches read ahead.

    Raises:
        PairError: a pair cannot be read and `skipped` is None, or the folder it was in is gone.
    """
    places = order(len(pairs), config, epoch)

    def read(place: int) -> tuple[Mask, Image]:
        arrays = read_pair(pairs[place], config.resize_to, mask_is_left=config.direction == "AtoB")
        arrays = with_margins(arrays, config.mirror)
        return augment(arrays, config, epoch, place)

    pending: deque[tuple[int, Future[tuple[Mask, Image]]]] = deque()
    waiting = iter(range(after + 1, len(places)))
    names: list[str] = []
    masks: list[Mask] = []
    images: list[Image] = []
    position = after
    try:
        while True:
            while len(pending) < ahead * config.batch_size and (next_position := next(waiting, None)) is not None:
                pending.append((next_position, pool.submit(read, places[next_position])))
            if pending:
                position, future = pending.popleft()
                try:
                    mask, image = future.result()
                except PairError as error:
                    if skipped is None:
                        raise
                    _require_folders(pairs[places[position]])
                    skipped.append(str(error))
                else:
                    names.append(pairs[places[position]].image.name)
                    masks.append(mask)
                    images.append(image)
            if names and (len(names) == config.batch_size or not pending):
                yield Batch(tuple(names), np.stack(masks), np.stack(images), position)
                names, masks, images = [], [], []
            if not pending:
                return
    finally:
        for _, future in pending:
            future.cancel()


def _require_folders(pair: Pair) -> None:
    """Make sure that the folders are there: a bad picture may be left out, but without its folder none can be read."""
    for folder in (pair.image.parent, pair.mask.parent):
        if not folder.is_dir():
            raise PairError(f"{printable(folder)}: the folder is gone, with all pictures in it; bring it back")
