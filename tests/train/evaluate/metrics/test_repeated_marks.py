"""Marks that images share: planted ones are found, in the strength that they were planted in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from support import Array

from m2l_train.evaluate.metrics import bootstrap, repeated_marks


def noise(seed: int, count: int, side: int = 64, spread: float = 12) -> Array:
    levels = np.random.default_rng(seed).normal(128, spread, (count, side, side, 3))
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)


def weights(count: int) -> npt.NDArray[np.float64]:
    return bootstrap.multiplicities(bootstrap.resample_indices(count, 0, "images"))


def planted(count: int, amplitude: int) -> Array:
    """Columns lighter and darker in turn: a square wave, which the blur of 2 pixels all but takes away."""
    images = noise(0, count).astype(int)
    images[:, :, ::2] += amplitude
    images[:, :, 1::2] -= amplitude
    return images.astype(np.uint8)


def test_repeated_marks__a_planted_grid_has_its_amplitude() -> None:
    for amplitude in (3, 10):
        matrix = repeated_marks.products(planted(30, amplitude))
        strength = repeated_marks.strength(matrix, weights(30))
        assert strength.value == pytest.approx(amplitude, rel=0.05)
        power = amplitude**2
        correlation = repeated_marks.correlation(matrix, weights(30)).value
        assert correlation == pytest.approx(power / (power + 12**2), rel=0.06)  # of signal and noise


def test_repeated_marks__unrelated_images_share_nothing_however_few_they_are() -> None:
    for count in (5, 40):
        matrix = repeated_marks.products(noise(1, count))
        assert abs(repeated_marks.strength(matrix, weights(count)).value) < 0.6
        assert abs(repeated_marks.correlation(matrix, weights(count)).value) < 0.01


def test_repeated_marks__the_strength_is_the_detail_of_the_mean_image_less_the_noise_in_it() -> None:
    images = planted(25, 4)
    matrix = repeated_marks.products(images)
    details = np.stack([repeated_marks._detail(image) for image in images]).astype(float)
    of_mean, each = np.square(details.mean(0)).mean(), np.square(details).mean()
    expected = (25 * of_mean - each) / 24  # E|mean|^2 = shared + (each - shared) / N
    assert repeated_marks.strength(matrix, weights(25)).value ** 2 == pytest.approx(expected, rel=1e-4)


def test_repeated_marks__light_and_slow_shading_are_no_marks() -> None:
    images = noise(2, 20).astype(float)
    shaded = images + np.linspace(0, 60, 64)[None, :, None, None]
    found = repeated_marks.strength(repeated_marks.products(np.clip(shaded, 0, 255).astype(np.uint8)), weights(20))
    assert found.value < 1.5  # at the borders


def test_repeated_marks__flat_images_have_none() -> None:
    matrix = repeated_marks.products(np.full((6, 32, 32, 3), 90, np.uint8))
    assert repeated_marks.strength(matrix, weights(6)).value == pytest.approx(0, abs=1e-3)
    assert repeated_marks.correlation(matrix, weights(6)).value == pytest.approx(0, abs=1)
