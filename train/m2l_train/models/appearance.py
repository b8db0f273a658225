"""Measure appearances of whole batches on a device, as :mod:`m2l_runtime.conditioning.appearance` does of one image."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import torch
from torch import Tensor

from m2l_runtime.conditioning import appearance

_EPSILON: Final = 0.008856
_SLOPE: Final = 7.787
_OFFSET: Final = 16 / 116


@torch.no_grad()
def measure(images: Tensor, masks: Tensor, *, every: int = 1) -> Tensor:
    """Measure the appearances of images, in fp32 even under autocast: bfloat16 loses differences of colors.

    Args:
        images: uint8 (B, H, W, 3) RGB.
        masks: uint8 (B, H, W).
        every: measure only each so many-th row and column: a quarter of the pixels tell nearly as much as all.

    Returns:
        float32 (B, 12), in the order of `appearance.NAMES`.
    """
    with torch.autocast(images.device.type, enabled=False):
        return _measure(images[:, ::every, ::every], masks[:, ::every, ::every])


def _measure(images: Tensor, masks: Tensor) -> Tensor:
    colors = _lab(images).flatten(1, 2)
    lesion = (masks >= appearance.LESION_FROM).flatten(1).to(torch.float32)
    count, most = lesion.sum(1, keepdim=True), lesion.shape[1]
    is_one = ((count == 0) | (count == most))[:, :, None]
    regions = torch.stack([lesion, 1 - lesion], 1)
    shares = torch.where(is_one, torch.ones_like(regions), regions)
    shares = shares / shares.sum(2, keepdim=True)
    middle = colors.mean(1, keepdim=True)  # squares of what is left lose no digits
    rest = colors - middle
    moments = shares @ torch.cat([rest, rest.square()], 2)
    mean, square = moments[:, :, :3], moments[:, :, 3:]
    return torch.cat([mean + middle, (square - mean.square()).clamp_min(0).sqrt()], 2).flatten(1)


def _lab(images: Tensor) -> Tensor:
    """Convert uint8 (..., 3) to CIE L*a*b* (..., 3)."""
    return lab_of_linear(_constants(images.device)[0][images.to(torch.int32)])


def lab_of_linear(linear: Tensor) -> Tensor:
    """Convert linear light (..., 3), 0..1, to CIE L*a*b* (..., 3).

    Example:
        >>> lab_of_linear(torch.ones(3)).abs().round(decimals=1).tolist()
        [100.0, 0.0, 0.0]
    """
    _, to_xyz, to_lab, offset = _constants(linear.device)
    scaled = linear @ to_xyz
    f = torch.where(scaled > _EPSILON, scaled.clamp_min(_EPSILON).pow(1 / 3), _SLOPE * scaled + _OFFSET)
    return f @ to_lab + offset


@functools.cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (levels to linear light, linear RGB to XYZ over the white, cube roots to L*a*b*, its offset)."""
    return (
        torch.from_numpy(appearance.LINEAR).to(device),
        torch.from_numpy(np.ascontiguousarray(appearance.TO_XYZ.T)).to(device),
        torch.tensor([[0.0, 500.0, 0.0], [116.0, -500.0, 200.0], [0.0, 0.0, -200.0]], device=device),
        torch.tensor([-16.0, 0.0, 0.0], device=device),
    )
