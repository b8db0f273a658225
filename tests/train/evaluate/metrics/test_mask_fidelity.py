"""Dice and boundary distance of discs moved by known ways."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support import Array, disc

from m2l_train.evaluate.metrics import mask_fidelity


def overlap(radius: float, distance: float) -> float:
    """Share of a disc's area that it has in common with an equal one so far away."""
    half = distance / (2 * radius)
    return 2 / math.pi * (math.acos(half) - half * math.sqrt(1 - half * half))


def compare(one: Array, other: Array) -> tuple[float, float, int]:
    found = mask_fidelity.compare(one[None], (other[None] / 255).astype(np.float32))
    return float(found.dice[0]), float(found.boundary_px[0]), found.one_empty


def test_mask_fidelity__a_mask_agrees_with_itself() -> None:
    assert compare(disc(), disc()) == (1, 0, 0)


def test_mask_fidelity__a_disc_moved_by_ten_pixels() -> None:
    dice, boundary, _ = compare(disc(256, 60, 120, 130), disc(256, 60, 120, 140))
    assert dice == pytest.approx(overlap(60, 10), abs=0.003)
    # the nearest point of a circle of radius r moved by d: |sqrt(r^2 + d^2 - 2 r d cos t) - r|, averaged over t
    angle = np.linspace(0, 2 * np.pi, 10_000)
    away = np.abs(np.sqrt(60**2 + 10**2 - 2 * 60 * 10 * np.cos(angle)) - 60).mean()
    assert boundary == pytest.approx(away, abs=0.3)
    tighten_limits = compare(disc(256, 60, 120, 130), disc(256, 60, 120, 150))
    assert tighten_limits[0] < dice
    assert tighten_limits[1] > boundary


def test_mask_fidelity__rings_within_each_other() -> None:
    dice, boundary, _ = compare(disc(256, 50), disc(256, 60))
    assert dice == pytest.approx(2 * 50**2 / (50**2 + 60**2), abs=0.005)
    assert boundary == pytest.approx(10, abs=0.2)


def test_mask_fidelity__a_boundary_distance_is_that_of_brute_force() -> None:
    lesions = disc(64, 17.3, 30, 25) > 0, (disc(64, 12, 35, 33) | disc(64, 6, 8, 62)) > 0
    edges = []
    for lesion in lesions:
        framed = np.pad(lesion, 1)
        inside = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
        edges.append(np.argwhere(lesion & ~inside))
    apart = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=2)
    expected = np.concatenate([apart.min(0), apart.min(1)]).mean()
    assert mask_fidelity.boundary_distance(*lesions) == pytest.approx(expected)


def test_mask_fidelity__squares_by_hand() -> None:
    one, other = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    one[5, 5], other[5, 9] = True, True
    assert mask_fidelity.boundary_distance(one, other) == 4
    other[5, 5] = True
    assert mask_fidelity.boundary_distance(one, other) == pytest.approx((0 + 0 + 4) / 3)
    assert mask_fidelity.dice(one, other) == pytest.approx(2 / 3)


def test_mask_fidelity__empty_ones() -> None:
    empty = np.zeros((256, 256), np.uint8)
    assert compare(empty, empty) == (1, 0, 0)
    for pair in ((empty, disc()), (disc(), empty)):
        assert compare(*pair) == pytest.approx((0, 256 * math.sqrt(2), 1))


def test_mask_fidelity__distances_are_in_pixels_of_256() -> None:
    assert compare(disc(64, 15, 30, 32), disc(64, 15, 30, 34))[1] == pytest.approx(
        compare(disc(256, 60, 120, 128), disc(256, 60, 120, 136))[1], rel=0.1
    )
