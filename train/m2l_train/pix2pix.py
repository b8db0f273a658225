"""A config to the two networks, their optimizers, and the step that trains them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m2l_runtime.arrays import Images, Masks
from m2l_runtime.errors import Diverged
from m2l_train import losses
from m2l_train.config import TrainConfig
from m2l_train.networks import PatchDiscriminator, UnetGenerator, UnetSpec

MASK_CHANNELS: Final = 3
"""The mask goes in as three equal channels, as the original reads it: with one, Adam would train differently."""

IMAGE_CHANNELS: Final = 3


@dataclass(frozen=True)
class Losses:
    """Of one step, by the original's names; finite."""

    G_GAN: float
    G_L1: float
    """Times `lambda_l1`."""
    D_real: float
    D_fake: float


class Pix2Pix:
    """Generator and discriminator in training. Each step changes both."""

    def __init__(self, config: TrainConfig, device: torch.device | str = "cpu") -> None:
        """Weights are drawn from torch's global generator; seed it first."""
        self.config: Final = config
        self.device: Final = torch.device(device)
        spec = UnetSpec(
            levels=config.levels,
            ngf=config.ngf,
            input_nc=MASK_CHANNELS,
            output_nc=IMAGE_CHANNELS,
            norm=config.norm,
            dropout=config.dropout,
            upsample=config.upsample,
        )
        self.generator = UnetGenerator(spec).to(self.device).train()
        self.discriminator = (
            PatchDiscriminator(MASK_CHANNELS + IMAGE_CHANNELS, config.ndf, config.norm).to(self.device).train()
        )
        self.optimizer_G = self._adam(self.generator)
        self.optimizer_D = self._adam(self.discriminator)

    def _adam(self, network: torch.nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), lr=self.config.lr, betas=(self.config.beta1, 0.999))

    def set_learning_rate(self, lr: float) -> None:
        """Of both optimizers, from the next step on."""
        for optimizer in (self.optimizer_G, self.optimizer_D):
            for group in optimizer.param_groups:
                group["lr"] = lr

    def step(self, masks: Masks, images: Images) -> Losses:
        """Forward, then the discriminator's step, then the generator's, in this order.

        Args:
            masks: uint8 (B, S, S).
            images: uint8 (B, S, S, 3).

        Raises:
            Diverged: a loss is NaN or infinite; the message has all that are known. The network whose loss it is
                was not changed by this step.
        """
        mask, real = to_input(masks, self.device), to_target(images, self.device)
        fake = self.generator(mask)
        on_fake, on_real = self._discriminator_step(mask, fake, real)
        on_gan, l1 = self._generator_step(mask, fake, real)
        return Losses(on_gan.item(), self.config.lambda_l1 * l1.item(), on_real.item(), on_fake.item())

    def _discriminator_step(self, mask: Tensor, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        self._require_grad_of_discriminator(True)
        self.optimizer_D.zero_grad()
        mode = self.config.gan_mode
        on_fake = losses.gan_loss(self.discriminator(torch.cat([mask, fake.detach()], 1)), False, mode)
        on_real = losses.gan_loss(self.discriminator(torch.cat([mask, real], 1)), True, mode)
        _require_finite(D_fake=on_fake, D_real=on_real)
        _backward(losses.discriminator_loss(on_fake, on_real))
        self.optimizer_D.step()
        return on_fake.detach(), on_real.detach()

    def _generator_step(self, mask: Tensor, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        self._require_grad_of_discriminator(False)
        self.optimizer_G.zero_grad()
        on_gan = losses.gan_loss(self.discriminator(torch.cat([mask, fake], 1)), True, self.config.gan_mode)
        l1 = F.l1_loss(fake, real)
        _require_finite(G_GAN=on_gan, G_L1=l1)
        _backward(losses.generator_loss(on_gan, l1, self.config.lambda_l1))
        self.optimizer_G.step()
        return on_gan.detach(), l1.detach()

    def _require_grad_of_discriminator(self, wanted: bool) -> None:
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(wanted)

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether all weights of both networks are finite numbers."""
        networks = (self.generator, self.discriminator)
        return all(bool(torch.isfinite(p).all()) for network in networks for p in network.parameters())

    @torch.no_grad()
    def synthesize(self, masks: Masks) -> Images:
        """Images (B, S, S, 3) uint8 of masks (B, S, S) uint8, one at a time, dropout off, as the runtime gives them.

        Batch norms use their running statistics.
        """
        self.generator.eval()
        try:
            made = [self.generator(to_input(mask[None], self.device)) for mask in masks]
        finally:
            self.generator.train()
        pixels = torch.clamp(torch.round((torch.cat(made) + 1) * 127.5), 0, 255)
        found: Images = pixels.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
        return found


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _require_finite(**named: Tensor) -> None:
    if not all(bool(torch.isfinite(loss)) for loss in named.values()):
        raise Diverged(", ".join(f"{name} {loss.item():g}" for name, loss in named.items()))


def to_input(masks: Masks, device: torch.device) -> Tensor:
    """uint8 (B, S, S) to float (B, 3, S, S) in [-1, 1], three equal channels."""
    scaled = _scaled(torch.from_numpy(np.ascontiguousarray(masks)).to(device))
    return scaled.unsqueeze(1).repeat(1, MASK_CHANNELS, 1, 1)


def to_target(images: Images, device: torch.device) -> Tensor:
    """uint8 (B, S, S, 3) RGB to float (B, 3, S, S) in [-1, 1]."""
    return _scaled(torch.from_numpy(np.ascontiguousarray(images)).to(device)).permute(0, 3, 1, 2).contiguous()


def _scaled(levels: Tensor) -> Tensor:
    """As torchvision's ToTensor and Normalize(0.5, 0.5) do, operation by operation."""
    return (levels.to(torch.float32) / 255 - 0.5) / 0.5
