"""Pass images through JPEG compression while training, with gradients that pass straight through.

Dermoscopic photographs are JPEG files. A discriminator that sees compressed photographs beside
images that were never compressed learns that difference, and nothing of skin. Here both are compressed alike.
Rounding has no gradient, so that of the image itself takes its place (Bengio, Leonard and Courville, arXiv:1308.3432).
"""

from __future__ import annotations

import functools
import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from m2l_train.models.modulated import YCBCR_TO_RGB

RGB_TO_YCBCR: Final = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""ITU-T T.871 (JFIF), section 7."""

LUMA_TABLE: Final = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantization steps at quality 50: ITU-T T.81, table K.1."""

CHROMA_TABLE: Final = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)
"""Quantization steps at quality 50: ITU-T T.81, table K.2."""

_SHRINKING: Final = (1 / 4, 2 / 4)
_ENLARGING: Final = (8 / 16, 7 / 16)
"""What libjpeg adds to chroma of even and odd columns before it cuts fractions off: h2v2_downsample in jcsample.c,
h2v2_fancy_upsample in jdsample.c."""


def quantization_tables(quality: int) -> tuple[Tensor, Tensor]:
    """Compute the steps (8, 8) of luma and chroma at a quality of 1 to 100, as libjpeg scales them.

    Raises:
        ValueError: `quality` is out of that range.

    Example:
        >>> luma, chroma = quantization_tables(75)
        >>> luma[0].tolist()
        [8.0, 6.0, 5.0, 8.0, 12.0, 20.0, 26.0, 31.0]
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"the quality of a JPEG is 1 to 100, got {quality}")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    luma, chroma = (torch.tensor(table, dtype=torch.float32) for table in (LUMA_TABLE, CHROMA_TABLE))
    return tuple(((table * percent + 50) / 100).floor().clamp(1, 255) for table in (luma, chroma))  # type: ignore[return-value]


def compress(images: Tensor, quality: int = 75) -> Tensor:
    """Return what JPEG with half the chroma (4:2:0) makes of images, with the gradient of the images.

    Args:
        images: RGB (B, 3, H, W) in [-1, 1], clipped to that; H and W multiples of 16.
        quality: 1 to 100.

    Returns:
        RGB (B, 3, H, W) of whole levels in [-1, 1], but for the rounding of float32.

    Raises:
        ValueError: sides are no multiples of 16, or `quality` is out of range.

    Example:
        >>> grey = torch.zeros(1, 3, 16, 16)
        >>> bool((compress(grey) - grey).abs().max() < 1 / 127)
        True
    """
    if images.shape[2] % 16 or images.shape[3] % 16:
        raise ValueError(f"expected images with sides that are multiples of 16, got {tuple(images.shape)}")
    with torch.no_grad():
        compressed = _compress(images.clamp(-1, 1), quality)
    return images + (compressed - images).detach()


def _compress(images: Tensor, quality: int) -> Tensor:
    luma_steps, chroma_steps = (steps.to(images.device) for steps in _tables(quality))
    levels = (images * 127.5 + 127.5).round()
    ycbcr = torch.einsum("rc,bchw->brhw", images.new_tensor(RGB_TO_YCBCR), levels)
    ycbcr = ycbcr.round()
    luma = _quantized(ycbcr[:, :1] - 128, luma_steps).round() + 128
    width = ycbcr.shape[3]
    shrunk = (F.avg_pool2d(ycbcr[:, 1:], 2) + ycbcr.new_tensor(_SHRINKING).repeat(width // 4)).floor()
    chroma = _quantized(shrunk, chroma_steps).round()
    chroma = F.interpolate(chroma, scale_factor=2.0, mode="bilinear", align_corners=False)
    chroma = (chroma + ycbcr.new_tensor(_ENLARGING).repeat(width // 2)).floor()
    rgb = torch.einsum("rc,bchw->brhw", images.new_tensor(YCBCR_TO_RGB), torch.cat([luma, chroma], 1))
    return rgb.round().clamp(0, 255) / 127.5 - 1


def _quantized(planes: Tensor, steps: Tensor) -> Tensor:
    """Round the cosine transform of each 8x8 block of (B, C, H, W) to whole steps."""
    batch, channels, height, width = planes.shape
    transform = _cosines().to(planes)
    blocks = planes.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = transform @ blocks @ transform.T
    blocks = transform.T @ (torch.round(coefficients / steps) * steps) @ transform
    return blocks.transpose(3, 4).reshape(planes.shape)


@functools.cache
def _tables(quality: int) -> tuple[Tensor, Tensor]:
    return quantization_tables(quality)


@functools.cache
def _cosines() -> Tensor:
    """Return the orthonormal cosine transform of 8 values (8, 8): ITU-T T.81, annex A.3.3."""
    k = torch.arange(8, dtype=torch.float32)
    matrix = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix
