"""Numbers of an image beside its colors, on pictures that are drawn: what is drawn is measured, and nothing else."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFilter
from support import Array, disc

from m2l_runtime.conditioning._filters import connected, gaussian, laplacian
from m2l_runtime.conditioning.numbers import MEASURED_NAMES, NUMBERS, measure_numbers
from m2l_runtime.conditioning.picture import Picture
from m2l_runtime.types import NAMES

SIDE = 256
SKIN, LESION = (220, 180, 165), (120, 80, 70)
MASK = disc(SIDE, 50, 128, 128)


def drawn() -> Image.Image:
    """Skin with a round lesion, both plain."""
    return Image.fromarray(np.where(MASK[..., None] > 127, LESION, SKIN).astype(np.uint8))


def noisy(strength: float, seed: int = 1) -> Image.Image:
    pixels = np.asarray(drawn()) + np.random.default_rng(seed).normal(0, strength, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def measured(picture: Image.Image, *names: str, mask: Array = MASK) -> list[float]:
    return [float(number) for number in measure_numbers(np.asarray(picture), mask, names)]


def gray(lightness: npt.NDArray[np.float64]) -> Image.Image:
    """Gray levels whose L* is nearest to the values asked for, 0..100."""
    levels = np.arange(256, dtype=np.uint8)
    ladder = Picture(np.repeat(levels[:, None, None], 3, 2), np.zeros((256, 1), np.uint8)).lightness[:, 0]
    chosen = np.abs(ladder[:, None] - lightness.reshape(1, -1)).argmin(0).astype(np.uint8)
    return Image.fromarray(np.repeat(chosen.reshape(lightness.shape)[..., None], 3, 2))


def test_measure_numbers__every_number_is_within_its_range_even_of_odd_images() -> None:
    rng = np.random.default_rng(0)
    checkers = np.kron(np.indices((32, 32)).sum(0) % 2, np.ones((2, 2), int))[..., None] * 255
    for image in (
        np.zeros((64, 64, 3), np.uint8),
        np.full((64, 64, 3), 255, np.uint8),
        rng.integers(0, 256, (64, 64, 3)).astype(np.uint8),
        np.broadcast_to(checkers, (64, 64, 3)).astype(np.uint8),
        np.broadcast_to(np.array([0, 0, 255], np.uint8), (64, 64, 3)),
        rng.integers(0, 256, (5, 3, 3)).astype(np.uint8),
    ):
        for mask in (np.zeros(image.shape[:2], np.uint8), np.eye(*image.shape[:2], dtype=np.uint8) * 255):
            for name, number in zip(MEASURED_NAMES, measure_numbers(image, mask), strict=True):
                assert NUMBERS[name].low <= number <= NUMBERS[name].high, name


def test_measure_numbers__the_first_twelve_are_those_of_before_and_names_choose() -> None:
    image = np.asarray(noisy(10))
    whole = measure_numbers(image, MASK)
    np.testing.assert_array_equal(measure_numbers(image, MASK, ("hair", "skin_L")), [whole[16], whole[6]])
    np.testing.assert_array_equal(measure_numbers(image, MASK, NAMES), whole[:12])
    np.testing.assert_array_equal(measure_numbers(image.copy(), MASK.copy()), whole)


def test_sharpness__closed_form_of_white_noise() -> None:
    rows = 60 + 5 * np.random.default_rng(3).standard_normal((SIDE, SIDE))
    (found,) = measured(gray(rows), "sharpness")
    assert found == pytest.approx(math.log10(25 * 20), abs=0.02)  # the kernel's squares sum to 4 + 16


def test_sharpness__falls_with_every_blur() -> None:
    found = [
        measured(noisy(10).filter(ImageFilter.GaussianBlur(sigma)), "sharpness", "skin_detail")
        for sigma in (0, 0.5, 1, 2, 4)
    ]
    for before, after in itertools.pairwise(found):
        assert after[0] < before[0] - 0.1
        assert after[1] < before[1]


def test_detail__of_lesion_and_skin_apart_and_in_closed_form() -> None:
    waves = 60 + 10 * np.sin(2 * np.pi * np.arange(SIDE) / 16)[None].repeat(SIDE, 0)
    inside = np.zeros((SIDE, SIDE), np.uint8)
    inside[32:-32, 32:-32] = 255
    lesion, skin = measured(gray(np.where(inside > 0, waves, 60.0)), "lesion_detail", "skin_detail", mask=inside)
    # a Gaussian of sigma s takes exp(-(2 pi s / 16)^2 / 2) of a wave of 16 pixels
    kept = [math.exp(-((2 * math.pi * sigma / 16) ** 2) / 2) for sigma in (1, 4)]
    assert lesion == pytest.approx(math.log10(10 / math.sqrt(2) * (kept[0] - kept[1])), abs=0.03)
    assert skin < lesion - 0.5


@pytest.mark.parametrize("amount", [0, 8, 25])
def test_vignette__is_the_amount_that_was_drawn(amount: float) -> None:
    down, right = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    lightness = np.where(np.hypot(down, right) / SIDE > 0.6, 70.0 - amount, 70.0)
    assert measured(gray(lightness), "vignette")[0] == pytest.approx(amount, abs=0.3)


def test_vignette__lighter_corners_are_none() -> None:
    down, right = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    assert measured(gray(50 + 20 * np.hypot(down, right) / SIDE), "vignette") == [0]


def hairs(count: int, width: int = 2, picture: Image.Image | None = None) -> Image.Image:
    """The picture with long arcs across the skin, none of them straight."""
    picture = drawn() if picture is None else picture
    draw = ImageDraw.Draw(picture)
    for i in range(count):
        draw.arc((20 + 12 * i, -150 + 9 * i, 300 + 12 * i, 120 + 9 * i), 60, 150, fill=(70, 50, 40), width=width)
    return picture


def test_hair__rises_with_every_hair_and_is_about_the_share_of_their_pixels() -> None:
    found = [measured(hairs(count), "hair")[0] for count in (0, 1, 3, 6, 9)]
    assert found[0] == 0
    assert np.all(np.diff(found) > 0.1)
    plain, with_hair = np.asarray(drawn()), np.asarray(hairs(6))
    share = (plain != with_hair).any(2)[MASK < 128].mean()
    assert 0.4 < (10 ** found[3] - 1) / 1000 / share < 1.5


def test_hair__specks_ink_broad_marks_and_the_lesions_edge_are_none() -> None:
    specks = drawn()
    for i in range(80):
        x, y = 12 + i % 10 * 25, 12 + i // 10 * 31
        ImageDraw.Draw(specks).ellipse((x, y, x + 4, y + 4), fill=(90, 60, 50))
    band = drawn()
    ImageDraw.Draw(band).line((10, 30, 240, 60), fill=(70, 50, 40), width=24)
    strokes = drawn()
    ImageDraw.Draw(strokes).line((10, 30, 240, 60), fill=(90, 60, 150), width=2)
    assert [measured(picture, "hair")[0] < 0.1 for picture in (specks, band, strokes)] == [True] * 3


def test_ink__is_the_share_of_blue_pixels_outside_the_lesion_and_the_corners() -> None:
    picture = drawn()
    ImageDraw.Draw(picture).rectangle((30, 100, 49, 119), fill=(90, 60, 170))
    assert measured(drawn(), "ink") == [0]
    assert measured(picture, "ink")[0] == pytest.approx(math.log10(1 + 1000 * 400 / SIDE**2), abs=0.1)
    for hidden in ((118, 118, 137, 137), (0, 0, 14, 14)):
        elsewhere = drawn()
        ImageDraw.Draw(elsewhere).rectangle(hidden, fill=(90, 60, 170))
        assert measured(elsewhere, "ink") == [0]


def test_ink__bluish_light_and_black_are_none() -> None:
    cold = Image.fromarray((np.asarray(noisy(3)) * [0.7, 0.8, 1.15]).clip(0, 255).astype(np.uint8))
    assert Picture(np.asarray(cold), MASK).lab[..., 2].mean() < -8
    black = drawn()
    ImageDraw.Draw(black).rectangle((30, 100, 49, 119), fill=(20, 20, 22))
    assert measured(cold, "ink") == measured(black, "ink") == [0]


def test_picture__sizes_that_differ() -> None:
    with pytest.raises(ValueError, match=r"image must be \(4, 4, 3\) as its mask is \(4, 4\), got \(4, 5, 3\)"):
        Picture(np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("share", [0, 0.1, 0.35, 0.5, 0.7, 1])
@pytest.mark.parametrize("shape", [(1, 9), (40, 31)])
def test_connected__as_a_flood_fill_finds_them(shape: tuple[int, int], share: float) -> None:
    marked = np.random.default_rng(int(share * 100)).random(shape) < share
    left, expected = {(int(y), int(x)) for y, x in zip(*np.nonzero(marked), strict=True)}, []
    while left:
        stack, together = [left.pop()], []
        while stack:
            y, x = stack.pop()
            together.append((y, x))
            around = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            stack += around
        ys, xs = zip(*together, strict=True)
        expected.append((len(together), min(ys), max(ys), min(xs), max(xs)))
    sets = connected(marked)
    found = zip(sets.area, sets.top, sets.bottom, sets.left, sets.right, strict=True)
    assert sorted(tuple(map(int, one)) for one in found) == sorted(expected)


def test_filters__closed_forms() -> None:
    down, right = np.indices((60, 70)).astype(float)
    np.testing.assert_allclose(laplacian(down**2 + 3 * right**2)[1:-1, 1:-1], 8)
    np.testing.assert_allclose(gaussian(down - 2 * right, 2.0)[10:-10, 10:-10], (down - 2 * right)[10:-10, 10:-10])
    spike = np.zeros((41, 41))
    spike[20, 20] = 1
    blurred = gaussian(spike, 2.0)
    assert blurred.sum() == pytest.approx(1)
    assert (blurred * (down[:41, :41] - 20) ** 2).sum() == pytest.approx(4, rel=0.01)
