"""Build the two networks and their optimizers from a config, and train them step by step."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from m2l_runtime.errors import Diverged
from m2l_runtime.types import Images, Masks
from m2l_train.config import TrainConfig
from m2l_train.device import computes_bf16
from m2l_train.models import appearance, losses
from m2l_train.models.losses import Losses
from m2l_train.models.networks import PatchDiscriminator, ScaledDiscriminators, UnetGenerator, UnetSpec, detail
from m2l_train.models.resnet import ResnetGenerator, ResnetSpec

MASK_CHANNELS: Final = 3
"""The mask goes in as three equal channels, as the original reads it: with one, Adam would train differently."""

IMAGE_CHANNELS: Final = 3


class Pix2Pix:
    """Train a generator and a discriminator together. Each step changes both.

    Example:
        >>> import numpy as np
        >>> networks = Pix2Pix(TrainConfig(image_size=128, ngf=2, ndf=2))
        >>> masks, images = np.zeros((1, 128, 128), np.uint8), np.full((1, 128, 128, 3), 99, np.uint8)
        >>> sorted(vars(networks.step(masks, images)))
        ['D_fake', 'D_real', 'G_GAN', 'G_L1']
        >>> networks.synthesize(masks).shape
        (1, 128, 128, 3)
    """

    def __init__(
        self,
        config: TrainConfig,
        device: torch.device | str = "cpu",
        *,
        appearance_rows: int = 0,
        average: Callable[[Sequence[Tensor]], None] | None = None,
    ) -> None:
        """Initialize weights from torch's global random generator; seed it first.

        Args:
            config: settings of the run.
            device: where the networks are.
            appearance_rows: images whose appearances the generator keeps, where the config has an appearance.
            average: called with gradients to average over all processes, in place; None: there is one process.
        """
        self.config: Final = config
        self.device: Final = torch.device(device)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.generator = make_generator(config, appearance_rows).train()
        seen = MASK_CHANNELS + IMAGE_CHANNELS * (2 if config.detail else 1)
        discriminator: torch.nn.Module = (
            PatchDiscriminator(seen, config.ndf, config.norm)
            if config.discriminators == 1
            else ScaledDiscriminators(config.discriminators, seen, config.ndf, config.norm)
        )
        self.discriminator = discriminator.train()
        for network in (self.generator, self.discriminator):
            network.to(self.device)
            network.to(memory_format=layout)  # type: ignore[call-overload]
        self.ema_generator = copy.deepcopy(self.generator).requires_grad_(False) if config.ema else None
        """A running average of the generator's weights; None if there is none."""
        self.optimizer_G = self._adam(self.generator)
        self.optimizer_D = self._adam(self.discriminator)
        self.is_bf16: Final = config.bf16 and computes_bf16(self.device)
        self._layout, self._average, self._steps = layout, average, 0
        self._compiled: Mapping[torch.nn.Module, Any] = {}
        self._compiled_for: int | None = None
        """Pairs in the batches that the compiled networks run; others run as they are, which saves compiling again."""

    @property
    def inference_generator(self) -> UnetGenerator | ResnetGenerator:
        """The generator to validate and export: the averaged one where there is one."""
        network: UnetGenerator | ResnetGenerator = self.generator if self.ema_generator is None else self.ema_generator
        return network

    def _adam(self, network: torch.nn.Module) -> torch.optim.Adam:
        betas = (self.config.beta1, 0.999)
        return torch.optim.Adam(network.parameters(), lr=self.config.lr, betas=betas, fused=self.config.fused or None)

    def tensors(self) -> list[Tensor]:
        """Return all weights and buffers, whose values several processes have to share."""
        networks = (self.generator, self.discriminator, *(() if self.ema_generator is None else (self.ema_generator,)))
        return [tensor.data for network in networks for tensor in network.state_dict(keep_vars=True).values()]

    def set_appearance_table(self, table: Tensor) -> None:
        """Set the appearances (rows, 12) of the images trained on, before the first step."""
        for network in (self.generator, self.ema_generator):
            if network is not None and network.appearance is not None:
                network.appearance.set_table(table)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16)

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of both optimizers, from the next step on."""
        for optimizer in (self.optimizer_G, self.optimizer_D):
            for group in optimizer.param_groups:
                group["lr"] = lr

    def compile(self, count: int) -> None:
        """Compile both networks for batches of `count` pairs; batches of other sizes run as they are.

        It takes minutes. Nothing is trained, whatever happens meanwhile.

        Raises:
            Exception: the compiler failed; steps are computed without it.
        """
        self._compiled = {
            network: torch.compile(network, dynamic=False) for network in (self.generator, self.discriminator)
        }
        self._compiled_for = count
        try:
            self.rehearse(count)
        except BaseException:
            self._compiled, self._compiled_for = {}, None
            raise

    def rehearse(self, count: int) -> None:
        """Compute a step on `count` blank pairs that changes nothing: no weight, no statistic, no random number."""
        size = self.config.size
        masks = torch.zeros(count, *size, dtype=torch.uint8, device=self.device)
        images = torch.zeros(count, *size, IMAGE_CHANNELS, dtype=torch.uint8, device=self.device)
        with self.unchanged():
            mask, real, fake = self._forward(masks, images)
            self._require_grad_of_discriminator(True)
            _backward(losses.discriminator_loss(*self._judge(mask, fake.detach(), real)))
            self._require_grad_of_discriminator(False)
            terms = [term.function(fake, real, self.config) for term in losses.GENERATOR_TERMS]
            _backward(losses.generator_loss(self._gan_loss(mask, fake, True), terms, self.config))

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Put back what a step without its updates has changed: statistics of norms, gradients, random state."""
        networks = (self.generator, self.discriminator)
        buffers = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                yield
        finally:
            for network in networks:
                network.zero_grad()
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)

    def _run(self, network: torch.nn.Module, *inputs: Tensor) -> Any:
        """Run a network, compiled if it was for batches of this size."""
        is_compiled = len(inputs[0]) == self._compiled_for
        return (self._compiled[network] if is_compiled else network)(*inputs)

    def _forward(self, masks: Masks | Tensor, images: Images | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return masks and images as the networks take them, and synthesized images, (B, 3, S, S) each."""
        mask, real = to_input(masks, self.device), to_target(images, self.device)
        mask, real = (x.contiguous(memory_format=self._layout) for x in (mask, real))
        with self._autocast():
            if self.generator.appearance is None:
                fake = self._run(self.generator, mask)
            else:
                fake = self._run(self.generator, mask, self._appearance_vectors(images, masks, every=2))
        return mask, real, fake.float()

    def _judge(self, mask: Tensor, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return the discriminator's losses on synthesized and on real images."""
        return self._gan_loss(mask, fake, False), self._gan_loss(mask, real, True)

    def step(self, masks: Masks | Tensor, images: Images | Tensor) -> Losses:
        """Run forward, then train the discriminator, then the generator, in this order.

        Args:
            masks: uint8 (B, S, S).
            images: uint8 (B, S, S, 3).

        Raises:
            Diverged: a loss is NaN or infinite; the message has all that are known. The network whose loss it is
                was not changed by this step.
        """
        mask, real, fake = self._forward(masks, images)
        on_fake, on_real = self._discriminator_step(mask, fake, real)
        on_gan, terms = self._generator_step(mask, fake, real)
        self._steps += 1
        self._update_ema()
        weighted = [term.weight(self.config) * value for term, value in zip(losses.GENERATOR_TERMS, terms, strict=True)]
        step_losses = torch.stack([on_gan, *weighted, on_real, on_fake])
        if self._average is not None:
            self._average([step_losses])
        names = ("G_GAN", *(term.name for term in losses.GENERATOR_TERMS), "D_real", "D_fake")
        return Losses(**dict(zip(names, step_losses.tolist(), strict=True)))

    def _appearance_vectors(self, images: Images | Tensor, masks: Masks | Tensor, *, every: int = 1) -> Tensor:
        return appearance.measure(_levels(images, self.device), _levels(masks, self.device), every=every)

    def _gan_loss(self, mask: Tensor, image: Tensor, is_real: bool) -> Tensor:
        """Return the GAN loss of (B, 3, S, S) each against real or fake, the mean over all discriminators."""
        seen = torch.cat([mask, image, detail(image)] if self.config.detail else [mask, image], 1)
        with self._autocast():
            output: Tensor | list[Tensor] = self._run(self.discriminator, seen)
        logits = [output] if isinstance(output, Tensor) else output
        each = [losses.gan_loss(logit.float(), is_real, self.config.gan_mode) for logit in logits]
        return torch.stack(each).mean() if len(each) > 1 else each[0]

    def _discriminator_step(self, mask: Tensor, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        self._require_grad_of_discriminator(True)
        self.optimizer_D.zero_grad()
        on_fake, on_real = self._judge(mask, fake.detach(), real)
        _require_finite(D_fake=on_fake, D_real=on_real)
        _backward(losses.discriminator_loss(on_fake, on_real))
        self._average_gradients(self.discriminator)
        self.optimizer_D.step()
        return on_fake.detach(), on_real.detach()

    def _generator_step(self, mask: Tensor, fake: Tensor, real: Tensor) -> tuple[Tensor, list[Tensor]]:
        self._require_grad_of_discriminator(False)
        self.optimizer_G.zero_grad()
        on_gan = self._gan_loss(mask, fake, True)
        terms = [term.function(fake, real, self.config) for term in losses.GENERATOR_TERMS]
        named = {term.name: value for term, value in zip(losses.GENERATOR_TERMS, terms, strict=True)}
        _require_finite(G_GAN=on_gan, **named)
        _backward(losses.generator_loss(on_gan, terms, self.config))
        self._average_gradients(self.generator)
        self.optimizer_G.step()
        return on_gan.detach(), [value.detach() for value in terms]

    def _average_gradients(self, network: torch.nn.Module) -> None:
        if self._average is not None:
            self._average([p.grad for p in network.parameters() if p.grad is not None])

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Bring the averaged weights a little nearer to the generator's, more so in the first steps."""
        if self.ema_generator is not None:
            keep = min(self.config.ema, (1 + self._steps) / (10 + self._steps))
            torch._foreach_lerp_(list(self.ema_generator.parameters()), list(self.generator.parameters()), 1 - keep)
            for mine, other in zip(self.ema_generator.buffers(), self.generator.buffers(), strict=True):
                mine.copy_(other)

    def _require_grad_of_discriminator(self, wanted: bool) -> None:
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(wanted)

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Tell whether all weights of both networks are finite numbers."""
        networks = (self.generator, self.discriminator)
        return all(bool(torch.isfinite(p).all()) for network in networks for p in network.parameters())

    def count_steps(self, steps: int) -> None:
        """Set the number of steps done before, where a run is resumed."""
        self._steps = steps

    @torch.no_grad()
    def synthesize(self, masks: Masks, images: Images | None = None) -> Images:
        """Synthesize images of masks, one at a time, without dropout, as the runtime does.

        Batch norms use their running statistics.

        Args:
            masks: uint8 (B, S, S).
            images: whose appearances to synthesize, uint8 (B, S, S, 3); needed where the generator takes one.

        Returns:
            uint8 (B, S, S, 3).
        """
        network = self.inference_generator
        appearances = None
        if network.appearance is not None and images is not None:
            appearances = self._appearance_vectors(images, masks)
        network.eval()
        try:
            outputs = [
                network(
                    to_input(masks[i : i + 1], self.device),
                    appearances if appearances is None else appearances[i : i + 1],
                )
                for i in range(len(masks))
            ]
        finally:
            self.generator.train()
        pixels = torch.clamp(torch.round((torch.cat(outputs) + 1) * 127.5), 0, 255)
        pixels_uint8: Images = pixels.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
        return pixels_uint8


def make_generator(config: TrainConfig, appearance_rows: int = 0) -> UnetGenerator | ResnetGenerator:
    """Build the generator of a config, with weights from torch's global random generator.

    Example:
        >>> make_generator(TrainConfig(image_size=128, ngf=2)).spec.levels
        7
        >>> make_generator(TrainConfig(generator="resnet_6blocks", ngf=2)).spec.blocks
        6

    Args:
        config: settings of the run.
        appearance_rows: images whose appearances the generator keeps, where the config has an appearance.
    """
    if config.blocks:
        return ResnetGenerator(
            ResnetSpec(config.blocks, config.ngf, MASK_CHANNELS, IMAGE_CHANNELS, config.norm, config.dropout)
        )
    return UnetGenerator(
        UnetSpec(
            levels=config.levels,
            ngf=config.ngf,
            input_nc=MASK_CHANNELS,
            output_nc=IMAGE_CHANNELS,
            norm=config.norm,
            dropout=config.dropout,
            upsample=config.upsample,
            appearance_rows=appearance_rows if config.appearance else 0,
        )
    )


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _require_finite(**named: Tensor) -> None:
    if not all(bool(torch.isfinite(loss)) for loss in named.values()):
        raise Diverged(", ".join(f"{name} {loss.item():g}" for name, loss in named.items()))


def to_input(masks: Masks | Tensor, device: torch.device) -> Tensor:
    """Convert masks uint8 (B, S, S) to float (B, 3, S, S) in [-1, 1], three equal channels."""
    return _scaled(_levels(masks, device)).unsqueeze(1).repeat(1, MASK_CHANNELS, 1, 1)


def to_target(images: Images | Tensor, device: torch.device) -> Tensor:
    """Convert images uint8 (B, S, S, 3) RGB to float (B, 3, S, S) in [-1, 1]."""
    return _scaled(_levels(images, device)).permute(0, 3, 1, 2).contiguous()


def _levels(pixels: Masks | Images | Tensor, device: torch.device) -> Tensor:
    found = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.ascontiguousarray(pixels))
    return found.to(device)


def _scaled(levels: Tensor) -> Tensor:
    """Scale levels to [-1, 1] as torchvision's ToTensor and Normalize(0.5, 0.5) do, operation by operation."""
    return (levels.to(torch.float32) / 255 - 0.5) / 0.5
