"""Read pairs that `m2l synth` wrote: files with `--pairs`, npz, WebDataset tars, Parquet."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, SupportsIndex

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from m2l_runtime._utils.arguments import check_types
from m2l_runtime.conditioning.random import check_seed, random_below, random_permutation, random_uint64
from m2l_runtime.errors import ArgumentError
from m2l_runtime.types import Image, Mask
from m2l_train.datasets.parts import Part, find_parts
from m2l_train.datasets.sharing import Epoch, check_shard, worker
from m2l_train.datasets.tensors import PairTransform, make_item

RUN: Final = 100
"""Pairs of a tar that one worker reads one after another; of Parquet it is a row group, as m2l writes it."""


class _Pairs:
    """Number the pairs of all files, in the order of their names."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.parts: Final[list[Part]] = find_parts(Path(folder))
        self.ends: Final = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def locate(self, index: SupportsIndex) -> tuple[Part, int]:
        """Return the part that holds a pair, and the pair's place in it.

        Raises:
            IndexError: there is no such pair.
        """
        number = index.__index__()
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self):,} pairs, numbered from 0, got {index!r}")
        place = int(np.searchsorted(self.ends, number, side="right"))
        return self.parts[place], number - int(self.ends[place]) + len(self.parts[place])


@check_types()
class PairsDataset(Dataset[Any]):
    """Read pairs by number: a map-style dataset.

    Example:
        >>> from m2l_runtime import OutputOptions, Synthesizer, open_source, synthesize_folder
        >>> with Synthesizer.open(backend="fake") as synth:
        ...     summary = synthesize_folder(open_source("shapes:3"), "tars", synth, OutputOptions(format="webdataset"))
        >>> pairs = PairsDataset("tars")
        >>> image, mask = pairs[2]
        >>> len(pairs), pairs.name(2), image.shape, mask.shape
        (3, '000002-triangle.png', torch.Size([3, 256, 256]), torch.Size([1, 256, 256]))
    """

    def __init__(self, folder: str | os.PathLike[str], *, transform: PairTransform | None = None) -> None:
        """Find the pairs; tars are looked through once, which takes some 50 microseconds a pair.

        Args:
            folder: output folder of `m2l synth`, or one of its tars or Parquet files.
            transform: see `PairTransform`; None: :func:`m2l_train.datasets.to_tensors`.

        Raises:
            InputError: there are no pairs in it, pairs of several formats, or a damaged file.
            EngineNotInstalled: Parquet files need pyarrow.
        """
        self._pairs, self._transform = _Pairs(folder), transform

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: SupportsIndex) -> Any:
        part, place = self._pairs.locate(index)
        return make_item(*part.read(place), self._transform)

    def name(self, index: SupportsIndex) -> str:
        """Return the name of the mask of a pair, so that sets can be split by it.

        Raises:
            IndexError: there is no such pair.
            InputError: the file has changed since.
        """
        part, place = self._pairs.locate(index)
        return part.name(place)


@check_types()
class PairsIterableDataset(IterableDataset[Any]):
    """Read pairs one after another, file by file, shuffled if asked for: an iterable dataset.

    Runs of pairs are dealt out to shards and there to workers, so each is read once. For tars and Parquet on a disk or
    network where reading in order is quicker.

    Example:
        >>> from m2l_runtime import OutputOptions, Synthesizer, open_source, synthesize_folder
        >>> with Synthesizer.open(backend="fake") as synth:
        ...     options = OutputOptions(format="parquet")
        ...     summary = synthesize_folder(open_source("shapes:3"), "parquet", synth, options)
        >>> [tuple(mask.shape) for _, mask in PairsIterableDataset("parquet", shuffle=100, seed=3)]
        [(1, 256, 256), (1, 256, 256), (1, 256, 256)]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        shuffle: int = 0,
        seed: int = 0,
        transform: PairTransform | None = None,
        shard: tuple[int, int] = (1, 1),
    ) -> None:
        """Find the pairs.

        Args:
            folder: output folder of `m2l synth`, or one of its tars or Parquet files.
            shuffle: pairs that a worker holds to draw the next from, with the order of runs shuffled as well; 0: the
                order of the files.
            seed: of the order, 0..2^64-1; with :meth:`set_epoch`.
            transform: see `PairTransform`; None: :func:`m2l_train.datasets.to_tensors`.
            shard: (I, N), I from 1 to N: this process reads every N-th run, as one of N machines or GPUs.

        Raises:
            InputError: there are no pairs in it, pairs of several formats, a damaged file, or an option out of range.
            EngineNotInstalled: Parquet files need pyarrow.
        """
        check_shard(shard)
        check_seed(seed)
        if shuffle < 0:
            raise ArgumentError(f"shuffle is the number of pairs held, 0 or above, got {shuffle}")
        self._pairs, self._transform = _Pairs(folder), transform
        self._shuffle, self._seed, self._shard = shuffle, seed, shard
        self._runs = [(part, run) for part in self._pairs.parts for run in part.runs(RUN)]
        self._epoch = Epoch()

    def set_epoch(self, epoch: int) -> None:
        """Shuffle in another way from now on, in workers too.

        Raises:
            ArgumentError: it is below 0.
        """
        self._epoch.set(epoch)

    def __len__(self) -> int:
        return sum(len(self._runs[place][1]) for place in self._order())

    def _order(self) -> Sequence[int]:
        """Return the places of this shard's runs."""
        count = len(self._runs)
        seed = self._epoch.seed(self._seed)
        order = random_permutation(count, seed, "datasets", "runs").tolist() if self._shuffle else list(range(count))
        return order[self._shard[0] - 1 :: self._shard[1]]

    def __iter__(self) -> Iterator[Any]:
        for image, mask in self._shuffled():
            yield make_item(image, mask, self._transform)

    def _in_order(self) -> Iterator[tuple[Image, Mask]]:
        one, workers = worker()
        for run in self._order()[one::workers]:
            part, places = self._runs[run]
            for place in places:
                yield part.read(place)

    def _shuffled(self) -> Iterator[tuple[Image, Mask]]:
        pairs = self._in_order()
        if not self._shuffle:
            yield from pairs
            return
        seed, (one, _) = self._epoch.seed(self._seed), worker()
        held: list[tuple[Image, Mask]] = []
        draws: deque[int] = deque()
        drawn = 0
        for pair in pairs:
            if len(held) < self._shuffle:
                held.append(pair)
                continue
            if not draws:
                numbers = random_uint64(RUN, seed, "datasets", "held", self._shard[0], one, drawn)
                draws.extend(random_below(self._shuffle, numbers).tolist())
                drawn += 1
            place = draws.popleft()
            held[place], pair = pair, held[place]
            yield pair
        for place in random_permutation(len(held), seed, "datasets", "rest", self._shard[0], one):
            yield held[place]
