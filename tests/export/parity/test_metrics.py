"""Figures of how far images are off, against closed forms; and what is said of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from m2l_export.parity.metrics import Fidelity, ParityLimits, fidelity, squared_errors
from m2l_runtime.errors import InputError


def psnr(square_mean: float) -> float:
    return 20 * math.log10(255) - 10 * math.log10(square_mean)


def test_metrics__figures_by_hand() -> None:
    reference = np.full((3, 4, 5, 3), 100, np.uint8)
    images = reference.copy()
    images[1, :, :, 0] += 6  # red of the second image: 36 / 3
    images[2, 0, 0, 2] -= 90  # one byte of sixty: 8100 / 60
    images[2, 0, 1, 1] += 30  # and another: 900 / 60
    found = fidelity(reference, images)
    assert found.psnr_db == pytest.approx(psnr((0 + 12 + 150) / 3))
    assert found.mean_psnr_db == pytest.approx((99 + psnr(12) + psnr(150)) / 3)
    assert found.worst_psnr_db == pytest.approx(psnr(150))
    assert found.worst_index == 2
    assert found.max_levels == 90
    assert found.mean_levels == pytest.approx((0 + 2 + 2) / 3)
    assert found.colour_shift_levels == pytest.approx((2, 30 / 60, -90 / 60))


def test_metrics__identical_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3)).astype(np.uint8)
    assert fidelity(images, images.copy()) == Fidelity(99, 99, 99, 0, 0, 0, (0, 0, 0))


def test_metrics__black_against_white() -> None:
    black, white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    found = fidelity(white, black)
    assert found.psnr_db == pytest.approx(0)
    assert found.max_levels == 255
    assert found.mean_levels == pytest.approx(255)
    assert found.colour_shift_levels == pytest.approx((-255, -255, -255))
    assert fidelity(black, white).colour_shift_levels == pytest.approx((255, 255, 255))


def test_metrics__a_few_bytes_off_by_one() -> None:
    reference = np.zeros((1, 256, 256, 3), np.uint8)
    images = reference.copy()
    images[0, 7, 8, 1] = 1
    assert psnr(1 / (256 * 256 * 3)) > 101
    assert fidelity(reference, images).psnr_db == 99
    images[0, 7, 8] = 1
    assert fidelity(reference, images).psnr_db == pytest.approx(psnr(3 / (256 * 256 * 3)))


GOOD = Fidelity(
    psnr_db=41, mean_psnr_db=41, worst_psnr_db=37, worst_index=4, max_levels=9, mean_levels=1.5,
    colour_shift_levels=(0.1, -0.9, 0.2),
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean_psnr_db": 39.99}, "mean PSNR 39.99 dB (limit 40)"),
        ({"worst_psnr_db": 35.5}, "worst PSNR (image 4) 35.50 dB (limit 36)"),
        ({"mean_levels": 2.25}, "mean difference 2.25 levels (limit 2)"),
        ({"colour_shift_levels": (0.0, 0.0, -1.5)}, "color shift 1.50 levels (limit 1)"),
        ({"psnr_db": 1.0, "max_levels": 255}, None),
    ],
)
def test_metrics__each_figure_has_a_limit(change: dict[str, Any], said: str | None) -> None:
    assert GOOD.misses(ParityLimits()) == []
    assert dataclasses.replace(GOOD, **change).misses(ParityLimits()) == ([] if said is None else [said])


def test_metrics__all_that_is_missed_is_told() -> None:
    found = dataclasses.replace(GOOD, mean_psnr_db=20.0, worst_psnr_db=10.0, mean_levels=30.0)
    assert len(found.misses(ParityLimits())) == 3
    assert found.misses(ParityLimits(20, 10, 30, 1)) == []


@pytest.mark.parametrize("by_db", [0.5, 6.0])
def test_metrics__stricter_limits_are_met_by_errors_that_are_less(by_db: float) -> None:
    """Differences less by a factor have a PSNR more by its decibels, and levels less by the factor itself."""
    factor = 10 ** (by_db / 20)
    limits = ParityLimits(40, 36, 2.0, 1.0).stricter(by_db)
    just = Fidelity(50, 40 + by_db, 36 + by_db, 0, 3, 1.999 / factor, (0.0, -0.999 / factor, 0.0))
    assert just.misses(limits) == []
    for name, value in (
        ("mean_psnr_db", 39.99 + by_db),
        ("worst_psnr_db", 35.99 + by_db),
        ("mean_levels", 2.01 / factor),
        ("colour_shift_levels", (0.0, -1.01 / factor, 0.0)),
    ):
        assert len(dataclasses.replace(just, **{name: value}).misses(limits)) == 1, name  # type: ignore[arg-type]


def test_metrics__limits_are_no_stricter_than_equal_bytes() -> None:
    identical = Fidelity(99, 99, 99, 0, 0, 0, (0, 0, 0))
    assert identical.misses(ParityLimits(98.9, 98.9).stricter(1000)) == []


@pytest.mark.parametrize(
    ("change", "mean_db", "worst_db"),
    [
        ({}, 0, 0),
        ({"mean_psnr_db": 38.5}, 1.5, 0),
        ({"worst_psnr_db": 30.0, "mean_psnr_db": 38.5}, 1.5, 6),
        ({"mean_levels": 4.0}, 20 * math.log10(2), 0),
        ({"colour_shift_levels": (0.0, -10.0, 2.0)}, 20, 0),
    ],
)
def test_metrics__how_far_the_error_has_to_fall(change: dict[str, Any], mean_db: float, worst_db: float) -> None:
    """Halving all differences halves levels and adds 6.02 dB to a PSNR."""
    short = dataclasses.replace(GOOD, **change).shortfall_db(ParityLimits())
    assert short.mean_db == pytest.approx(mean_db)
    assert short.worst_db == pytest.approx(worst_db)
    impossible = dataclasses.replace(GOOD, **change).shortfall_db(ParityLimits(mean_levels=0, colour_shift_levels=0))
    assert math.isfinite(impossible.mean_db)


def test_metrics__the_error_of_each_image() -> None:
    reference = np.full((2, 2, 2, 3), 10, np.uint8)
    images = reference.copy()
    images[1, 0, 0] = (0, 10, 250)
    assert squared_errors(reference, images).tolist() == [0, (100 + 240**2) / 12]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"psnr_db": -1}, "--min-psnr must be between 0 and 99 dB, got -1"),
        ({"psnr_db": math.nan}, "--min-psnr must be between 0 and 99 dB, got nan"),
        ({"worst_psnr_db": 99.5}, "--min-worst-psnr must be between 0 and 99 dB, got 99.5"),
        ({"mean_levels": -0.1}, "--max-mean-difference must be between 0 and 255 levels, got -0.1"),
        ({"colour_shift_levels": math.inf}, "--max-color-shift must be between 0 and 255 levels, got inf"),
    ],
)
def test_metrics__limits_out_of_range(given: dict[str, float], said: str) -> None:
    with pytest.raises(InputError) as error:
        ParityLimits(**given)
    assert str(error.value) == said
