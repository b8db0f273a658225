"""Deformations: where things move, what never happens to a lesion, what is learnt from masks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import Array, disc, save

from m2l_runtime.bundle import embedded
from m2l_runtime.errors import InputError
from m2l_runtime.masks.mask_folder import find_masks
from m2l_runtime.masks.sources import DrawnMasks
from m2l_runtime.masks.sources.deform import Deformations, DeformOptions, Warp, open_deformations
from m2l_runtime.masks.sources.lesions import Lesion, pose, read_lesions, touches_frame
from m2l_runtime.masks.sources.shape_modes import BOX_RADII, fit_variation, register
from m2l_runtime.masks.sources.signed_distance import aligned_distances
from m2l_runtime.masks.sources.statistics import count_parts

pytestmark = pytest.mark.once

EXAMPLES = embedded.EXAMPLE_MASKS


def ellipse(a: float, b: float, side: int = 256, y: float = 128, x: float = 128, angle: float = 0.0) -> Array:
    rows, columns = np.mgrid[:side, :side] + 0.5
    u = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    v = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    return np.where((u / a) ** 2 + (v / b) ** 2 < 1, np.uint8(255), np.uint8(0))


def lesion(mask: Array) -> Lesion:
    from m2l_runtime.output.encoding import encode_gray_mask

    inside = mask > 127
    return Lesion("one", encode_gray_mask(mask), len(mask), pose(inside), touches_frame(inside))


def aspect(mask: Array) -> float:
    """Ratio of the axes, from second moments."""
    y, x = np.nonzero(mask > 127)
    values = np.linalg.eigvalsh(np.cov(np.stack([y, x]).astype(float)))
    return float(np.sqrt(values[1] / values[0]))


@pytest.fixture
def ellipses(tmp_path: Path) -> Path:
    """Of one area, the ratio of their axes from 1 to 2, in four directions."""
    folder = tmp_path / "ellipses"
    folder.mkdir()
    for number in range(24):
        root = np.sqrt(1 + number / 23)
        save(folder / f"e{number:02}.png", ellipse(50 * root, 50 / root, angle=number % 4 * np.pi / 4))
    return folder


def test_deform__a_pixel_shows_what_was_where_its_displacement_points() -> None:
    mask = disc(256, 30, 127.5, 127.5)
    control = np.zeros((2, 3, 3))
    control[0], control[1] = 0.05, -0.1  # shows what is below and to the left: the lesion moves up and to the right
    moved = Warp(control, None, lesion(mask)).apply(mask)
    y, x = (float(values.mean()) for values in np.nonzero(moved))
    assert -16 < y - 127.5 < -8
    assert 18 < x - 127.5 < 30


def test_deform__the_part_around_the_lesion_moves_by_radii_of_it() -> None:
    for radius in (15.0, 45.0):
        mask = disc(256, radius, 100, 140)
        own = np.zeros((2, 8, 8))
        own[0, 2:6, 2:6] = 0.3  # inside its grid all places move alike
        moved = Warp(np.zeros((2, 3, 3)), own, lesion(mask)).displacement(256)
        assert moved[0, 100, 140] == pytest.approx(0.3 * pose(mask > 127).radius, rel=0.02)
        assert np.abs(moved[1]).max() == 0
        assert np.abs(moved[:, 100 + int(3 * radius), 140]).max() == 0


def test_deform__stretch_agrees_with_differences_of_the_displacement() -> None:
    one = lesion(disc(256, 40, 110, 130))
    generator = np.random.default_rng(3)
    warp = Warp(generator.normal(0, 0.02, (2, 4, 4)), generator.normal(0, 0.15, (2, 8, 8)), one)
    (ay, ax), (by, bx) = (np.gradient(field) for field in warp.displacement(512))
    expected = (1 + ay) * (1 + bx) - ax * by
    np.testing.assert_allclose(warp.stretch(512)[2:-2, 2:-2], expected[2:-2, 2:-2], atol=0.02)


@pytest.mark.parametrize("alpha", [1.0, 0.4, 0.0])
def test_deform__no_lesion_leaves_the_frame_or_falls_apart(alpha: float) -> None:
    source = open_deformations(EXAMPLES, DeformOptions(alpha=alpha, range=0.9, size=128))
    names = [path.stem for path in find_masks(EXAMPLES).paths]
    changed = 0
    for number in range(24):
        mask, name = source.draw(number), names[number % len(names)]
        assert source.label(number) == name
        with Image.open(EXAMPLES / f"{name}.png") as picture:
            original = np.asarray(picture.convert("L").resize((128, 128), Image.Resampling.BICUBIC)) > 127
        assert 1 <= count_parts(mask > 127) <= count_parts(original)
        if not touches_frame(original):
            assert not touches_frame(mask > 127)
        overlap = 2 * ((mask > 127) & original).sum() / ((mask > 127).sum() + original.sum())
        assert overlap > 0.15
        changed += overlap < 0.99
    assert changed > 20


def test_deform__a_mask_depends_on_settings_and_number_alone() -> None:
    one, again = (open_deformations(EXAMPLES, DeformOptions(seed=3, alpha=0.5, size=64)) for _ in range(2))
    backwards = {number: again.draw(number) for number in reversed(range(14))}
    for number in range(14):
        np.testing.assert_array_equal(one.draw(number), backwards[number])
    assert (one.draw(0) != one.draw(12)).any()  # the same mask, deformed anew


def test_deform__a_range_that_folds_whatever_is_drawn(tmp_path: Path) -> None:
    save(tmp_path / "m.png", disc())
    source = open_deformations(tmp_path, DeformOptions(range=10, modes=72))
    with pytest.raises(InputError, match=r"m: none of 100 deformations can be used: 100 fold.* smaller --range"):
        source.draw(0)


def test_deform__empty_full_and_broken_masks_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((64, 64), np.uint8))
    save(tmp_path / "b.png", np.full((64, 64), 255, np.uint8))
    (tmp_path / "c.png").write_bytes(b"nothing")
    save(tmp_path / "d.png", disc(90, 20, 40, 40))
    source = open_deformations(tmp_path, DeformOptions(size=64))
    assert [message.partition(": ")[2] for message in source.left_out] == [
        "is empty",
        "is all lesion",
        "is not a PNG, JPEG, BMP, TIFF, WebP, GIF or PGM picture",
    ]
    assert {source.label(number) for number in range(5)} == {"d"}
    (tmp_path / "d.png").unlink()
    with pytest.raises(InputError, match=r"has no mask to go by; expected masks of a lesion .* and 2 more masks"):
        open_deformations(tmp_path, DeformOptions())


def test_deform__variation_cannot_be_learnt_from_one_mask_or_one_shape(tmp_path: Path) -> None:
    save(tmp_path / "a.png", disc())
    with pytest.raises(InputError, match=r"at least 3 masks, got 1 usable mask; --alpha 1 does without one"):
        open_deformations(tmp_path, DeformOptions(alpha=0.5))
    for name in "bcd":
        shutil.copy(tmp_path / "a.png", tmp_path / f"{name}.png")
    with pytest.raises(InputError, match=r"all masks have one shape"):
        open_deformations(tmp_path, DeformOptions(alpha=0.5))


def test_deform__registration_brings_one_outline_onto_another() -> None:
    box = (BOX_RADII, 1.0)
    moving, target = (
        aligned_distances(m, pose(m > 127), 64, *box) for m in (disc(256, 50), ellipse(62, 40, angle=0.6))
    )
    control = register(moving, target)
    from scipy import ndimage

    from m2l_runtime.masks.sources.freeform import basis, pixel_places, spread

    rows = basis(pixel_places(64), 8, clamped=False)
    at = np.mgrid[:64, :64] + spread(control, rows, rows) * 64 / (2 * BOX_RADII)
    shown = ndimage.map_coordinates(moving, at, order=1, mode="nearest")
    before, after = ((one < 0) ^ (target < 0) for one in (moving, shown))
    assert after.sum() < 0.35 * before.sum()


@pytest.mark.slow
def test_deform__ellipses_vary_as_ellipses_do(ellipses: Path) -> None:
    variation = fit_variation(read_lesions(find_masks(ellipses), 256), 20)
    assert variation.explained[:2].sum() > 0.85  # longer along the axes, longer along the diagonals
    source = Deformations(read_lesions(find_masks(ellipses), 512), DeformOptions(alpha=0.0), variation)
    ratios = [aspect(source.draw(24 * number)) for number in range(30)]  # of the disc alone
    assert 1.08 < np.median(ratios) < 1.6
    assert max(ratios) < 3


def test_deform__the_number_of_modes_is_limited_by_the_masks(ellipses: Path) -> None:
    for path in sorted(ellipses.iterdir())[4:]:
        path.unlink()
    assert len(fit_variation(read_lesions(find_masks(ellipses), 256), 20).modes) <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control_points": 1}, "control points along a side must be between 2 and 32, got 1"),
        ({"range": 0.0}, "range must be above 0"),
        ({"range": float("nan")}, "range must be above 0"),
        ({"modes": 73}, "6 x 6 control points have 72 modes; expected from 1 to that many, got 73"),
        ({"alpha": 1.5}, "alpha must be between 0"),
        ({"size": 5000}, "size must be between"),
    ],
)
def test_deform__what_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DeformOptions(**options)  # type: ignore[arg-type]


def test_deform__names_are_safe_for_files(tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    save(folder / "ein Fleck\nü.png", disc(64, 15, 30, 30))
    masks = DrawnMasks(open_deformations(tmp_path, DeformOptions(size=64)), 2)
    assert masks.names == ["000000-ein_Fleck__.png", "000001-ein_Fleck__.png"]
