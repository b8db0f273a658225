"""Nearest training images against brute force, and a copy planted among the synthesized."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_data import photographs
from support import Array

from m2l_train.evaluate.metrics import nearest_neighbors


def small(image: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(image.reshape(32, 2, 32, 2, 3).mean((1, 3)))


def test_nearest_neighbors__distances_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_neighbors, "_BLOCK", 4)
    training, made = photographs(11), photographs(5, first=60)
    found = nearest_neighbors.nearest(nearest_neighbors.shrink(made), nearest_neighbors.shrink(training))
    for row, image in enumerate(made):
        ways = [np.rot90(m, k) for m in (small(image), small(image)[:, ::-1]) for k in range(4)]
        all_of_them = [[np.sqrt(np.square(way - small(other)).mean()) for other in training] for way in ways]
        assert found.levels[row] == pytest.approx(np.min(all_of_them), rel=1e-5)
        assert found.places[row] == np.argmin(np.min(all_of_them, 0))


@pytest.mark.parametrize("way", range(8))
def test_nearest_neighbors__a_planted_copy_is_found_however_it_is_turned(way: int) -> None:
    training, made = photographs(9), photographs(4, first=60)
    copy = training[6] if way < 4 else training[6][:, ::-1]
    made[2] = np.rot90(copy, way % 4)
    found = nearest_neighbors.nearest(nearest_neighbors.shrink(made), nearest_neighbors.shrink(training))
    assert (found.places[2], found.levels[2]) == (6, pytest.approx(0, abs=1e-3))
    assert found.is_near_duplicate[2]
    assert np.delete(found.levels, 2).min() > 1


def test_nearest_neighbors__a_brighter_copy_is_a_near_duplicate_without_being_near() -> None:
    rows, columns = np.mgrid[:64, :64]
    odd = np.repeat((100 + 60 * np.sin(rows / 5) * np.cos(columns / 9))[..., None], 3, 2).astype(np.uint8)
    training = np.concatenate([photographs(5), odd[None]])
    found = nearest_neighbors.nearest(nearest_neighbors.shrink([odd + 40]), nearest_neighbors.shrink(training))
    assert found.is_near_duplicate.tolist() == [True]
    assert found.levels[0] > 20
