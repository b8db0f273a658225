"""What is drawn for an item, by its definition; choices of appearances; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from steered_bundle import ROWS, drawn, table

from m2l_runtime.conditioning.conditions import (
    RANDOM_APPEARANCE,
    AppearanceChoice,
    Appearances,
    AppearanceSampler,
    check_appearances,
    check_seeds,
    dropout_bits,
    item_seed,
    mask_seed,
)
from m2l_runtime.errors import ArrayError, InputError
from m2l_runtime.types import NAMES


def test_conditions__golden_numbers() -> None:
    """They never change: a seed in a log must give the same image years later."""
    assert item_seed(0, "sub/a") == item_seed(0, "sub/a", 1) == 0x7FD765934E7FB751
    assert item_seed(7, "sub/a", 2) == 0x11735E40CE26F276
    assert dropout_bits(0x7FD765934E7FB751, 11).tobytes().hex() == "76c168fe6dd232f4095369"
    assert mask_seed(np.zeros((4, 4), np.uint8)) == 0x0E7494F907A55052
    thousand = np.arange(12_000, dtype=np.float32).reshape(1000, 12)
    assert AppearanceSampler(thousand).sample(0x7FD765934E7FB751)[0] == 250 * 12


@pytest.mark.parametrize("name", ["a", "sub/b", "caf\udce9"])
def test_conditions__what_is_drawn_is_the_stream_of_the_definition(name: str) -> None:
    if name.isascii():
        appearance, bits = drawn(3, name, 4)
        seed = item_seed(3, name, 4)
        np.testing.assert_array_equal(AppearanceSampler(table()).sample(seed), appearance)
        np.testing.assert_array_equal(dropout_bits(seed, 12), bits)
    assert len({item_seed(s, name, k) for s in range(4) for k in range(1, 5)}) == 16


def test_conditions__half_of_the_features_are_kept_and_more_bytes_begin_alike() -> None:
    bits = np.stack([dropout_bits(item_seed(0, str(n)), 21_504) for n in range(20)])
    shares = np.unpackbits(bits, axis=1).mean(0)
    assert abs(shares.mean() - 0.5) < 6 * 0.5 / np.sqrt(shares.size * 20)
    assert 0 < shares.min() < shares.max() < 1
    np.testing.assert_array_equal(dropout_bits(1, 3), dropout_bits(1, 30)[:3])


def test_conditions__every_row_of_the_table_is_drawn_about_as_often() -> None:
    draw = AppearanceSampler(table(), RANDOM_APPEARANCE)
    rows = {tuple(row): i for i, row in enumerate(table())}
    counts = np.bincount([rows[tuple(draw.sample(seed))] for seed in range(60 * ROWS)], minlength=ROWS)
    assert counts.min() > 60 - 6 * np.sqrt(60)
    assert counts.max() < 60 + 6 * np.sqrt(60)


def test_conditions__a_fixed_appearance_is_given_to_all() -> None:
    wanted = np.arange(1, 13, dtype=np.float32)
    draw = AppearanceSampler(table(), AppearanceChoice.fixed(wanted))
    for seed in range(5):
        np.testing.assert_array_equal(draw.sample(seed), wanted)


def test_conditions__some_numbers_given_draw_the_others_from_the_nearest_twentieth() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(50, 5, (200, 12)).astype(np.float32)
    rows[:, 6] = rng.normal(50, 0.05, 200)  # hardly varies: being off in it weighs a hundred times more
    choice = AppearanceChoice.from_values({"skin_L": 50.1, "lesion_L": 55})
    draw = AppearanceSampler(rows, choice)
    away = ((rows[:, 0] - 55) / rows[:, 0].std()) ** 2 + ((rows[:, 6] - 50.1) / rows[:, 6].std()) ** 2
    nearest = {tuple(row[[1, 2, 3, 4, 5, 7, 8, 9, 10, 11]]) for row in rows[np.argsort(away)[:10]]}
    found = [draw.sample(seed) for seed in range(300)]
    assert {tuple(row[[1, 2, 3, 4, 5, 7, 8, 9, 10, 11]]) for row in found} == nearest
    assert {(float(row[0]), float(row[6])) for row in found} == {(55.0, float(np.float32(50.1)))}


def rows_of_contrast(*contrasts: float) -> Appearances:
    """Make rows whose lesion and skin differ by so much, along a direction of its own each."""
    directions = np.random.default_rng(3).normal(size=(len(contrasts), 3))
    rows = np.random.default_rng(4).normal(50, 5, (len(contrasts), 12))
    apart = directions / np.linalg.norm(directions, axis=1, keepdims=True) * np.array(contrasts)[:, None]
    rows[:, 6:9] = rows[:, :3] + apart
    return rows.astype(np.float32)


def sampled(sampler: AppearanceSampler) -> set[int]:
    """Return the places of rows of :func:`rows_of_contrast` that are sampled, told by their lesion's spread of L*."""
    places = {float(row[3]): place for place, row in enumerate(rows_of_contrast(*CONTRASTS))}
    return {places[float(sampler.sample(seed)[3])] for seed in range(400)}


CONTRASTS = (3, 20, 8, 14.9, 15.1, 40, 10)


@pytest.mark.parametrize(
    ("limit", "text", "places"),
    [
        (15.0, None, {1, 4, 5}),
        (0.0, None, {0, 1, 2, 3, 4, 5, 6}),
        (15.0, "min_contrast=0", {0, 1, 2, 3, 4, 5, 6}),
        (15.0, "min_contrast=9.5", {1, 3, 4, 5, 6}),
        (0.0, "min_contrast=30", {5}),
    ],
)
def test_conditions__appearances_are_sampled_by_contrast(limit: float, text: str | None, places: set[int]) -> None:
    choice = RANDOM_APPEARANCE if text is None else AppearanceChoice.parse(text)
    assert sampled(AppearanceSampler(rows_of_contrast(*CONTRASTS), choice, NAMES, limit)) == places


def test_conditions__the_nearest_of_enough_contrast_are_sampled() -> None:
    """One row in twenty of those: of 20 of enough contrast one, of all 60 three."""
    rows = rows_of_contrast(*[5] * 40, *[25] * 20)
    rows[:, 0] = [*np.linspace(59, 61, 40), *np.linspace(20, 40, 20)]
    rows[:40, 6:9], rows[40:, 6:9] = rows[:40, :3] + [5, 0, 0], rows[40:, :3] + [25, 0, 0]
    found = {
        limit: {
            float(AppearanceSampler(rows, choice, NAMES, 15.0).sample(seed)[3])
            for choice in [AppearanceChoice.parse(f"lesion_L=60{limit}")]
            for seed in range(100)
        }
        for limit in ("", ",min_contrast=0")
    }
    assert found[""] == {float(rows[59, 3])}
    assert found[",min_contrast=0"] <= set(rows[:40, 3].tolist())
    assert len(found[",min_contrast=0"]) == 3
    warnings = AppearanceSampler(rows, AppearanceChoice.parse("lesion_L=60"), NAMES, 15.0).warnings
    assert not warnings  # the network was trained with it, whatever is sampled


def test_conditions__contrast_is_told_from_colors_alone_and_may_be_too_much() -> None:
    rows = rows_of_contrast(*CONTRASTS)
    with pytest.raises(InputError, match=r"contrast of 41 Delta E, the largest is 40\.0; give a lower one"):
        AppearanceSampler(rows, AppearanceChoice.parse("min_contrast=41"))
    with pytest.raises(InputError, match=r"no colors to tell a contrast from \(lesion_L, .*\); leave out"):
        AppearanceSampler(rows[:, :8], AppearanceChoice.parse("min_contrast=1"), NAMES[:8])
    turned = AppearanceSampler(rows[:, ::-1], AppearanceChoice.parse("min_contrast=30"), NAMES[::-1])
    np.testing.assert_array_equal(turned.rows, rows[5:6, ::-1])
    assert AppearanceChoice.parse("min_contrast=5, hair=0").label == "hair=0.0,min_contrast=5.0"


def test_conditions__a_table_of_one_row_without_spread() -> None:
    row = np.full((1, 12), 7, np.float32)
    found = AppearanceSampler(row, AppearanceChoice.from_values({"skin_a": 8})).sample(5)
    assert found.tolist() == [8 if name == "skin_a" else 7 for name in NAMES]


