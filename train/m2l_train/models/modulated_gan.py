"""Train a modulated generator against discriminators on features and on pixels.

Half of each batch has the appearance of another image than its mask's, because that is how the generator is used. There
only what is said of regions is compared with the other image: means and deviations of features in lesion and skin.
"""

from __future__ import annotations

import copy
import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from m2l_runtime.errors import Diverged
from m2l_train.device import computes_bf16
from m2l_train.models.artefacts import (
    Share,
    SharedPattern,
    fine_detail,
    grid_power,
    phase_difference,
    share_nothing,
    texture,
)
from m2l_train.models.efficientnet_lite import EfficientNetLite
from m2l_train.models.jpeg import compress
from m2l_train.models.measured import DIFFERENTIABLE_NAMES, hair_difference, measure_differentiably, tile_sharpness
from m2l_train.models.modulated import ModulatedGenerator, ModulatedSpec, scale_noise, to_rgb
from m2l_train.models.networks import detail
from m2l_train.models.projected import MaskHead, PatchHead, ProjectedHeads

STATISTICS_DEPTHS: Final = 3
"""Depths of features whose statistics are compared, from the finest: strides of 4, 8 and 16 pixels."""
MIN_REGION: Final = 0.01
"""Share of the image below which a region is not compared."""
MIN_SIDE: Final = 64
"""Side of the images below which nothing is left in the discriminators' last layers."""
SHARPNESS_DEVIATION: Final = 0.4
"""Of photographs, in decades."""
MASK_LEARNING_RATE: Final = 1e-3
CELL: Final = 16
"""Pixels: sides of the blocks that JPEG takes of chroma. Parts of images begin where they do."""
SHIFT: Final = 8
"""Pixels by which what the feature network sees is moved at most."""


@dataclass(frozen=True)
class GanConfig:
    """Hold the settings of the training."""

    learning_rate_g: float = 4e-4
    learning_rate_d: float = 3e-4
    batch_size: int = 8
    lambda_l1: float = 4.0
    """Weight of the L1 loss of means of 8x8 pixels, for masks with their own appearance."""
    lambda_statistics: float = 1.0
    """Weight of the difference of regions' statistics."""
    lambda_loss: float = 30.0
    """Weight of the mean square that compression takes from an image. Without it images have what JPEG takes away: a
    checkerboard of the finest kind, which no network sees here."""
    lambda_phases: float = 1000.0
    """Weight of the mean square by which the 2x2 phases of luma differ over squares of 8 pixels."""
    lambda_patch: float = 0.5
    """Weight of the discriminator on pixels beside those on features."""
    lambda_asked: float = 3.0
    """Weight of the difference between numbers asked for and measured, in deviations of the training images' (a
    Huber loss: some cannot be had with each mask)."""
    lambda_marks: float = 0.6
    """Weight of what is common to the fine detail of all images, in levels squared, that real images have not: marks at
    fixed places."""
    lambda_common: float = 0.0
    """Weight of what is common to their texture, each image's scaled to a mean square of 1: rims and corners. 10 was
    tried. This weight and those of grids, focus, places and hair are 0: with all of them the finest texture got worse,
    and fewer kinds of photographs were drawn (docs/model.md). Which of them does it is not known."""
    lambda_grids: float = 0.0
    """Weight of grids (:func:`m2l_train.models.artefacts.grid_power`) as JPEG leaves them. As they are made they weigh
    half of it: what is seen through JPEG alone is cancelled there by another grid. 0.05 was tried."""
    lambda_focus: float = 0.0
    """Weight of the difference of :func:`m2l_train.models.measured.tile_sharpness` from that of the real image whose
    appearance was given. The sharpness of a whole image is that of its greatest detail: stripes in a corner have it.
    1 was tried."""
    lambda_places: float = 0.0
    """Weight of what tiles at the same place are sharper than real ones on average, squared: such stripes. 20 was
    tried."""
    lambda_hair: float = 0.0
    """Weight of hair that was not asked for, or is missing. 1 was tried."""
    lambda_mask: float = 2.0
    """Weight of the binary cross-entropy of the mask found in an image, above `mask_share` of that of the real image
    whose appearance it has."""
    mask_share: float = 0.8
    """Lesions are to be found better than real ones are, whose masks are not always true, but without end they would
    become ever plainer, and their edges be drawn as lines. A pale lesion may be as hard to find as the real one is."""
    sharpening: float = 0.0
    """Of the generator's luma (:func:`m2l_train.models.modulated.filter_luma`). What is sharpened while it is trained
    makes itself softer again."""
    chroma_passes: int = 1
    """How many times its chroma is smoothed."""
    ema: float = 0.999
    half_images: int = 14_000
    """Images seen at half their side before training goes on at the full side."""


@dataclass(frozen=True)
class GanLosses:
    """Hold the losses of a step, unweighted."""

    features_d: float
    pixels_d: float
    features_g: float
    pixels_g: float
    statistics: float
    l1_levels: float
    mask_real: float
    mask_fake: float
    """Cross-entropy of the mask found in real and in synthesized images."""
    asked: float
    """Mean difference of numbers asked for and measured, in deviations; 0 at half the side."""
    marks: float
    """Mean square of what synthesized images have in common and real ones have not, in levels; 0 at half the side."""
    common: float
    """The same of texture, of a mean square of 1."""
    places: float
    """The same of the sharpness of tiles, in decades."""
    grids: float
    """How much more detail repeats from tile to tile than by chance; 0 at half the side."""
    focus: float
    """Difference of sharpness by tiles, a Huber loss of deviations."""
    hair: float
    """How far hair is from what was asked for (:func:`m2l_train.models.measured.hair_difference`)."""


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Hold what a step works on. Images are (B, 3, S, S) in [-1, 1], or half of the side at first."""

    mask: Tensor
    """(B, 1, S, S) in [-1, 1]."""
    small: Tensor
    """The part of it that belongs to the features."""
    real: Tensor
    fake: Tensor
    seen: Tensor
    """`fake` as JPEG leaves it, at the full side."""
    luma: Tensor
    appearance: Tensor
    """(B, numbers), of the real images."""
    given: list[int]
    """Whose appearance each mask gets: its own for the first `own`, then another one's."""
    own: int
    is_full: bool
    fake_features: list[Tensor]
    real_features: list[Tensor]
    fake_pixels: Tensor
    real_pixels: Tensor


