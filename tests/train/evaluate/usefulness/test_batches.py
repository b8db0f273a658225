"""What each step of a training sees."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from m2l_train.evaluate.usefulness.batches import Batches, Pool

VALUES = np.arange(10, dtype=np.uint8)[:, None, None, None]
REAL = Pool("real", VALUES + np.zeros((1, 32, 32, 3), np.uint8), np.zeros((10, 32, 32), np.uint8))
MADE = Pool("synthesized", REAL.images[:7] + np.uint8(100), REAL.masks[:7] + np.uint8(255))
STEPS, SIZE = 21, 4


def batches(
    real: Pool | None = REAL, made: Pool | None = MADE, share: float = 0.3, use: Any = "mixed", **more: Any
) -> Batches:
    return Batches(real, made, share, use, **{"steps": STEPS, "size": SIZE, "seed": 0, "augments": False} | more)


def values(images: Any) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


@pytest.mark.parametrize("use", ["mixed", "pretrain"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.77])
def test_batches__the_share_is_kept_over_all_steps(use: str, share: float) -> None:
    dealt = batches(share=share, use=use)
    counts = [dealt.counts(step) for step in range(STEPS)]
    assert all(sum(count) == SIZE for count in counts)
    assert sum(made for _, made in counts) == round(share * STEPS * SIZE)
    if use == "mixed":
        assert all(abs(made - share * SIZE) <= 1 for _, made in counts)
    else:
        made = [made for _, made in counts]
        assert made == sorted(made, reverse=True)
        assert made[0] == SIZE or sum(made) < SIZE
        assert sum(0 < one < SIZE for one in made) <= 1


@pytest.mark.parametrize("use", ["mixed", "pretrain"])
def test_batches__every_pair_is_seen_equally_often(use: str) -> None:
    dealt = batches(use=use)
    seen: Counter[int] = Counter()
    for step in range(STEPS):
        images, masks = dealt.at(step)
        assert images.shape == (SIZE, 32, 32, 3)
        for mask, value in zip(masks, values(images), strict=True):
            assert (mask == (255 if value >= 100 else 0)).all()
        seen.update(values(images))
    for pool in (REAL, MADE):
        counts = [seen[value] for value in values(pool.images)]
        assert max(counts) - min(counts) <= 1
    assert sum(seen.values()) == STEPS * SIZE


def test_batches__a_pool_alone_is_all_there_is() -> None:
    assert all(value < 100 for step in range(STEPS) for value in values(batches(made=None).at(step)[0]))
    assert all(value >= 100 for step in range(STEPS) for value in values(batches(real=None).at(step)[0]))
    with pytest.raises(ValueError, match="nothing to train on"):
        batches(real=None, made=None)


def test_batches__depend_on_seed_and_step_alone() -> None:
    one, other = batches(augments=True), batches(augments=True)
    late = one.at(STEPS - 1)
    for step in range(STEPS):
        other.at(step)
    np.testing.assert_array_equal(late[0], other.at(STEPS - 1)[0])
    assert values(batches(seed=1).at(0)[0]) != values(batches().at(0)[0])


def test_batches__augmentation_moves_images_and_their_absence_leaves_them() -> None:
    plain, moved = batches(made=None), batches(made=None, augments=True)
    gray = Pool("real", np.full((10, 32, 32, 3), 128, np.uint8), REAL.masks)
    lit = batches(real=gray, made=None, augments=True)
    assert len({value for step in range(4) for value in values(lit.at(step)[0])}) > 4
    assert set(values(plain.at(0)[0])) <= set(range(10))
    assert plain.at(0)[0].shape == moved.at(0)[0].shape
