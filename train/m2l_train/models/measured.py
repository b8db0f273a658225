"""Measure numbers of an appearance in synthesized images so that training can follow their gradients.

The same numbers as :mod:`m2l_runtime.conditioning.numbers` measures, but hair and ink, which count pixels.
"""

from __future__ import annotations

import functools
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from m2l_runtime.conditioning.looks import CORNER
from m2l_runtime.types import NAMES
from m2l_train.models.appearance import lab_of_linear

DIFFERENTIABLE_NAMES: Final = (*NAMES, "sharpness", "lesion_detail", "skin_detail", "vignette")
"""What :func:`measure_differentiably` measures, in its order."""

_MIN_PIXELS: Final = 64
"""Pixels below which a region is the whole image: gradients of few pixels are great."""


def measure_differentiably(images: Tensor, masks: Tensor) -> Tensor:
    """Measure the numbers `DIFFERENTIABLE_NAMES` of images.

    Example:
        >>> images = torch.full((1, 3, 64, 64), 128.0, requires_grad=True)
        >>> numbers = measure_differentiably(images, torch.zeros(1, 1, 64, 64, dtype=torch.bool))
        >>> round(float(numbers.detach()[0, DIFFERENTIABLE_NAMES.index("skin_L")]), 2)
        53.59

    Args:
        images: float32 (B, 3, H, W), RGB levels 0..255.
        masks: bool (B, 1, H, W); True in the lesion. Where lesion or skin have fewer than 64 pixels, the whole image is
            taken for both.

    Returns:
        float32 (B, 16).
    """
    with torch.autocast(images.device.type, enabled=False):
        colors = _lab(images.float())
        regions = _regions(masks)
        lightness = colors[:, :1]
        band = _gaussian(lightness, 1.0) - _gaussian(lightness, 4.0)
        numbers, details = [], []
        for region in regions:
            mean, deviation = _moments(colors, region)
            numbers += [mean, deviation]
            details.append(torch.log10(_moments(band, region)[1] + 1e-2))
        around = F.pad(lightness, (1, 1, 1, 1), mode="replicate")
        laplacian = _side_sum(around) - 4 * lightness
        sharpness = torch.log10(laplacian.var((1, 2, 3), correction=0) + 1e-3)[:, None]
        return torch.cat([*numbers, sharpness, *details, _vignette(lightness, regions[1])], 1)


def _lab(levels: Tensor) -> Tensor:
    """Convert (B, 3, H, W) levels to CIE L*a*b*, by the formula of IEC 61966-2-1."""
    share = (levels / 255).clamp(0, 1)
    linear = torch.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    return lab_of_linear(linear.movedim(1, 3)).movedim(3, 1)


def _regions(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return floats (B, 1, H, W) of lesion and skin."""
    count = masks.sum((1, 2, 3), keepdim=True)
    is_one = (count < _MIN_PIXELS) | (count > masks[0].numel() - _MIN_PIXELS)
    return (masks | is_one).float(), (~masks | is_one).float()


def _moments(values: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (B, C) over a region."""
    area = region.sum((2, 3))
    mean = (values * region).sum((2, 3)) / area
    rest = (values - mean[:, :, None, None]) * region
    return mean, (rest.square().sum((2, 3)) / area + 1e-6).sqrt()


def _side_sum(padded: Tensor) -> Tensor:
    return padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]


def _gaussian(values: Tensor, sigma: float) -> Tensor:
    """Blur (B, 1, H, W), edges reflected with the outermost pixel, as SciPy does by default."""
    radius = int(4 * sigma + 0.5)
    weights = _weights(sigma, radius, values.device)
    down = F.conv2d(_reflect(values, radius, 2), weights[..., None])
    return F.conv2d(_reflect(down, radius, 3), weights[:, None])


def _reflect(values: Tensor, radius: int, axis: int) -> Tensor:
    size = values.shape[axis]
    first, last = values.narrow(axis, 0, radius), values.narrow(axis, size - radius, radius)
    return torch.cat([first.flip(axis), values, last.flip(axis)], axis)


@functools.cache
def _weights(sigma: float, radius: int, device: torch.device) -> Tensor:
    """Return (1, 1, 2 radius + 1)."""
    steps = torch.arange(-radius, radius + 1, device=device)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    return (weights / weights.sum())[None, None]


def _vignette(lightness: Tensor, skin: Tensor) -> Tensor:
    """Return (B, 1): the skin's median, which has no gradient, less the corners' mean, at least 0."""
    height, width = lightness.shape[2:]
    down = (torch.arange(height, device=lightness.device) - (height - 1) / 2) / height
    right = (torch.arange(width, device=lightness.device) - (width - 1) / 2) / width
    corner = torch.hypot(down[:, None], right) > CORNER
    usual = torch.stack(
        [one[region > 0].median() for one, region in zip(lightness.detach()[:, 0], skin[:, 0], strict=True)]
    )
    return (usual - lightness[:, 0, corner].mean(1)).clamp_min(0)[:, None]
