"""Deal real and synthesized pairs out to the steps of a training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m2l_runtime.conditioning.random import random_permutation
from m2l_runtime.types import Images, Masks
from m2l_train.evaluate.fitting import augment_batch
from m2l_train.evaluate.usefulness.plan import Use


@dataclass(frozen=True)
class Pool:
    """Hold pairs that a training draws from."""

    name: str
    """Of its random numbers: pools of one name and size are gone through in the same order."""
    images: Images
    """uint8 (N, S, S, 3)."""
    masks: Masks
    """uint8 (N, S, S)."""


class Batches:
    """Make the batch of each step; what is in it depends on the seed and the step alone.

    Each pool is gone through again and again, in another order each time.

    Example:
        >>> pool = Pool("real", np.zeros((5, 32, 32, 3), np.uint8), np.zeros((5, 32, 32), np.uint8))
        >>> batches = Batches(pool, None, 0.5, "mixed", steps=3, size=4, seed=0, augments=False)
        >>> images, masks = batches.at(2)
        >>> images.shape, masks.shape
        ((4, 32, 32, 3), (4, 32, 32))
    """

    def __init__(
        self,
        real: Pool | None,
        synthesized: Pool | None,
        share: float,
        use: Use,
        *,
        steps: int,
        size: int,
        seed: int,
        augments: bool,
    ) -> None:
        """Divide the images that are seen among the pools.

        Args:
            real: real pairs; None: only synthesized ones are seen.
            synthesized: None: only real ones are seen.
            share: of the images seen, those that are synthesized; only looked at where there are both.
            use: whether they are in every batch, or seen first.
            steps: how many batches there are.
            size: pairs in a batch.
            seed: of orders and augmentation.
            augments: whether pairs are augmented.
        """
        if real is None and synthesized is None:
            raise ValueError("there is nothing to train on")
        self._pools = (real, synthesized)
        self._share = 0.0 if synthesized is None else 1.0 if real is None else share
        self._use, self._steps, self._size, self._seed, self._augments = use, steps, size, seed, augments

    def counts(self, step: int) -> tuple[int, int]:
        """Return how many pairs of step `step` (from 0) are real, and how many synthesized."""
        ours = self._synthesized_before(step + 1) - self._synthesized_before(step)
        return self._size - ours, ours

    def _synthesized_before(self, step: int) -> int:
        """Count the synthesized pairs of all steps before `step`."""
        if self._use == "mixed":
            return round(self._share * self._size * step)
        return min(self._size * step, round(self._share * self._size * self._steps))

    def at(self, step: int) -> tuple[Images, Masks]:
        """Return the images (B, S, S, 3) and masks (B, S, S) of step `step`, from 0."""
        before = self._synthesized_before(step)
        starts = (self._size * step - before, before)
        parts = [
            self._draw(pool, start, count)
            for pool, start, count in zip(self._pools, starts, self.counts(step), strict=True)
            if pool is not None and count
        ]
        return np.concatenate([images for images, _ in parts]), np.concatenate([masks for _, masks in parts])

    def _draw(self, pool: Pool, start: int, count: int) -> tuple[Images, Masks]:
        """Return pairs `start` to `start + count` of the endless passes over a pool."""
        total = len(pool.images)
        epochs = [(start + i) // total for i in range(count)]
        orders = {
            epoch: random_permutation(total, self._seed, "usefulness", "order", pool.name, epoch) for epoch in epochs
        }
        places = [int(orders[epoch][(start + i) % total]) for i, epoch in enumerate(epochs)]
        if not self._augments:
            return pool.images[places], pool.masks[places]
        # Other numbers than of the real pair at the same place: each pool has seeds of its own.
        seed = 2 * self._seed + (pool is self._pools[1])
        return augment_batch(pool.images, pool.masks, places, seed, epochs)
