"""Measure what generators add to every image, so that training can lessen it: grids, marks, shared texture.

A network draws some things whatever its inputs are: a grid at the strides of its layers (Odena, Dumoulin, Olah,
"Deconvolution and Checkerboard Artifacts", Distill 2016), lines and corners at fixed places. In one image they are
faint; what they have in common over positions or over images is plain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

DETAIL_SIDE: Final = 9
"""Pixels of the square whose mean is taken away where fine detail is averaged over images."""
TEXTURE_SIDE: Final = 16
"""Pixels of the squares whose interpolated means are taken away where texture is."""
GRID_PERIODS: Final = (2, 4, 8, 16)
"""Pixels: the strides of a network of five sides, but for the last, of which an image of 256 pixels has few."""
AVERAGE_DECAY: Final = 0.98
"""Of a step, of averages over images."""

Share: TypeAlias = Callable[[Sequence[Tensor]], None]
"""Replaces tensors by their means over the processes that train together."""


def share_nothing(tensors: Sequence[Tensor]) -> None:
    """Leave tensors as they are: one process trains."""


def fine_detail(images: Tensor) -> Tensor:
    """Return the mean of the channels (B, 3, H, W) less its mean over squares of 9 pixels: (B, 1, H, W)."""
    gray = images.mean(1, keepdim=True)
    return gray - square_mean(gray, DETAIL_SIDE)


def texture(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) less what is coarser than 16 pixels, each scaled to a mean square of 1.

    The scale has no gradient: what is common to images is to become weaker, not the rest stronger.

    Args:
        images: H and W are multiples of 16.

    Example:
        >>> power = texture(torch.rand(2, 3, 64, 64)).square().mean((1, 2, 3))
        >>> bool(torch.allclose(power, torch.ones(2)))
        True
    """
    coarse = F.interpolate(
        F.avg_pool2d(images, TEXTURE_SIDE), scale_factor=float(TEXTURE_SIDE), mode="bilinear", align_corners=False
    )
    return _scaled(images - coarse)


def grid_power(images: Tensor) -> Tensor:
    """Measure grids: how much more detail repeats from tile to tile than it does by chance.

    The detail of each image (grey, less its mean over 3x3 pixels, scaled to a mean square of 1) is averaged over tiles
    of each period. Averages of N tiles that have nothing to do with each other have a mean square of 1/N; N times it,
    less 1, counts where it is above 0, summed over the periods.

    Example:
        >>> y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        >>> noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> [bool(grid_power(one) > 50) for one in (noise, noise + (y % 4 == 0) * (x % 4 == 0))]
        [False, True]

    Args:
        images: (B, 3, H, W), H and W multiples of 16, in any unit.

    Returns:
        The mean over images, a scalar.
    """
    gray = images.mean(1, keepdim=True)
    fine = _scaled(gray - square_mean(gray, 3))
    count, _, height, width = fine.shape
    total = fine.new_zeros(())
    for period in GRID_PERIODS:
        down, across = height // period, width // period
        tile = fine.reshape(count, down, period, across, period).mean((1, 3))
        total = total + F.relu(down * across * tile.square().mean((1, 2)) - 1).mean()
    return total


def phase_difference(luma: Tensor) -> Tensor:
    """Measure how far the four phases of (B, 1, H, W) are apart over squares of 8 pixels: a checkerboard's power."""
    phases = F.avg_pool2d(F.pixel_unshuffle(luma, 2), 4)
    return (phases - phases.mean(1, keepdim=True)).square().mean()


class SharedPattern:
    """Measure what synthesized images have in common, at the same places, and real ones have not.

    The averages run over the steps before, as those of one batch are mostly noise; they have no gradient, and what is
    looked at in each image is multiplied with their difference. A pattern is as strong at each step.

    Example:
        >>> shared = SharedPattern(fine_detail)
        >>> float(shared(torch.ones(2, 3, 32, 32), torch.ones(2, 3, 32, 32)))
        0.0
    """

    def __init__(self, look: Callable[[Tensor], Tensor], share: Share = share_nothing) -> None:
        """Begin without averages.

        Args:
            look: what is looked at, as :func:`fine_detail` or :func:`texture`.
            share: see :data:`Share`.
        """
        self._look, self._share = look, share
        self.average: Tensor | None = None
        """(2, C, H, W), of synthesized and of real images; None before the first step."""

    def __call__(self, fake: Tensor, real: Tensor) -> Tensor:
        """Return what images (B, 3, H, W) add to the mean square of the difference of the averages."""
        found, expected = (self._look(one) for one in (fake, real))
        both = torch.stack([one.detach().mean(0) for one in (found, expected)])
        self._share([both])
        self.average = both if self.average is None else self.average.lerp(both, 1 - AVERAGE_DECAY)
        difference = self.average[0] - self.average[1]
        return (found * difference).mean() - (self.average[1] * difference).mean()


def square_mean(planes: Tensor, side: int) -> Tensor:
    """Take the mean over squares of an odd side around each pixel of (B, C, H, W), edges repeated.

    Example:
        >>> square_mean(torch.arange(5.0)[None, None, None].expand(1, 1, 5, 5), 3)[0, 0, 2]
        tensor([0.3333, 1.0000, 2.0000, 3.0000, 3.6667])
    """
    return F.avg_pool2d(F.pad(planes, (side // 2,) * 4, mode="replicate"), side, 1)


def _scaled(detail: Tensor) -> Tensor:
    power = detail.detach().square().mean((1, 2, 3), keepdim=True)
    return detail / power.sqrt().clamp_min(1e-6)
