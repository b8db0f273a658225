"""Decode pairs once to a memory-mapped file of pixels, and cut batches from it on the device.

Decoding a photograph costs more than all else that is done to it on its way to the network; so it is done once a
session. The file has no name any more once all processes have mapped it, so nothing is left behind, whatever happens.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from m2l_runtime._utils import atomic
from m2l_runtime._utils.sides import both_sides
from m2l_runtime.types import NAMES
from m2l_train.config import TrainConfig
from m2l_train.data.batches import Batch, Placement, order, placement
from m2l_train.data.pairing import Pair
from m2l_train.data.photograph import PairError, read_pair, with_margins
from m2l_train.models import appearance

Pixels = npt.NDArray[np.uint8]
"""uint8 (N, H, W, 4): RGB and mask of each pair, of the size before the crop."""

_CHUNK: Final = 16
_AHEAD: Final = 4


def decode_pairs(
    pairs: Sequence[Pair],
    config: TrainConfig,
    file: Path,
    pool: ThreadPoolExecutor,
    skipped: list[str] | None,
    on_pair: Callable[[], None] = lambda: None,
) -> set[int]:
    """Write the pixels of all pairs to `file`.

    Args:
        pairs: of the training split.
        config: settings of the run.
        file: to write.
        pool: threads that decode.
        skipped: gets the message of each pair that cannot be read; None: it is an error.
        on_pair: called after each pair.

    Returns:
        Places of the pairs that could not be read; their pixels are 0.

    Raises:
        PairError: a pair cannot be read and `skipped` is None.
        OutputError: the disk is full.
    """
    row_bytes = math.prod(config.crop_from) * 4
    bad: set[int] = set()
    with atomic.output_errors(file), file.open("xb") as handle:
        with contextlib.suppress(
            OSError
        ):  # only said ahead; where it cannot be, rows are written one by one all the same
            os.ftruncate(handle.fileno(), row_bytes * len(pairs))

        def write(place: int) -> str | None:
            try:
                pair_arrays = read_pair(pairs[place], config.resize_to, mask_is_left=config.direction == "AtoB")
                pair_arrays = with_margins(pair_arrays, config.mirror)
            except PairError as error:
                return str(error)
            row = np.concatenate([pair_arrays.image, pair_arrays.mask[:, :, None]], 2)
            os.pwrite(handle.fileno(), row.tobytes(), row_bytes * place)
            return None

        futures = [pool.submit(write, place) for place in range(len(pairs))]
        try:
            for place, future in enumerate(futures):
                problem = future.result()
                if problem is not None:
                    if skipped is None:
                        raise PairError(problem)
                    bad.add(place)
                    skipped.append(problem)
                on_pair()
        finally:
            for future in futures:
                future.cancel()
            wait(futures)  # nobody writes to the file any more
        if os.fstat(handle.fileno()).st_size < row_bytes * len(pairs):  # the last ones could not be read
            os.pwrite(handle.fileno(), b"\0", row_bytes * len(pairs) - 1)
    return bad


def map_pixels(file: Path, count: int, size: tuple[int, int]) -> Pixels:
    """Map the pixels in a file of :func:`decode_pairs`, of pictures of (height, width); they stay without its name.

    Where the file system maps no files, they are read into memory.
    """
    with file.open("rb") as handle:
        try:
            content: mmap.mmap | bytes = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError:
            content = handle.read()
    return np.frombuffer(content, np.uint8).reshape(count, *size, 4)


def appearances(pixels: Pixels, bad: set[int], device: torch.device) -> Tensor:
    """Measure the appearance of each pair that could be read: float32 (count, 12), on the CPU."""
    places = [place for place in range(len(pixels)) if place not in bad]
    found = []
    for start in range(0, len(places), _CHUNK):
        rows = torch.from_numpy(pixels[places[start : start + _CHUNK]]).to(device)
        found.append(appearance.measure(rows[..., :3], rows[..., 3]).cpu())
    return torch.cat(found) if found else torch.empty(0, len(NAMES))


def appearances_of(
    pairs: Sequence[Pair], config: TrainConfig, pool: ThreadPoolExecutor, device: torch.device
) -> Tensor:
    """Measure appearances as :func:`appearances` does, from the files; those that cannot be read are left out."""

    def measured(pair: Pair) -> Tensor | None:
        try:
            pair_arrays = read_pair(pair, config.resize_to, mask_is_left=config.direction == "AtoB")
            pair_arrays = with_margins(pair_arrays, config.mirror)
        except PairError:
            return None  # told when it is its turn
        image, mask = torch.from_numpy(pair_arrays.image[None]), torch.from_numpy(pair_arrays.mask[None])
        return appearance.measure(image.to(device), mask.to(device)).cpu()

    rows = [row for row in pool.map(measured, pairs) if row is not None]
    return torch.cat(rows) if rows else torch.empty(0, len(NAMES))


def cut(rows: Tensor, where: Sequence[Placement], size: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Crop, flip and rotate pixels (B, H, W, 4) to masks (B, height, width) and images (B, height, width, 3)."""
    height, width = both_sides(size)
    crops = []
    for row, at in zip(rows, where, strict=True):
        piece = row[at.top : at.top + height, at.left : at.left + width]
        if at.is_flipped:
            piece = piece.flip(1)
        crops.append(torch.rot90(piece, at.quarter_turns, (0, 1)) if at.quarter_turns else piece)
    stacked = torch.stack(crops)
    return stacked[..., 3], stacked[..., :3]


def decoded_batches(
    pairs: Sequence[Pair],
    pixels: Pixels,
    bad: set[int],
    config: TrainConfig,
    epoch: int,
    pool: ThreadPoolExecutor,
    device: torch.device,
    *,
    after: int = -1,
    share: tuple[int, int] = (0, 1),
) -> Generator[Batch, None, None]:
    """Yield the batches of one epoch, equal to those of :func:`m2l_train.data.batches.epoch_batches`.

    Args:
        pairs: of the training split, always in the same order.
        pixels: of all pairs.
        bad: places of pairs that could not be read, which are left out.
        config: settings of the run.
        epoch: from 1.
        pool: threads that copy.
        device: where the batches are to be.
        after: place in the epoch's order after which to begin; -1 for the whole epoch.
        share: (number from 0, of how many): of each batch, the part of one process. What cannot be shared evenly at
            the end of an epoch is left out.
    """
    places = order(len(pairs), config, epoch)
    positions = [p for p in range(after + 1, len(places)) if places[p] not in bad]
    number, of = share
    waiting = iter([positions[i : i + config.batch_size] for i in range(0, len(positions), config.batch_size)])
    pending: deque[tuple[list[int], list[int], Future[Tensor]]] = deque()

    def copied(chosen: list[int]) -> Tensor:
        rows = torch.from_numpy(pixels[chosen])
        return rows.pin_memory() if device.type == "cuda" else rows

    while True:
        while len(pending) < _AHEAD and (batch := next(waiting, None)) is not None:
            each = len(batch) // of
            if each:
                chosen = [places[p] for p in batch[number * each : (number + 1) * each]]
                pending.append((batch, chosen, pool.submit(copied, chosen)))
        if not pending:
            return
        batch, chosen, future = pending.popleft()
        rows = future.result().to(device, non_blocking=True)
        masks, images = cut(rows, [placement(config, epoch, place) for place in chosen], config.size)
        yield Batch(tuple(pairs[place].image.name for place in chosen), masks, images, batch[-1])
