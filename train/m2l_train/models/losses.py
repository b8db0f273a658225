"""Logits and images to the losses of pix2pix.

From Isola et al. (arXiv:1611.07004), equations 1 to 4, as pytorch-CycleGAN-and-pix2pix computes them: the
discriminator's loss is halved, the generator maximises log D rather than minimises log(1 - D). `lsgan` is from Mao
et al., "Least Squares Generative Adversarial Networks", ICCV 2017 (arXiv:1611.04076).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from m2l_train.config import GanMode


def gan_loss(logits: Tensor, is_real: bool, mode: GanMode) -> Tensor:
    """How far `logits` (any shape) are from being judged real, or from fake: a scalar, the mean over all."""
    target = torch.full_like(logits, 1.0 if is_real else 0.0)
    if mode == "vanilla":
        return F.binary_cross_entropy_with_logits(logits, target)
    return F.mse_loss(logits, target)


def discriminator_loss(on_fake: Tensor, on_real: Tensor) -> Tensor:
    """Half the sum, which slows the discriminator down."""
    return 0.5 * (on_fake + on_real)


def l1(fake: Tensor, real: Tensor, cell: int) -> Tensor:
    """Mean absolute difference of (B, C, H, W), in squares of `cell` pixels a side each taken as its mean: a scalar."""
    return F.l1_loss(F.avg_pool2d(fake, cell), F.avg_pool2d(real, cell)) if cell > 1 else F.l1_loss(fake, real)


def generator_loss(on_gan: Tensor, l1: Tensor, lambda_l1: float) -> Tensor:
    """GAN loss plus the weighted mean absolute difference in [-1, 1] units."""
    return on_gan + lambda_l1 * l1
