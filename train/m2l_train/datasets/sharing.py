"""Deal items out to machines and to the workers of a loader, and tell workers which epoch it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import get_worker_info

from m2l_runtime.conditioning.random import random_uint64
from m2l_runtime.errors import ArgumentError


class Epoch:
    """Hold the number of the epoch, in memory that workers share, those that persist too."""

    def __init__(self) -> None:
        self._number = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set(self, number: int) -> None:
        """Set the number, from 0.

        Raises:
            ArgumentError: it is below 0.
        """
        if number < 0:
            raise ArgumentError(f"epochs are numbered from 0, got {number}")
        self._number.fill_(number)

    def seed(self, seed: int) -> int:
        """Derive this epoch's seed from a seed; in epoch 0 it is that seed itself."""
        number = int(self._number)
        return seed if number == 0 else int(random_uint64(1, seed, "datasets", "epoch", number)[0])


def check_shard(shard: tuple[int, int]) -> None:
    """Check a shard (I, N), I from 1 to N.

    Raises:
        ArgumentError: I or N is out of range.
    """
    number, count = shard
    if not 1 <= number <= count:
        raise ArgumentError(f"a shard is (I, N) with I from 1 to N, got ({number}, {count})")


def worker() -> tuple[int, int]:
    """Return (number of this worker from 0, how many there are); (0, 1) outside of a worker."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def dealt(shard: tuple[int, int], count: int | None) -> Iterator[int]:
    """Yield the numbers below `count` (None: all) that fall to this worker of this shard."""
    (number, shards), (one, workers) = shard, worker()
    place = number - 1 + shards * one
    while count is None or place < count:
        yield place
        place += shards * workers


def shard_length(shard: tuple[int, int], count: int) -> int:
    """Count the numbers below `count` that fall to a shard."""
    return len(range(shard[0] - 1, count, shard[1]))


def loader_seed() -> int:
    """Draw a seed from PyTorch: the same for all workers of a loader, another one in each of its epochs."""
    info: Any = get_worker_info()
    if info is not None:
        return int(info.seed - info.id)
    return int(torch.randint(2**62, ()))
