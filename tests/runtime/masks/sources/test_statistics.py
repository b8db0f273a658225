"""Figures of masks against closed forms and hand counts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support import disc, save

from m2l_runtime.errors import InputError
from m2l_runtime.masks.mask_folder import find_masks
from m2l_runtime.masks.sources.statistics import compare, describe, measure, perimeter


@pytest.mark.parametrize("radius", [12.0, 40.0, 90.0])
def test_statistics__a_disc_is_round(radius: float) -> None:
    found = measure(disc(256, radius, 128, 128))
    assert found.area == pytest.approx(math.pi * radius**2 / 256**2, rel=0.04)
    assert found.roundness == pytest.approx(1, abs=0.04)
    assert (found.parts, found.holes, found.touches_frame) == (1, 0, 0)


@pytest.mark.parametrize("angle", [0.0, 10.0, 22.5, 45.0])
def test_statistics__the_outline_of_a_square_however_it_lies(angle: float) -> None:
    """Four directions know lines at multiples of 45 degrees less well than others: within 8 %."""
    picture = Image.new("1", (400, 400))
    corners = [(200 + 120 * math.cos(a), 200 + 120 * math.sin(a)) for a in np.radians(angle + np.arange(4) * 90)]
    ImageDraw.Draw(picture).polygon(corners, fill=1)
    assert perimeter(np.array(picture)) == pytest.approx(4 * 120 * math.sqrt(2), rel=0.08)


def test_statistics__parts_touch_at_corners_and_holes_do_not_leak_there() -> None:
    mask = np.zeros((12, 12), np.uint8)
    mask[2:4, 2:4] = mask[4:6, 4:6] = 255  # joined at a corner
    mask[8:11, 8:11] = 255
    mask[9, 9] = 0
    found = measure(mask)
    assert (found.parts, found.holes) == (2, 1)
    diamond = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.uint8) * 255
    assert (measure(np.pad(diamond, 2)).parts, measure(np.pad(diamond, 2)).holes) == (1, 1)


def test_statistics__background_cut_off_by_the_frame_is_no_hole() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[5:8] = 255
    found = measure(mask)
    assert (found.parts, found.holes, found.touches_frame) == (1, 0, 1)


def test_statistics__roundness_is_of_the_largest_part_with_holes_filled() -> None:
    mask = disc(256, 60, 128, 128)
    mask[disc(256, 20, 128, 128) > 0] = 0
    mask[10:12, 10:40] = 255
    found = measure(mask)
    assert (found.parts, found.holes) == (2, 1)
    assert found.roundness == pytest.approx(1, abs=0.04)


def test_statistics__an_empty_mask_has_no_shape() -> None:
    found = measure(np.zeros((16, 16), np.uint8))
    assert (found.area, found.parts, found.holes) == (0, 0, 0)
    assert math.isnan(found.roundness)


def test_statistics__sets_are_described_and_compared(tmp_path: Path) -> None:
    for kind, radii in (("one", range(10, 50, 4)), ("other", range(30, 70, 4))):
        (tmp_path / kind).mkdir()
        for radius in radii:
            save(tmp_path / kind / f"{radius}.png", disc(256, radius, 128, 128))
    save(tmp_path / "one" / "empty.png", np.zeros((16, 16), np.uint8))
    (tmp_path / "one" / "no.png").write_bytes(b"x")
    one, other = (describe(find_masks(tmp_path / kind), 256) for kind in ("one", "other"))
    assert (one.count, len(one.left_out), len(one.metrics["roundness"].values)) == (11, 1, 10)
    areas = np.sort(one.metrics["area"].values)
    assert one.metrics["area"].mean == pytest.approx(areas.mean())
    assert one.metrics["area"].quantiles[2] == pytest.approx(areas[5])
    same = compare(other.metrics["area"], other.metrics["area"])
    assert same is not None
    assert (same.ks_statistic, same.wasserstein) == (0, 0)
    apart = compare(one.metrics["area"], other.metrics["area"])
    assert apart is not None
    smaller = sum(radius < 30 for radius in range(10, 50, 4)) + 1
    assert apart.ks_statistic == pytest.approx(smaller / 11)
    assert apart.wasserstein == pytest.approx(other.metrics["area"].mean - one.metrics["area"].mean)


def test_statistics__nothing_to_describe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no masks to describe"):
        describe(find_masks(tmp_path), 256)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a\.png: is not a PNG.*; 1 file like it"):
        describe(find_masks(tmp_path), 256)
