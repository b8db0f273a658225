"""Random numbers against the cipher's definition, and that they never change."""

from __future__ import annotations

import numpy as np
import pytest
from support import philox_stream

from m2l_runtime.conditioning.random import random_below, random_permutation, random_uint64


def test_random__the_stream_is_philox_under_a_key_of_blake2b() -> None:
    assert [int(n) for n in random_uint64(12, 5, "lesions/a.png", 3)] == philox_stream(12, 5, "lesions/a.png", 3)


def test_random__golden_numbers() -> None:
    assert [int(n) for n in random_uint64(3, 0, "golden", 1)] == [
        0x651AFF7038A1F3B9,
        0x167DA6789F00F375,
        0xB9F9799A8EEBCED3,
    ]
    np.testing.assert_array_equal(random_uint64(100, 1, "a")[:10], random_uint64(10, 1, "a"))


def test_random__each_purpose_has_a_stream_of_its_own() -> None:
    purposes: list[tuple[str | int, ...]] = [("a",), ("a", 0), ("a", "0"), ("ab",), ("a", "b"), (), ("bad\udcff",)]
    firsts = {int(random_uint64(1, seed, *names)[0]) for names in purposes for seed in (0, 1)}
    assert len(firsts) == 2 * len(purposes)


@pytest.mark.parametrize("limit", [1, 2, 30, 1000])
def test_random__below_is_uniform(limit: int) -> None:
    counts = np.bincount(random_below(limit, random_uint64(100_000, 3, "below")), minlength=limit)
    assert len(counts) == limit
    assert np.abs(counts - 100_000 / limit).max() <= 6 * np.sqrt(100_000 / limit)


def test_random__a_shuffle_has_each_once() -> None:
    assert sorted(random_permutation(500, 1, "x").tolist()) == list(range(500))
    assert random_permutation(500, 1, "x").tolist() != list(range(500))
