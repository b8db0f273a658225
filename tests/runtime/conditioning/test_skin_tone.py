"""The individual typology angle: closed forms, classes, and appearances turned onto an angle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from steered_bundle import table

from m2l_runtime.conditioning.conditions import AppearanceChoice, AppearanceSampler
from m2l_runtime.conditioning.skin_tone import CLASSES, ita, skin_class, turn_to
from m2l_runtime.errors import InputError
from m2l_runtime.types import NAMES

L, B = NAMES.index("skin_L"), NAMES.index("skin_b")


@pytest.mark.parametrize(
    ("lightness", "yellow", "angle"),
    [(70, 20, 45), (50, 15, 0), (50 + 10 * math.sqrt(3), 10, 60), (40, 10 * math.sqrt(3), -30), (80, 0, 90)],
)
def test_ita__closed_forms(lightness: float, yellow: float, angle: float) -> None:
    assert float(ita(lightness, yellow)) == pytest.approx(angle)


def test_ita__bluish_skin_goes_on_past_90_without_a_jump() -> None:
    yellow, bluish = ita(70, [0.01, -0.01])
    assert yellow == pytest.approx(89.97, abs=0.01)
    assert bluish == pytest.approx(90.03, abs=0.01)


@pytest.mark.parametrize(
    ("angle", "name"),
    [
        (55.1, "very light"),
        (55, "light"),
        (41.1, "light"),
        (41, "intermediate"),
        (28.1, "intermediate"),
        (28, "tan"),
        (10.1, "tan"),
        (10, "brown"),
        (-29.9, "brown"),
        (-30, "dark"),
    ],
)
def test_skin_class__bounds(angle: float, name: str) -> None:
    assert skin_class(angle) == name


def test_classes__each_angle_is_of_its_class() -> None:
    assert {name: skin_class(angle) for name, angle in CLASSES.items()} == {name: name for name in CLASSES}


@pytest.mark.parametrize("angle", [-90, -45, 0, 25, 89])
def test_turn_to__the_angle_is_met_and_the_distance_kept(angle: float) -> None:
    lightness, yellow = turn_to(angle, 71, 13)
    assert math.hypot(lightness - 50, yellow) == pytest.approx(math.hypot(21, 13))
    assert float(ita(lightness, yellow)) == pytest.approx(angle)


def test_turn_to__lightness_stays_below_100() -> None:
    lightness, yellow = turn_to(60, 90, 60)
    assert lightness == pytest.approx(100)
    assert float(ita(lightness, yellow)) == pytest.approx(60)


def test_appearance_sampler__a_row_of_the_nearest_in_the_angle_is_turned_onto_it() -> None:
    rows = table()
    angles = np.degrees(np.arctan2(rows[:, L] - 50, rows[:, B]))
    nearest = rows[np.argsort(np.abs(angles - 25), kind="stable")[:3]]
    draw = AppearanceSampler(rows, AppearanceChoice.from_values({"ita": 25}))
    others = [i for i in range(12) if i not in (L, B)]
    found = np.stack([draw.sample(seed) for seed in range(60)])
    assert {tuple(row) for row in found[:, others]} == {tuple(row) for row in nearest[:, others]}
    np.testing.assert_allclose(np.degrees(np.arctan2(found[:, L] - 50, found[:, B])), 25, atol=1e-4)
    distances = {round(float(np.hypot(row[L] - 50, row[B])), 3) for row in nearest}
    assert {round(float(np.hypot(row[L] - 50, row[B])), 3) for row in found} == distances


def test_appearance_sampler__angle_and_numbers_together() -> None:
    choice = AppearanceChoice.from_values({"ita": 40, "lesion_L": 35, "skin_a": 12})
    assert choice.label == "lesion_L=35.0,skin_a=12.0,ita=40.0"
    row = AppearanceSampler(table(), choice).sample(3)
    assert (row[NAMES.index("lesion_L")], row[NAMES.index("skin_a")]) == (35, 12)
    assert math.degrees(math.atan2(row[L] - 50, row[B])) == pytest.approx(40, abs=1e-4)


def test_appearance_sampler__warns_of_angles_that_few_images_have() -> None:
    rows = np.tile(np.float32(50), (101, 12))
    rows[:, L] = 50 + 20 * np.tan(np.radians(np.linspace(20, 70, 101)))
    rows[:, B] = 20
    for angle, is_rare in ((22, True), (23, False), (67, False), (68, True)):
        warnings = AppearanceSampler(rows, AppearanceChoice.from_values({"ita": angle})).warnings
        assert len(warnings) == is_rare
    assert (
        "ita 68 (very light skin) is outside what the network was trained with: 90% of its images are from"
        in "".join(AppearanceSampler(rows, AppearanceChoice.from_values({"ita": 68})).warnings)
    )


@pytest.mark.parametrize(("text", "angle"), [("tan", 19), ("very-light", 65), ("Very Light", 65), ("-12.5", -12.5)])
def test_parse__an_angle_or_a_class(text: str, angle: float) -> None:
    assert AppearanceChoice.parse(f"ita={text}").values == (("ita", angle),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ita=pale", "ita must be a number of degrees, or one of very light, light, .*, got 'ita=pale'"),
        ("ita=91", "ita must be between -90 and 90, got 91"),
        ("ita=20,skin_L=60", "ita says skin_L and skin_b; give it or skin_L, not both"),
        ("lesion_L=tan", "lesion_L must be a number, got"),
    ],
)
def test_parse__angles_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AppearanceChoice.parse(text)
