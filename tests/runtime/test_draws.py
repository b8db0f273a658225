"""Random numbers against the cipher's definition, and that they never change."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from m2l_runtime.draws import below, draw, shuffled

MASK = (1 << 64) - 1


def philox4x64_10(key: tuple[int, int], counter: int) -> list[int]:
    """From the paper: Salmon et al., SC 2011, section 3.2 and table 2."""
    x, k = [counter, 0, 0, 0], list(key)
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [second >> 64 ^ x[1] ^ k[0], second & MASK, first >> 64 ^ x[3] ^ k[1], first & MASK]
        k = [k[0] + 0x9E3779B97F4A7C15 & MASK, k[1] + 0xBB67AE8584CAA73B & MASK]
    return x


def test_the_stream_is_philox_under_a_key_of_blake2b() -> None:
    words = [b"5", b"str lesions/a.png", b"int 3"]
    text = b"".join(len(word).to_bytes(8, "little") + word for word in words)
    digest = hashlib.blake2b(text, digest_size=16).digest()
    key = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    expected = [number for counter in (1, 2, 3) for number in philox4x64_10(key, counter)]
    assert [int(n) for n in draw(12, 5, "lesions/a.png", 3)] == expected


def test_golden_numbers() -> None:
    assert [int(n) for n in draw(3, 0, "golden", 1)] == [0x651AFF7038A1F3B9, 0x167DA6789F00F375, 0xB9F9799A8EEBCED3]
    np.testing.assert_array_equal(draw(100, 1, "a")[:10], draw(10, 1, "a"))


def test_each_purpose_has_a_stream_of_its_own() -> None:
    purposes: list[tuple[str | int, ...]] = [("a",), ("a", 0), ("a", "0"), ("ab",), ("a", "b"), (), ("bad\udcff",)]
    firsts = {int(draw(1, seed, *names)[0]) for names in purposes for seed in (0, 1)}
    assert len(firsts) == 2 * len(purposes)


@pytest.mark.parametrize("limit", [1, 2, 30, 1000])
def test_below_is_uniform(limit: int) -> None:
    counts = np.bincount(below(limit, draw(100_000, 3, "below")), minlength=limit)
    assert len(counts) == limit
    assert np.abs(counts - 100_000 / limit).max() <= 6 * np.sqrt(100_000 / limit)


def test_a_shuffle_has_each_once() -> None:
    assert sorted(shuffled(500, 1, "x").tolist()) == list(range(500))
    assert shuffled(500, 1, "x").tolist() != list(range(500))
