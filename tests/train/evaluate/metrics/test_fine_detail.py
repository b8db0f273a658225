"""Sharpness and color of the finest detail, of images whose figures are known."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from support import Array

from m2l_train.evaluate.metrics import fine_detail


def noise(spread: float, seed: int = 0, is_grey: bool = False) -> Array:
    levels = np.random.default_rng(seed).normal(0, spread, (4, 128, 128, 1 if is_grey else 3))
    return np.clip(np.round(128 + np.broadcast_to(levels, (4, 128, 128, 3))), 0, 255).astype(np.uint8)


def test_fine_detail__white_noise_has_twenty_times_its_variance() -> None:
    """The Laplacian's weights are -4 and four times 1: 20 times the variance, by 0.299, 0.587 and 0.114 in grey."""
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        images = np.full((4, 128, 128, 3), 128, np.uint8)
        images[..., channel] = noise(10)[..., channel]
        found = fine_detail.measure(images).sharpness
        assert found == pytest.approx(20 * 100.08 * weight**2, rel=0.05)


def test_fine_detail__one_light_for_all_channels_and_a_noise_for_each() -> None:
    assert fine_detail.measure(noise(10, is_grey=True)).red_green == pytest.approx(1)
    assert fine_detail.measure(noise(10)).red_green == pytest.approx(0, abs=0.05)
    mixed = noise(10)
    mixed[..., 0] = mixed[..., 1]
    assert fine_detail.measure(mixed).red_green == pytest.approx(1)
    flat = fine_detail.measure(np.full((2, 32, 32, 3), 9, np.uint8))
    assert np.isnan(flat.red_green).all()
    assert not flat.sharpness.any()


def test_fine_detail__halved_color_makes_red_and_green_go_together() -> None:
    """Why both sides must be encoded alike: noise in each channel passes for light after JPEG."""
    encoded = []
    for image in noise(10):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=90, subsampling=2)
        encoded.append(np.asarray(Image.open(file)))
    assert fine_detail.measure(np.stack(encoded)).red_green.min() > 0.5


def test_fine_detail__twice_the_contrast_is_two_octaves_away() -> None:
    one, other = (fine_detail.measure(noise(spread, is_grey=True)).sharpness for spread in (8, 16))
    assert fine_detail.distance(one, other) == pytest.approx(2, abs=0.05)
    assert fine_detail.distance(one, one) == 0
    assert np.isfinite(fine_detail.distance(one, np.zeros(3)))
