"""L1, PSNR and SSIM against closed forms and an own computation."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_data import photographs
from scipy.ndimage import gaussian_filter
from support import Array

from m2l_train.evaluate.metrics import paired


def test_paired__equal_images() -> None:
    images = photographs(3)
    found = paired.compare(images, images)
    assert found.l1_levels.tolist() == [0, 0, 0]
    assert np.isinf(found.psnr_db).all()
    assert found.ssim == pytest.approx([1, 1, 1])


def test_paired__a_known_shift() -> None:
    images = np.clip(photographs(2), 0, 240)
    shifted = images.copy()
    shifted[1] += 12
    shifted[0, :, :, 0] += 3
    found = paired.compare(shifted, images, workers=2)
    assert found.l1_levels == pytest.approx([1, 12])
    assert found.psnr_db == pytest.approx([10 * np.log10(255**2 / 3), 20 * np.log10(255 / 12)])


def own_ssim(one: Array, other: Array) -> float:
    """Equations 13 to 16 of Wang et al. 2004, with a window of 11 pixels, without the frame it does not fit in."""

    def mean(x: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.asarray(gaussian_filter(x, 1.5, truncate=3.5, axes=(0, 1)))

    x, y = one.astype(float), other.astype(float)
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(index[5:-5, 5:-5].mean())


def test_paired__ssim_is_that_of_the_paper_and_falls_with_noise() -> None:
    image = photographs(1)[0]
    noise = np.random.default_rng(0).normal(0, 1, image.shape)
    noisy = [np.clip(image + scale * noise, 0, 255).astype(np.uint8) for scale in (4, 12, 40)]
    found = [paired.ssim(image, other) for other in noisy]
    assert found == pytest.approx([own_ssim(image, other) for other in noisy], abs=1e-6)
    assert 1 > found[0] > found[1] > found[2]
