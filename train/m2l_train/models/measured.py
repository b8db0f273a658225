"""Measure numbers of an appearance in synthesized images so that training can follow their gradients.

The same numbers as :mod:`m2l_runtime.conditioning.numbers` measures, but hair and ink, which count pixels. For hair
there is a loss that deepens or lightens the lines that the detector finds; for sharpness, which stripes in a corner
raise, a measure of tiles beside it.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m2l_runtime.conditioning.looks import CORNER, find_dark_lines
from m2l_runtime.conditioning.picture import Picture
from m2l_runtime.types import NAMES
from m2l_train.models.appearance import lab_of_linear
from m2l_train.models.artefacts import square_mean

DIFFERENTIABLE_NAMES: Final = (*NAMES, "sharpness", "lesion_detail", "skin_detail", "vignette")
"""What :func:`measure_differentiably` measures, in its order."""

FAINT: Final = 0.4
"""Share of the detector's threshold from which on a line can be made hair."""
GONE: Final = 0.1
"""Depth in thresholds, of a square's mean below that of a larger one, at which hair is not lightened any more."""
PLAIN: Final = 0.8
"""The depth at which it is not deepened any more: by squares it is less than by the detector's lines."""
NEAR_ENOUGH: Final = 0.1
"""Deviations."""

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


def tile_sharpness(images: Tensor) -> Tensor:
    """Measure sharpness by tiles: log10(1 + power of the finest detail) of squares of 32 pixels.

    The detail is 9 times grey less its mean over 3x3 pixels. A mean of these logarithms is raised by sharpness all over
    an image, where the variance over the whole image may come from a corner.

    Example:
        >>> tile_sharpness(torch.full((1, 3, 64, 64), 128.0)).unique()
        tensor([0.])

    Args:
        images: float32 (B, 3, H, W) levels, H and W at least 32.

    Returns:
        (B, 1, H // 32, W // 32).
    """
    gray = images.mean(1, keepdim=True)
    detail = 9 * (gray - square_mean(gray, 3))
    return torch.log10(1 + F.avg_pool2d(detail.square(), 32))


def hair_difference(images: Tensor, masks: Tensor, asked: Tensor, deviation: Tensor) -> Tensor:
    """Compare the hair of images with what was asked for, so that its gradient lightens or deepens dark lines.

    The detector (:func:`m2l_runtime.conditioning.looks.find_dark_lines`) counts pixels, which has no gradient. Where it
    finds more than was asked for, hair costs what it is darker than its surroundings; where it finds less, lines that
    are `FAINT` of its threshold cost what they lack of it. Both in thresholds, times the difference of the numbers in
    deviations, at most 2.

    Example:
        >>> images, masks = torch.full((1, 3, 64, 64), 150.0), torch.zeros(1, 1, 64, 64, dtype=torch.bool)
        >>> images[:, :, 10, 4:60] = images[:, :, 10:60, 30] = 60.0
        >>> float(hair_difference(images, masks, torch.tensor([0.0]), torch.tensor(0.5))) > 0
        True

    Args:
        images: float32 (B, 3, H, W), RGB levels 0..255.
        masks: bool (B, 1, H, W); True in the lesion.
        asked: (B,), log10(1 + per mille of the skin).
        deviation: of the number in photographs, a scalar.

    Returns:
        The mean over images, a scalar; 0 where nothing can be lightened or deepened.
    """
    with torch.autocast(images.device.type, enabled=False):
        lightness = _lab(images.float())[:, :1]
        depth = square_mean(lightness, 9) - square_mean(lightness, 3)
    pixels = images.detach().round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    regions = masks[:, 0].byte().cpu().numpy() * np.uint8(255)
    total = depth.new_zeros(())
    for place, (image, region) in enumerate(zip(pixels, regions, strict=True)):
        lines = find_dark_lines(Picture(image, region))
        hair = lines.mark_hair()
        difference = lines.number(hair) - float(asked[place])
        share = min(abs(difference) / float(deviation), 2.0)
        at = torch.from_numpy(hair if difference > 0 else lines.mark_hair(FAINT)).to(depth.device)
        if share < NEAR_ENOUGH or not at.any():
            continue
        found = depth[place, 0][at] / lines.threshold
        total = total + share * F.relu(found - GONE if difference > 0 else PLAIN - found).mean()
    return total / len(images)


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
