"""Build the modulated generator: a mask encoder, and a decoder steered by appearance and noise.

It keeps the U-Net's shape, and differs from it where the original's pictures give themselves away:

- Convolutions are modulated and demodulated by the appearance, in place of instance norms, whose spikes leave marks at
  fixed places. From Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020
  (arXiv:1912.04958), section 2.2.
- Noise comes in at every size, so textures differ from image to image.
- Luma is drawn at the full side and chroma at half of it, as in the JPEG files that dermoscopic photographs are kept in
  (4:2:0). So there is no colored noise.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2l_runtime.types import KNOWN_NAMES
from m2l_train.models.networks import LEAKY_RELU_SLOPE

NOISE_MEAN: Final = 127.5
NOISE_DEVIATION: Final = math.sqrt((256**2 - 1) / 12)
"""Standard deviation of a uniform byte: noise comes in as bytes, and is scaled to variance 1."""
MAX_DEVIATIONS: Final = 4.0
"""Numbers of an appearance count for no more than so many deviations from the training images' mean."""
DEMODULATION_EPS: Final = 1e-8
GAIN: Final = math.sqrt(2 / (1 + LEAKY_RELU_SLOPE**2))
"""Keeps the variance through the activation (He et al., arXiv:1502.01852, equation 15)."""
MAX_SHARPENING: Final = 4.0
MAX_PASSES: Final = 4
LUMA_PHASES: Final = 4
"""Pixels of the full side to one of half of it."""

FINE_TAPS: Final = (-1 / 16, 4 / 16, 10 / 16, 4 / 16, -1 / 16)
"""Of the filter across and down of what luma has at the full side. At 1/8, 1/4, 3/8 and 1/2 of a wave a pixel it leaves
0.98, 0.75, 0.27 and 0: twice the binomial filter less its square."""