class ModulatedGan:
    """Hold the networks, their optimizers and the position; train them step by step."""

    def __init__(
        self,
        table: Tensor,
        names: tuple[str, ...],
        config: GanConfig,
        features: EfficientNetLite,
        device: torch.device,
        share: Share = share_nothing,
        processes: int = 1,
    ) -> None:
        """Begin a training.

        Args:
            table: appearances (rows, numbers) of the images to train on.
            names: what the numbers are.
            config: its settings.
            features: a network trained on photographs, in eval mode; its weights are not trained.
            device: where all of it runs.
            share: see :data:`m2l_train.models.artefacts.Share`; each process trains on batches of its own.
            processes: how many those are.
        """
        self.config, self.device, self._share, self._processes = config, device, share, processes
        numbers = len(names)
        layout = torch.channels_last
        self.generator = ModulatedGenerator(
            ModulatedSpec(
                names=names,
                appearance_rows=len(table),
                sharpening=config.sharpening,
                chroma_passes=config.chroma_passes,
            )
        )
        self.generator.set_table(table)
        self.generator = self.generator.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.features = features.to(device, memory_format=layout).requires_grad_(False).eval()  # type: ignore[call-overload]
        self.heads = ProjectedHeads(features.channels, numbers).to(device, memory_format=layout)  # type: ignore[call-overload]
        self.patches = PatchHead(numbers).to(device, memory_format=layout)  # type: ignore[call-overload]
        self.finder = MaskHead(features.channels).to(device, memory_format=layout)  # type: ignore[call-overload]
        self._judges = [
            p for p in itertools.chain(self.patches.parameters(), self.heads.parameters()) if p.requires_grad
        ]
        self.optimizer_g = torch.optim.Adam(
            self.generator.parameters(), config.learning_rate_g, betas=(0.0, 0.99), fused=True
        )
        self.optimizer_d = torch.optim.Adam(self._judges, config.learning_rate_d, betas=(0.0, 0.99), fused=True)
        self.optimizer_m = torch.optim.Adam(self.finder.parameters(), MASK_LEARNING_RATE, betas=(0.9, 0.99), fused=True)
        self.step_count, self.images_seen = 0, 0
        known = [name for name in DIFFERENTIABLE_NAMES if name in names]
        self._asked = torch.tensor([names.index(name) for name in known], device=device)
        self._measured = torch.tensor([DIFFERENTIABLE_NAMES.index(name) for name in known], device=device)
        self._deviations: list[Tensor | None] = [None] * STATISTICS_DEPTHS
        self._hair = names.index("hair") if "hair" in names else None
        self._shared = {
            "marks": SharedPattern(lambda images: fine_detail(images * 127.5), share),
            "common": SharedPattern(texture, share),
            "places": SharedPattern(lambda images: tile_sharpness(images * 127.5), share),
        }

    def state(self) -> dict[str, Any]:
        """Return all that a training goes on from."""
        return {
            "G": self.generator.state_dict(),
            "E": self.average.state_dict(),
            "PD": self.patches.state_dict(),
            "HD": self.heads.state_dict(),
            "MD": self.finder.state_dict(),
            "oG": self.optimizer_g.state_dict(),
            "oD": self.optimizer_d.state_dict(),
            "oM": self.optimizer_m.state_dict(),
            "step": self.step_count,
            "seen": self.images_seen,
            "deviations": list(self._deviations),
            **{name: shared.average for name, shared in self._shared.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; learning rates are those of the config."""
        if "MD" in state:  # states of before there was one begin it anew
            self.finder.load_state_dict(state["MD"])
            self.optimizer_m.load_state_dict(state["oM"])
        for name, module in (
            ("G", self.generator),
            ("E", self.average),
            ("PD", self.patches),
            ("HD", self.heads),
        ):
            module.load_state_dict(state[name])
        for name, optimizer, rate in (
            ("oG", self.optimizer_g, self.config.learning_rate_g),
            ("oD", self.optimizer_d, self.config.learning_rate_d),
        ):
            optimizer.load_state_dict(state[name])
            for group in optimizer.param_groups:
                group["lr"] = rate
        self.step_count, self.images_seen = state["step"], state["seen"]
        kept = state.get("deviations", self._deviations)  # states of before they were kept have none
        self._deviations = [None if one is None else one.to(self.device) for one in kept]
        for name, shared in self._shared.items():
            average = state.get(name)
            shared.average = None if average is None else average.to(self.device)

    def step(self, masks: Tensor, images: Tensor, appearances: Tensor, random: np.random.Generator) -> GanLosses:
        """Train the discriminators, then the generator, on one batch.

        What comes of it depends on the state, the batch and `random` alone.

        Args:
            masks: uint8 (B, S, S), B at least 2 and S at least 64, a multiple of 32.
            images: uint8 (B, S, S, 3).
            appearances: float32 (B, numbers), of the images.
            random: draws the noise, and which parts of the images the networks see.

        Raises:
            ValueError: there are fewer masks, or they are smaller.
            Diverged: a loss is not finite.
        """
        _check_masks(masks)
        batch = self._synthesize(masks, images, appearances, random)
        features_d, pixels_d = self._train_judges(batch)
        mask_real = self._train_finder(batch)
        self._require_grad(False)
        terms, mask_fake = self._generator_terms(batch, mask_real.detach())
        loss = functools.reduce(operator.add, (weight * value for weight, value in terms.values()))
        if not torch.isfinite(loss):
            raise Diverged(f"a loss is {loss.item():g} at step {self.step_count + 1}")
        self.optimizer_g.zero_grad()
        _backward(loss)
        self._share_gradients(list(self.generator.parameters()))
        self.optimizer_g.step()
        self.step_count, self.images_seen = self.step_count + 1, self.images_seen + len(masks) * self._processes
        self._update_average()
        values = {name: value for name, (_, value) in terms.items()}
        nothing = loss.new_zeros(())
        told = {
            "features_d": features_d,
            "pixels_d": pixels_d,
            "features_g": values["features"],
            "pixels_g": values["pixels"],
            "statistics": values["statistics"],
            "l1_levels": values["l1"] * 127.5,
            "mask_real": mask_real.mean(),
            "mask_fake": mask_fake,
            **{
                name: values.get(name, nothing)
                for name in ("asked", "marks", "common", "places", "grids", "focus", "hair")
            },
        }
        numbers = torch.stack(list(told.values())).detach().tolist()  # one copy from the device
        return GanLosses(**dict(zip(told, numbers, strict=True)))

    def step_discriminators(
        self, masks: Tensor, images: Tensor, appearances: Tensor, random: np.random.Generator
    ) -> tuple[float, float]:
        """Train the discriminators, and the head that finds masks, on one batch; the generator stays.

        A generator that is trained already, whose discriminators are gone, would unlearn from new ones. Steps and
        images seen are not counted.

        Args:
            masks: as of `step`, and the others likewise.
            images: uint8 (B, S, S, 3).
            appearances: float32 (B, numbers).
            random: see `step`.

        Returns:
            The losses on features and on pixels.

        Raises:
            ValueError: as `step`.
        """
        _check_masks(masks)
        with torch.no_grad():
            batch = self._synthesize(masks, images, appearances, random)
        features_d, pixels_d = self._train_judges(batch)
        self._train_finder(batch)
        return features_d.item(), pixels_d.item()

    def _synthesize(self, masks: Tensor, images: Tensor, appearances: Tensor, random: np.random.Generator) -> _Batch:
        """Synthesize an image of each mask, and look at those and the real ones alike."""
        count, is_full = len(masks), self.images_seen >= self.config.half_images
        mask = masks.to(self.device)[:, None].float() / 127.5 - 1
        real = images.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        real = real if is_full else F.avg_pool2d(real, 2)
        appearance = appearances.to(self.device)
        own = count // 2
        given = [*range(own), *range(own + 1, count), *([own] if own < count else [])]
        view = _View(mask, is_full, bool(self.step_count % 2), random)
        with self._autocast():
            color, luma = self.generator.draw(mask, appearance[given], self._noise(mask, random))
        fake = to_rgb(color, luma if is_full else None)
        seen = compress(fake) if is_full else fake
        with self._autocast():
            fake_features = self._features(view.features(seen))
            with torch.no_grad():
                real_features = self._features(view.features(real))
        fine = view.pixels(mask)
        fake_pixels, real_pixels = (
            torch.cat([part, detail(part), fine], 1) for part in (view.pixels(seen), view.pixels(real))
        )
        return _Batch(
            mask=mask,
            small=view.features(mask),
            real=real,
            fake=fake,
            seen=seen,
            luma=luma,
            appearance=appearance,
            given=given,
            own=own,
            is_full=is_full,
            fake_features=fake_features,
            real_features=real_features,
            fake_pixels=fake_pixels,
            real_pixels=real_pixels,
        )

    def _train_judges(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        """Train the discriminators; return the losses on features and on pixels."""
        given = batch.appearance[batch.given]
        self._require_grad(True)
        with self._autocast():
            on_fake = self.heads([one.detach() for one in batch.fake_features], batch.small, given)
            on_real = self.heads(batch.real_features, batch.small, batch.appearance)
            pixels_on_fake = self.patches(batch.fake_pixels.detach(), given)
            pixels_on_real = self.patches(batch.real_pixels, batch.appearance)
        features = torch.stack([_hinge(a, b) for a, b in zip(on_fake, on_real, strict=True)]).mean()
        pixels = _hinge(pixels_on_fake, pixels_on_real)
        self.optimizer_d.zero_grad()
        _backward(features + pixels)
        self._share_gradients(self._judges)
        self.optimizer_d.step()
        return features, pixels

    def _train_finder(self, batch: _Batch) -> Tensor:
        """Train the head that finds masks, on real images; return the loss (B,)."""
        mask_real = self._find(batch.real_features, batch.small)
        self.optimizer_m.zero_grad()
        _backward(mask_real.mean())
        self._share_gradients(list(self.finder.parameters()))
        self.optimizer_m.step()
        return mask_real

    def _generator_terms(self, batch: _Batch, mask_real: Tensor) -> tuple[dict[str, tuple[float, Tensor]], Tensor]:
        """Return what the generator pays for, (weight, value) by name, and the mean loss of the mask found."""
        config, given, small = self.config, batch.given, batch.small
        asked_for = batch.appearance[given]
        with self._autocast():
            features = -torch.stack([one.mean() for one in self.heads(batch.fake_features, small, asked_for)]).mean()
            pixels = -self.patches(batch.fake_pixels, asked_for).mean()
        real_features = [one[given] for one in batch.real_features]
        statistics = self._statistics(batch.fake_features, real_features, small, small[given])
        mask_fake = self._find(batch.fake_features, small)
        cell = 8 if batch.is_full else 4
        fake, real = (F.avg_pool2d(one[: batch.own], cell) for one in (batch.fake, batch.real))
        terms = {
            "features": (1.0, features),
            "pixels": (config.lambda_patch, pixels),
            "statistics": (config.lambda_statistics, statistics),
            "l1": (config.lambda_l1, F.l1_loss(fake, real)),
            "mask": (config.lambda_mask, F.relu(mask_fake - config.mask_share * mask_real[given]).mean()),
        }
        if batch.is_full:
            # each costs time: half of the batch is looked at for some, the other half for others
            half, rest = slice(self.step_count % 2, None, 2), slice(1 - self.step_count % 2, None, 2)
            one = [self.step_count % len(batch.mask)]  # the detector of hair takes 20 ms
            losses: dict[str, tuple[float, Callable[[], Tensor]]] = {
                "asked": (
                    config.lambda_asked,
                    lambda: self._asked_difference(batch.seen[half], batch.mask[half] > 0, asked_for[half]),
                ),
                "marks": (config.lambda_marks, lambda: self._shared["marks"](batch.fake[half], batch.real[half])),
                "common": (config.lambda_common, lambda: self._shared["common"](batch.fake[rest], batch.real[rest])),
                "places": (config.lambda_places, lambda: self._shared["places"](batch.seen[rest], batch.real[rest])),
                "grids": (
                    config.lambda_grids,
                    lambda: grid_power(batch.seen[rest]) + 0.5 * grid_power(batch.fake[half]),
                ),
                "focus": (
                    config.lambda_focus,
                    lambda: _focus_difference(batch.seen[rest], batch.real[given[rest]]),
                ),
                "compression": (config.lambda_loss, lambda: F.mse_loss(batch.fake, batch.seen.detach())),
                "phases": (config.lambda_phases, lambda: phase_difference(batch.luma)),
                "hair": (
                    0.0 if self._hair is None else config.lambda_hair,
                    lambda: self._hair_difference(batch.seen[one], batch.mask[one], asked_for[one]),
                ),
            }
            terms |= {name: (weight, loss()) for name, (weight, loss) in losses.items() if weight}
        return terms, mask_fake.mean()

    def _features(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.features.pyramid(images * 127.5 + 127.5)
        return maps

    def _find(self, features: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Return the cross-entropy (B,) of the mask found by features."""
        with self._autocast():
            logits = self.finder(features)
        share = F.adaptive_avg_pool2d((mask + 1) / 2, (logits.shape[2], logits.shape[3]))
        return F.binary_cross_entropy_with_logits(logits, share, reduction="none").mean((1, 2, 3))

    def _asked_difference(self, images: Tensor, masks: Tensor, appearance: Tensor) -> Tensor:
        """Compare the numbers of images (B, 3, S, S) in [-1, 1] with those that were asked for, at their full side."""
        numbers = measure_differentiably((images + 1) * 127.5, masks)[:, self._measured]
        difference = (numbers - appearance[:, self._asked]) / self.generator.std[self._asked]
        return F.huber_loss(difference, torch.zeros_like(difference))

    def _hair_difference(self, images: Tensor, masks: Tensor, appearance: Tensor) -> Tensor:
        assert self._hair is not None  # noqa: S101 - its weight is 0 otherwise
        is_lesion, asked = masks > 0, appearance[:, self._hair]
        return hair_difference((images + 1) * 127.5, is_lesion, asked, self.generator.std[self._hair])

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=computes_bf16(self.device))

    def _noise(self, mask: Tensor, random: np.random.Generator) -> Tensor:
        count = self.generator.spec.noise_count((mask.shape[2], mask.shape[3]))
        generator = torch.Generator(self.device).manual_seed(int(random.integers(1 << 62)))
        shape = (len(mask), count)
        return scale_noise(torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device, generator=generator))

    def _share_gradients(self, parameters: Sequence[Tensor]) -> None:
        self._share([one.grad for one in parameters if one.grad is not None])

    def _require_grad(self, wanted: bool) -> None:
        for parameter in itertools.chain(self._judges, self.finder.parameters()):
            parameter.requires_grad_(wanted)

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.config.ema, (1 + self.step_count) / (10 + self.step_count))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - keep)

    def _statistics(
        self, fake: Sequence[Tensor], real: Sequence[Tensor], fake_mask: Tensor, real_mask: Tensor
    ) -> Tensor:
        """Compare means and deviations of features in lesion and skin, in deviations of the real features."""
        total = fake_mask.new_zeros(())
        for depth, (a, b) in enumerate(zip(fake[:STATISTICS_DEPTHS], real[:STATISTICS_DEPTHS], strict=True)):
            a, b = a.float(), b.float()
            spread = b.flatten(2).std(2).mean(0)[None, :, None, None] + 0.05
            self._share([spread])
            before = self._deviations[depth]
            deviation = spread if before is None else before.lerp(spread, 0.02)
            self._deviations[depth] = deviation
            shares = [F.adaptive_avg_pool2d((one + 1) / 2, (a.shape[2], a.shape[3])) for one in (fake_mask, real_mask)]
            for invert in (False, True):
                of_fake, of_real = (1 - share if invert else share for share in shares)
                is_there = (of_fake.mean((1, 2, 3)) > MIN_REGION) & (of_real.mean((1, 2, 3)) > MIN_REGION)
                weight = is_there.float()[:, None, None, None]
                for one, other in zip(_moments(a, of_fake), _moments(b, of_real), strict=True):
                    total = total + ((one - other) / deviation * weight).abs().mean()
        return total / (4 * STATISTICS_DEPTHS)