@pytest.mark.parametrize(("number", "is_far"), [(9.9, True), (10.1, False), (50, False), (89.9, False), (90.1, True)])
def test_conditions__numbers_far_from_all_that_was_seen_are_warned_of(number: float, is_far: bool) -> None:
    rows = np.repeat(np.array([[40], [60]], np.float32), 12, axis=1)  # a standard deviation of 10
    warnings = AppearanceSampler(rows, AppearanceChoice.from_values({"lesion_L": number, "skin_a": 50})).warnings
    assert len(warnings) == is_far
    for warning in warnings:
        assert f"lesion_L {number:g} is far from all that the network was trained with (40.0 to 60.0)" in warning


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"lesion_l": 5}, "appearances have no 'lesion_l'; expected some of lesion_L, lesion_a"),
        ({"lesion_L": -1}, "lesion_L must be between 0 and 100, got -1"),
        ({"skin_L": 101}, "between 0 and 100"),
        ({"min_contrast": -1}, "min_contrast must be between 0 and 100, got -1"),
        ({"min_contrast": float("nan")}, "min_contrast must be between 0 and 100, got nan"),
        ({"skin_a": 200}, "skin_a must be between -128 and 127, got 200"),
        ({"skin_spread_b": -0.5}, "skin_spread_b must be between 0 and 128"),
        ({"skin_b": float("nan")}, "got nan"),
        ({"skin_b": float("inf")}, "got inf"),
        ({"lesion_L": 10**400}, "lesion_L must be between 0 and 100, got 1000"),
        ({"ita": -(10**400)}, "ita must be between -90 and 90, got -1000"),
        ({"a\x1b[31m": 1}, r"have no 'a\\x1b"),
    ],
)
def test_conditions__numbers_that_cannot_be_are_refused(numbers: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AppearanceChoice.from_values(numbers)


def test_conditions__a_name_given_twice() -> None:
    with pytest.raises(InputError, match="skin_a is given twice"):
        AppearanceChoice((("skin_a", 1), ("skin_a", 2)))


def test_conditions__labels_tell_choices_apart_and_not_how_they_were_written() -> None:
    assert RANDOM_APPEARANCE.label == AppearanceChoice.from_values({}).label == "drawn"
    one = AppearanceChoice.from_values({"skin_a": 12, "lesion_L": 35.1})
    assert one.label == "lesion_L=35.1,skin_a=12.0"
    assert one == AppearanceChoice.from_values({"lesion_L": 35.1, "skin_a": 12.0})
    fixed = [AppearanceChoice.fixed(np.full(12, value, np.float32)).label for value in (1, 1, 2)]
    assert fixed[0] == fixed[1] != fixed[2]
    assert len(fixed[0]) < 60


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([1], "one for each mask, got 1"),
        ([1, 2, 3], "got 3"),
        ([1, -1], "got -1"),
        ([0, 1 << 64], "got 18446744073709551616"),
        ([1, 2.0], "got a number among them"),
        (5, r"got a whole number; a single seed is \[seed\]"),
        ("12", "got '12'"),
        (np.zeros(2), r"got \(2,\) float64"),
        (np.zeros((2, 1), int), r"got \(2, 1\) int64"),
        (np.array([-3, 0]), "got -3"),
    ],
)
def test_conditions__seeds_that_are_refused(seeds: Any, message: str) -> None:
    with pytest.raises(ArrayError, match=r"seeds must be \(2,\) integers from 0 to 2\^64-1, .*" + message):
        check_seeds(seeds, 2)


def test_conditions__seeds_that_are_taken() -> None:
    most = (1 << 64) - 1
    for seeds in ([0, most], (0, most), np.array([0, most], np.uint64), [np.uint64(0), most]):
        assert check_seeds(seeds, 2) == [0, most]
    assert check_seeds(range(3), 3) == [0, 1, 2]
    assert check_seeds([], 0) == []


@pytest.mark.parametrize(
    ("appearances", "message"),
    [
        ([0.0] * 12, "got a list"),
        (np.zeros((2, 12)), r"got \(2, 12\) float64; write appearances.astype\(numpy.float32\)"),
        (np.zeros((3, 12), np.float32), r"got \(3, 12\) float32"),
        (np.zeros((2, 11), np.float32), r"got \(2, 11\)"),
        (np.full(12, np.nan, np.float32), "infinite or undefined"),
    ],
)
def test_conditions__appearances_that_are_refused(appearances: Any, message: str) -> None:
    with pytest.raises(ArrayError, match=r"appearances must be \(2, 12\) or \(12,\) float32.*" + message):
        check_appearances(appearances, 2)