BLUR_TAPS: Final = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Of the filter across and down that luma is sharpened by what it lacks of (an unsharp mask); of variance 1."""
TRIANGLE_TAPS: Final = (1 / 4, 3 / 4)
"""Of the filter that enlarges: the pixel beside, and the pixel itself."""

YCBCR_TO_RGB: Final = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
"""From Y, Cb, Cr to R, G, B, all around 0: ITU-T T.871 (JFIF), section 7."""


@dataclass(frozen=True)
class ModulatedSpec:
    """Describe the layout of a modulated generator.

    Example:
        >>> spec = ModulatedSpec(encoder=(2, 3), decoder=(4, 3), appearance_rows=5)
        >>> spec.noise_sides((16, 16)), spec.noise_count((16, 16))
        (((4, 4), (4, 4), (4, 4), (8, 8)), 112)

    Raises:
        ValueError: encoder and decoder differ in length, or something has no channels or names.
    """

    encoder: tuple[int, ...] = (16, 32, 48, 64, 64)
    """Channels after each stride-2 convolution of the mask, from half the image's side on."""
    decoder: tuple[int, ...] = (256, 192, 128, 64, 48)
    """Channels at each side, from the innermost to half the image's: as many entries as `encoder`."""
    names: tuple[str, ...] = KNOWN_NAMES
    """Names of an appearance's numbers."""
    hidden: int = 96
    """Width of the two layers that map appearances to scales."""
    appearance_rows: int = 0
    """Appearances that the network keeps of the images trained on."""
    sharpening: float = 0.0
    """How much luma's difference from its blur is amplified, from 0 on (an unsharp mask at the network's end)."""
    chroma_passes: int = 1
    """How many times chroma is smoothed."""

    def __post_init__(self) -> None:
        if not 0 <= self.sharpening <= MAX_SHARPENING or not 1 <= self.chroma_passes <= MAX_PASSES:
            raise ValueError(
                f"expected a sharpening from 0 to {MAX_SHARPENING:g} and 1 to {MAX_PASSES} chroma passes, got "
                f"{self.sharpening:g} and {self.chroma_passes}"
            )
        if len(self.decoder) != len(self.encoder):
            raise ValueError(
                f"a modulated generator has as many sides in its decoder as in its encoder, got encoder {self.encoder} "
                f"and decoder {self.decoder}"
            )
        if min((len(self.encoder), len(self.names), self.hidden, *self.encoder, *self.decoder)) < 1:
            raise ValueError(
                "a modulated generator has at least one side, one name, and one channel in each layer, got encoder "
                f"{self.encoder}, decoder {self.decoder}, {self.numbers} names and {self.hidden} hidden"
            )

    @property
    def numbers(self) -> int:
        """How many numbers an appearance has."""
        return len(self.names)

    @property
    def levels(self) -> int:
        """Stride-2 convolutions; sides of masks are multiples of 2 to this power."""
        return len(self.encoder)

    def noise_sides(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """List (rows, columns) of the noise of each convolution in the decoder, for an image size (height, width).

        Each side has two convolutions, of which the second doubles its inputs' side, but for the innermost.
        """
        height, width = image_size
        shifts = [self.levels - max(place - 1 + number, 0) for place in range(self.levels) for number in range(2)]
        return tuple((height >> shift, width >> shift) for shift in shifts)

    def noise_count(self, image_size: tuple[int, int]) -> int:
        """Count the bytes of noise that an image takes."""
        return sum(rows * columns for rows, columns in self.noise_sides(image_size))


class ModulatedConv2d(nn.Module):
    """Convolve 3x3 with scaled inputs, beside features of the mask and noise; activate, and normalize by the scales.

    Maps (B, C, H, W) to (B, C', H, W). What normalizes is known without looking at the features: inputs of variance 1
    that do not depend on each other give outputs of variance 1. Scaled weights and outputs that are divided by the norm
    of these weights are equations 1 and 3 of the paper; the activation may stand between them, as it maps multiples to
    multiples.

    Example:
        >>> layer = ModulatedConv2d(4, 2, 3, hidden=5)
        >>> x, skip, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 2, 8, 8), torch.randn(1, 1, 8, 8)
        >>> layer(x, skip, torch.zeros(1, 5), noise).shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(self, channels: int, skip: int, out_channels: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, channels, 3, 3) / math.sqrt(channels * 9))
        self.skip_weight = (
            nn.Parameter(torch.randn(out_channels, skip, 3, 3) / math.sqrt(2 * skip * 9)) if skip else None
        )
        self.noise_weight = nn.Parameter(torch.randn(out_channels, 1, 3, 3) * (0.2 / 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.style = nn.Linear(hidden, channels)
        nn.init.normal_(self.style.weight, 0.0, 0.3 / math.sqrt(hidden))
        nn.init.zeros_(self.style.bias)

    def constant_power(self) -> Tensor:
        """Compute the variance (C',) that features of the mask and noise give."""
        power = self.noise_weight.square().sum((1, 2, 3))
        return power if self.skip_weight is None else power + self.skip_weight.square().sum((1, 2, 3))

    def factors(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scales of the inputs (B, C) and of the outputs (B, C'), from (B, hidden)."""
        scale = 1 + self.style(hidden)
        power = scale.square() @ self.weight.square().sum((2, 3)).T + self.constant_power()
        return scale, torch.rsqrt(power + DEMODULATION_EPS) * GAIN

    def forward(self, x: Tensor, skip: Tensor | None, hidden: Tensor, noise: Tensor) -> Tensor:
        """See the class.

        Args:
            x: (B, C, H, W).
            skip: features of the mask (B, S, H, W); None where the layer has no weights for them.
            hidden: (B, hidden), from the appearance.
            noise: (B, 1, H, W) of variance 1.
        """
        with torch.autocast(x.device.type, enabled=False):
            scale, normalizing = self.factors(hidden)
        y = F.conv2d(x * scale[:, :, None, None].to(x.dtype), self.weight, self.bias, padding=1)
        y = y + F.conv2d(noise, self.noise_weight, padding=1)
        if self.skip_weight is not None:
            assert skip is not None  # noqa: S101 - see above
            y = y + F.conv2d(skip, self.skip_weight, padding=1)
        return F.leaky_relu(y, LEAKY_RELU_SLOPE) * normalizing[:, :, None, None].to(y.dtype)


class ModulatedGenerator(nn.Module):
    """Synthesize images (B, 3, H, W) from masks (B, 1, H, W) in [-1, 1], appearances and noise.

    Images are RGB around 0, mostly in [-1, 1]; beyond that they are to be clipped. H and W are multiples of
    ``2 ** spec.levels``. `ModulatedSpec.decoder` has two convolutions an entry, with the doubling of the side between
    them, but for the first.

    Example:
        >>> network = ModulatedGenerator(ModulatedSpec(encoder=(2, 3), decoder=(4, 3)))
        >>> noise = scale_noise(torch.randint(0, 256, (1, network.spec.noise_count((16, 16))), dtype=torch.uint8))
        >>> network(torch.ones(1, 1, 16, 16), torch.zeros(1, network.spec.numbers), noise).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(self, spec: ModulatedSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("table", torch.zeros(spec.appearance_rows, spec.numbers))
        self.register_buffer("mean", torch.zeros(spec.numbers))
        self.register_buffer("std", torch.ones(spec.numbers))
        self.register_buffer("names", torch.tensor(list(",".join(spec.names).encode()), dtype=torch.uint8))
        if (spec.sharpening, spec.chroma_passes) != (0.0, 1):  # else as networks were before these filters
            filters = torch.tensor([spec.sharpening, spec.chroma_passes], dtype=torch.float64)
            self.register_buffer("filters", filters)
        self.table: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.downs = nn.ModuleList(
            nn.Conv2d(before, after, 4, 2, 1) for before, after in zip((1, *spec.encoder), spec.encoder, strict=False)
        )
        self.mlp = nn.Sequential(
            nn.Linear(spec.numbers, spec.hidden),
            nn.LeakyReLU(LEAKY_RELU_SLOPE),
            nn.Linear(spec.hidden, spec.hidden),
            nn.LeakyReLU(LEAKY_RELU_SLOPE),
        )
        self.layers = nn.ModuleList()
        before = spec.encoder[-1]
        for channels, skip in zip(spec.decoder, (0, *reversed(spec.encoder[:-1])), strict=True):
            self.layers.append(ModulatedConv2d(before, 0, channels, spec.hidden))
            self.layers.append(ModulatedConv2d(channels, skip, channels, spec.hidden))
            before = channels
        self.head = nn.Conv2d(spec.decoder[-1], 3 + LUMA_PHASES, 3, 1, 1)
        """Draws Y, Cb and Cr at half the side, and what is added to Y in each of the 2x2 pixels of the full side."""
        self._initialize()

    def _initialize(self) -> None:
        for conv in map(_as_conv, self.downs):
            nn.init.kaiming_normal_(conv.weight, a=LEAKY_RELU_SLOPE)
            nn.init.zeros_(_bias(conv))
        nn.init.normal_(self.head.weight, 0.0, 0.5 / math.sqrt(self.head.in_channels * 9))
        nn.init.zeros_(_bias(self.head))
        with torch.no_grad():  # all phases alike, so that training begins without a checkerboard
            self.head.weight[3:] = self.head.weight[3:4] / 10

    @torch.no_grad()
    def set_table(self, table: Tensor) -> None:
        """Keep the appearances (rows, numbers) of the images trained on, which numbers are scaled by.

        Raises:
            ValueError: `table` has another shape than the layout says, or fewer than two rows.
        """
        if table.shape != self.table.shape or len(table) < 2:
            raise ValueError(
                f"expected appearances of shape {tuple(self.table.shape)}, two rows at least, got {tuple(table.shape)}"
            )
        self.table.copy_(table)
        self.mean.copy_(table.mean(0))
        self.std.copy_(table.std(0).clamp_min(1e-3))

    def places(self) -> Iterator[tuple[int, int, ModulatedConv2d]]:
        """Yield (place of the side from the innermost, number at that side, layer)."""
        for index, layer in enumerate(self.layers):
            yield index // 2, index % 2, cast(ModulatedConv2d, layer)

    def encode(self, mask: Tensor) -> list[Tensor]:
        """Compute the features of masks after each convolution of the encoder."""
        features = []
        for conv in self.downs:
            mask = F.leaky_relu(conv(mask), LEAKY_RELU_SLOPE)
            features.append(mask)
        return features

    def hidden(self, appearance: Tensor) -> Tensor:
        """Map appearances (B, numbers) to (B, hidden)."""
        scaled = ((appearance - self.mean) / self.std).clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)
        hidden: Tensor = self.mlp(scaled)
        return hidden

    def draw(self, mask: Tensor, appearance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Compute Y, Cb, Cr at half the side (B, 3, H/2, W/2), and what is added to Y at the full one (B, 1, H, W).

        Args:
            mask: (B, 1, H, W) in [-1, 1].
            appearance: (B, numbers).
            noise: (B, n) of variance 1, by convolution and row by row; `ModulatedSpec.noise_count` of them.
        """
        with torch.autocast(mask.device.type, enabled=False):
            hidden = self.hidden(appearance)
        sides = self.spec.noise_sides((mask.shape[2], mask.shape[3]))
        parts = torch.split(noise, [math.prod(side) for side in sides], 1)
        planes = [part.reshape(-1, 1, *side) for part, side in zip(parts, sides, strict=True)]
        features = self.encode(mask)
        x = features[-1]
        for (place, number, layer), plane in zip(self.places(), planes, strict=True):
            if place and number:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = layer(x, features[-1 - place] if place and number else None, hidden, plane)
        drawn = self.head(x)
        drawn = drawn.to(torch.promote_types(drawn.dtype, torch.float32))  # single precision under autocast
        color = torch.cat([drawn[:, :1], smooth(drawn[:, 1:3], self.spec.chroma_passes)], 1)
        return color, F.pixel_shuffle(filter_luma(drawn[:, :1], drawn[:, 3:], self.spec.sharpening), 2)

    def forward(self, mask: Tensor, appearance: Tensor, noise: Tensor) -> Tensor:
        """See the class; `noise` is as in `draw`."""
        return to_rgb(*self.draw(mask, appearance, noise))


def to_rgb(color: Tensor, luma: Tensor | None = None) -> Tensor:
    """Combine what `ModulatedGenerator.draw` returns: RGB (B, 3, H, W); at half the side where luma is left out.

    What is drawn at half the side, chroma and most of Y, is enlarged as JPEG decoders do it, by a triangle filter.

    Example:
        >>> grey = torch.cat([torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, 2, 2, 2)], 1)
        >>> to_rgb(grey, torch.full((1, 1, 4, 4), 0.25)).unique()
        tensor([0.7500])
    """
    matrix = color.new_tensor(YCBCR_TO_RGB)
    if luma is not None:
        color = F.interpolate(color, scale_factor=2.0, mode="bilinear", align_corners=False)
        color = torch.cat([color[:, :1] + luma, color[:, 1:]], 1)
    return torch.einsum("rc,bchw->brhw", matrix, color)


def smooth(planes: Tensor, passes: int = 1) -> Tensor:
    """Blur (B, C, H, W) by a binomial filter of 3x3, edges repeated: nothing of every second pixel is left."""
    planes = F.pad(planes, (passes,) * 4, mode="replicate")
    for _ in range(2 * passes):
        planes = F.avg_pool2d(planes, 2, 1)
    return planes


def filter_luma(luma: Tensor, phases: Tensor, sharpening: float) -> Tensor:
    """Compute what is added to luma in each of the 2x2 phases: these, filtered, and what sharpening adds.

    An image of luma I is sharpened to I + s (I - B I), where B is the blur of `BLUR_TAPS`. I is made of `luma`,
    enlarged by a triangle filter, and of the phases filtered by `FINE_TAPS`; all of it is one convolution.

    Example:
        >>> flat = torch.ones(1, 1, 8, 8)
        >>> filter_luma(flat, flat.expand(1, 4, 8, 8), 0.3).unique().round(decimals=4)
        tensor([1.])

    Args:
        luma: (B, 1, H/2, W/2), of which the enlarged part is not in what is returned.
        phases: (B, 4, H/2, W/2).
        sharpening: s.

    Returns:
        (B, 4, H/2, W/2); at edges, luma and phases are repeated.
    """
    if not sharpening:
        return smooth_phases(phases)
    x = F.pad(torch.cat([luma, phases], 1), (2, 2, 2, 2), mode="replicate")
    return F.conv2d(x, phases.new_tensor(luma_weights(sharpening)))


@functools.cache
def luma_weights(sharpening: float) -> tuple[tuple[tuple[tuple[float, ...], ...], ...], ...]:
    """Return the weights (4, 5, 5, 5) of :func:`filter_luma`, from luma and its four phases to the phases.

    Example:
        >>> weights = torch.tensor(luma_weights(0.3))
        >>> weights[:, 0].sum().abs() < 1e-6, round(float(weights[:, 1:].sum()), 6)
        (tensor(True), 4.0)
    """
    blurred = _convolve(BLUR_TAPS, FINE_TAPS)
    weights = torch.zeros(2, 2, 5, 5, 5, dtype=torch.float64)
    for down, right in itertools.product(range(2), repeat=2):
        to = weights[down, right]
        for factor, taps in ((1 + sharpening, FINE_TAPS), (-sharpening, blurred)):
            for place, (from_down, from_right) in enumerate(itertools.product(range(2), repeat=2), start=1):
                to[place] += factor * torch.outer(_line(taps, down, from_down), _line(taps, right, from_right))
        for factor, taps in ((sharpening, (1.0,)), (-sharpening, BLUR_TAPS)):
            to[0] += factor * torch.outer(_enlarged_line(taps, down), _enlarged_line(taps, right))
    rows: tuple[tuple[tuple[tuple[float, ...], ...], ...], ...] = _as_tuples(weights.reshape(4, 5, 5, 5).tolist())
    return rows


def _line(taps: tuple[float, ...], to: int, of: int) -> Tensor:
    """Return the weights (5,) that phase `of` has in five pairs of pixels, for phase `to` of the middle one."""
    line = torch.zeros(5, dtype=torch.float64)
    for place, tap in enumerate(taps):
        pair, phase = divmod(to + place - len(taps) // 2, 2)
        if phase == of:
            line[pair + 2] += tap
    return line


def _enlarged_line(taps: tuple[float, ...], to: int) -> Tensor:
    """Return the weights (5,) that five pixels, enlarged to pairs by a triangle filter, have for phase `to`."""
    line = torch.zeros(5, dtype=torch.float64)
    for of in range(2):
        pairs = _line(taps, to, of)
        line += TRIANGLE_TAPS[1] * pairs + TRIANGLE_TAPS[0] * pairs.roll(1 if of else -1)
    return line


def _convolve(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    both = [0.0] * (len(one) + len(other) - 1)
    for (place, a), (shift, b) in itertools.product(enumerate(one), enumerate(other)):
        both[place + shift] += a * b
    return tuple(both)


def _as_tuples(rows: Any) -> Any:
    return tuple(map(_as_tuples, rows)) if isinstance(rows, list) else rows


def smooth_phases(phases: Tensor) -> Tensor:
    """Filter (B, 4, H/2, W/2), the 2x2 phases of an image (B, 1, H, W), by `FINE_TAPS`; at edges, phases are repeated.

    Nothing of every second pixel is left. JPEG files keep next to nothing of that, so no discriminator sees it, and it
    would grow.

    Example:
        >>> checkerboard = torch.tensor([1.0, -1.0, -1.0, 1.0]).reshape(1, 4, 1, 1).expand(1, 4, 8, 8)
        >>> float(smooth_phases(checkerboard).abs().max())
        0.0
    """
    return F.conv2d(F.pad(phases, (1, 1, 1, 1), mode="replicate"), phases.new_tensor(phase_weights()))


@functools.cache
def phase_weights() -> tuple[tuple[tuple[tuple[float, ...], ...], ...], ...]:
    """Return the weights (4, 4, 3, 3) that `FINE_TAPS`, across and down, have from phase to phase.

    Example:
        >>> weights = torch.tensor(phase_weights())
        >>> weights.shape, float(weights.sum())
        (torch.Size([4, 4, 3, 3]), 4.0)
    """

    def line(to: int, of: int) -> tuple[float, ...]:
        """Weights of phase `of` in the pixel pair before, the same and the next, for phase `to`."""
        places = (2 * pair + of - to + 2 for pair in (-1, 0, 1))
        return tuple(FINE_TAPS[place] if 0 <= place < len(FINE_TAPS) else 0.0 for place in places)

    phases = [(down, right) for down in range(2) for right in range(2)]
    return tuple(
        tuple(
            tuple(tuple(a * b for b in line(right, from_right)) for a in line(down, from_down))
            for from_down, from_right in phases
        )
        for down, right in phases
    )


def scale_noise(noise: Tensor) -> Tensor:
    """Scale bytes of noise, uint8, to floats of mean 0 and variance 1.

    Example:
        >>> scaled = scale_noise(torch.arange(256, dtype=torch.uint8))
        >>> round(float(scaled.mean()), 6), round(float(scaled.square().mean()), 6)
        (0.0, 1.0)
    """
    return (noise.float() - NOISE_MEAN) / NOISE_DEVIATION


def is_modulated(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state_dict is of a modulated generator, whole or damaged, by a key that no other network has.

    Example:
        >>> is_modulated(ModulatedGenerator(ModulatedSpec(encoder=(2,), decoder=(3,))).state_dict())
        True
    """
    return any(key.startswith("layers.") and key.endswith(".noise_weight") for key in state)


def infer_modulated_spec(state: Mapping[str, Tensor]) -> ModulatedSpec:
    """Infer the layout from a state_dict's shapes.

    Raises:
        KeyError: a key is missing.
        IndexError, ValueError: shapes are not those of one network, or names are no text.

    Example:
        >>> spec = ModulatedSpec(encoder=(2, 3), decoder=(4, 3), names=("hair", "ink"), hidden=5, appearance_rows=6)
        >>> infer_modulated_spec(ModulatedGenerator(spec).state_dict()) == spec
        True
    """
    names = state["names"]
    if names.dtype != torch.uint8 or names.layout != torch.strided or names.ndim != 1:
        raise ValueError(f"names are {names.dtype} of shape {tuple(names.shape)}, not the bytes of a text")
    encoder: list[int] = []
    decoder: list[int] = []
    while f"downs.{len(encoder)}.weight" in state:
        encoder.append(state[f"downs.{len(encoder)}.weight"].shape[0])
    while f"layers.{2 * len(decoder)}.weight" in state:
        decoder.append(state[f"layers.{2 * len(decoder)}.weight"].shape[0])
    return ModulatedSpec(
        encoder=tuple(encoder),
        decoder=tuple(decoder),
        names=tuple(bytes(names.tolist()).decode().split(",")),
        hidden=state["mlp.0.weight"].shape[0],
        appearance_rows=state["table"].shape[0],
        **_filters(state),
    )


def _filters(state: Mapping[str, Tensor]) -> dict[str, Any]:
    if "filters" not in state:
        return {}
    filters = state["filters"]
    if filters.shape != (2,) or filters.layout != torch.strided or not filters.is_floating_point():
        raise ValueError(
            f"filters are {filters.dtype} of shape {tuple(filters.shape)}, not a sharpening and a number of passes"
        )
    sharpening, passes = filters.tolist()
    if not passes.is_integer():
        raise ValueError(f"filters have {passes:g} passes, not a whole number of them")
    return {"sharpening": sharpening, "chroma_passes": int(passes)}


def _as_conv(module: nn.Module) -> nn.Conv2d:
    return cast(nn.Conv2d, module)


def _bias(conv: nn.Conv2d) -> Tensor:
    return cast(Tensor, conv.bias)