def _check_masks(masks: Tensor) -> None:
    if len(masks) < 2 or masks.shape[1] < MIN_SIDE or masks.shape[1] % 32:
        raise ValueError(
            f"expected two masks at least, of a side from {MIN_SIDE} on that is a multiple of 32, got "
            f"{tuple(masks.shape)}"
        )


class _View:
    """Choose which part of the images the networks see in a step: the same of real and synthesized ones.

    They see half of the side at a time: all of the images, shrunk, or a part of them. Parts begin where blocks of JPEG
    do.
    """

    def __init__(self, mask: Tensor, is_full: bool, is_odd: bool, random: np.random.Generator) -> None:
        self._side = mask.shape[2] // 2
        self.is_full, self.is_native = is_full, is_full and is_odd
        self._part = self._corner(random)
        self._shift = tuple(int(v) for v in random.integers(-SHIFT, SHIFT + 1, 2))
        self._pixels = self._corner(random)

    def _corner(self, random: np.random.Generator) -> tuple[int, ...]:
        """Draw where a part begins. One in four lies along each border: drawn evenly, corners would hardly be seen."""
        places = self._side // CELL + 1
        drawn = random.integers(-(places // 2), places + places // 2, 2)
        return tuple(int(place) * CELL for place in drawn.clip(0, places - 1))

    def features(self, x: Tensor) -> Tensor:
        """Cut or shrink what the feature network sees."""
        if self.is_native:
            return _contiguous(self._cut(x, self._part))
        x = F.avg_pool2d(x, 2) if x.shape[2] > self._side else x
        padded = F.pad(x, (SHIFT,) * 4, mode="replicate")
        top, left = (SHIFT + one for one in self._shift)
        return _contiguous(padded[:, :, top : top + x.shape[2], left : left + x.shape[3]])

    def pixels(self, x: Tensor) -> Tensor:
        """Cut what the discriminator on pixels sees."""
        if self.is_full:
            return self._cut(x, self._pixels)
        return F.avg_pool2d(x, 2) if x.shape[2] > self._side else x

    def _cut(self, x: Tensor, corner: tuple[int, ...]) -> Tensor:
        top, left = corner
        return x[:, :, top : top + self._side, left : left + self._side]


def _contiguous(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _focus_difference(fake: Tensor, real: Tensor) -> Tensor:
    found, expected = (tile_sharpness(one * 127.5).mean((1, 2, 3)) / SHARPNESS_DEVIATION for one in (fake, real))
    return F.huber_loss(found, expected)


def _hinge(on_fake: Tensor, on_real: Tensor) -> Tensor:
    """Return the hinge loss of a discriminator (Lim and Ye, arXiv:1705.02894)."""
    return F.relu(1 + on_fake).mean() + F.relu(1 - on_real).mean()


def _moments(features: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (B, C, 1, 1) of features (B, C, H, W), weighted by (B, 1, H, W)."""
    area = share.sum((2, 3), keepdim=True).clamp_min(1e-6)
    mean = (features * share).sum((2, 3), keepdim=True) / area
    variance = ((features - mean).square() * share).sum((2, 3), keepdim=True) / area
    return mean, (variance + 1e-4).sqrt()


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
