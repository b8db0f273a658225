"""Compute the losses of pix2pix from logits and images.

From Isola et al. (arXiv:1611.07004), equations 1 to 4, as pytorch-CycleGAN-and-pix2pix computes them: the
discriminator's loss is halved, the generator maximises log D rather than minimises log(1 - D). `lsgan` is from Mao
et al., "Least Squares Generative Adversarial Networks", ICCV 2017 (arXiv:1611.04076).

A new GAN loss is an entry of `GAN_LOSSES` and a choice of `m2l_train.config.GanMode`. A new term of the generator's
loss is an entry of `GENERATOR_TERMS`, a field of `Losses`, and a weight in `m2l_train.config.TrainConfig`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from m2l_train.config import GanMode, TrainConfig


@dataclass(frozen=True)
class Losses:
    """Hold the losses of one step, by the original's names; all are finite."""

    G_GAN: float
    G_L1: float
    """Times `lambda_l1`."""
    D_real: float
    D_fake: float


GAN_LOSSES: Final[Mapping[GanMode, Callable[[Tensor, Tensor], Tensor]]] = {
    "vanilla": F.binary_cross_entropy_with_logits,
    "lsgan": F.mse_loss,
}
"""Loss of logits and targets of the same shape, by mode; the mean over all."""


def gan_loss(logits: Tensor, is_real: bool, mode: GanMode) -> Tensor:
    """Measure how far `logits` (any shape) are from real, or from fake: a scalar, the mean over all."""
    return GAN_LOSSES[mode](logits, torch.full_like(logits, 1.0 if is_real else 0.0))


def discriminator_loss(on_fake: Tensor, on_real: Tensor) -> Tensor:
    """Return half the sum, which slows the discriminator down."""
    return 0.5 * (on_fake + on_real)


def l1(fake: Tensor, real: Tensor, cell: int) -> Tensor:
    """Return the mean absolute difference of (B, C, H, W) as a scalar.

    With a `cell` above 1, the means of squares of that many pixels a side are compared.
    """
    return F.l1_loss(F.avg_pool2d(fake, cell), F.avg_pool2d(real, cell)) if cell > 1 else F.l1_loss(fake, real)


@dataclass(frozen=True)
class GeneratorTerm:
    """Describe a term of the generator's loss beside the GAN loss."""

    name: str
    """The field of `Losses` that holds it, weighted."""
    weight: Callable[[TrainConfig], float]
    function: Callable[[Tensor, Tensor, TrainConfig], Tensor]
    """Takes fake and real images (B, 3, H, W) in [-1, 1] and the config, and returns a scalar, not yet weighted."""


GENERATOR_TERMS: Final = (
    GeneratorTerm("G_L1", lambda config: config.lambda_l1, lambda fake, real, config: l1(fake, real, config.l1_cell)),
)


def generator_loss(on_gan: Tensor, terms: Sequence[Tensor], config: TrainConfig) -> Tensor:
    """Add the weighted terms, in the order of `GENERATOR_TERMS`, to the GAN loss."""
    total = on_gan
    for term, value in zip(GENERATOR_TERMS, terms, strict=True):
        total = total + term.weight(config) * value
    return total
