"""Compare synthesized images with the real images of the same masks: L1, PSNR, SSIM.

SSIM: Wang, Bovik, Sheikh, Simoncelli, IEEE Transactions on Image Processing 13(4), 2004, with the Gaussian window of 11
pixels and sigma 1.5 that the paper has, by scikit-image, mean over the three channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from m2l_runtime.types import Image, Images
from m2l_train.evaluate.sets import in_threads

SIGMA: Final = 1.5
"""Pixels, of SSIM's window."""


@dataclass(frozen=True)
class Paired:
    """Hold one value for each pair."""

    l1_levels: npt.NDArray[np.float64]
    """Mean absolute difference in levels of 0..255."""
    psnr_db: npt.NDArray[np.float64]
    """Infinite where two images are equal; a mean leaves such out."""
    ssim: npt.NDArray[np.float64]
    """-1..1, 1 for equal images."""


def compare(
    generated: Images, real: Images, *, workers: int = 1, on_image: Callable[[int], None] = lambda count: None
) -> Paired:
    """Compare images (N, S, S, 3) uint8 one by one."""

    def one(pair: tuple[Image, Image]) -> tuple[float, float, float]:
        generated_image, real_image = pair
        difference = generated_image.astype(np.int16) - real_image
        is_equal = not difference.any()
        return (
            float(np.abs(difference).mean()),
            np.inf if is_equal else float(peak_signal_noise_ratio(real_image, generated_image, data_range=255)),  # type: ignore[no-untyped-call]
            ssim(generated_image, real_image),
        )

    rows = []
    for row in in_threads(one, zip(generated, real, strict=True), workers):
        rows.append(row)
        on_image(1)
    return Paired(*np.array(rows, np.float64).reshape(-1, 3).T)


def ssim(one: Image, other: Image) -> float:
    """Return the structural similarity of two images (S, S, 3) uint8."""
    return float(
        structural_similarity(  # type: ignore[no-untyped-call]
            one,
            other,
            data_range=255,
            channel_axis=2,
            gaussian_weights=True,
            sigma=SIGMA,
            use_sample_covariance=False,
        )
    )
