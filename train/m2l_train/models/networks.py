"""Build the networks of pix2pix: the U-Net generator and the PatchGAN discriminator.

The layout, hence every state_dict key, is that of pytorch-CycleGAN-and-pix2pix at commit 0442670
(``--netG unet_128|unet_256 --netD basic``), so that checkpoints load in both directions. The architecture is from
Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017
(arXiv:1611.07004), after the U-Net of Ronneberger, Fischer and Brox, MICCAI 2015 (arXiv:1505.04597).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2l_runtime.literals import Norm, Upsample
from m2l_runtime.types import NAMES

NORM_EPS: Final = 1e-5
LEAKY_RELU_SLOPE: Final = 0.2
APPEARANCE_SIZE: Final = len(NAMES)
APPEARANCE_WIDTH: Final = 64
MIN_DEPTH: Final = 5
"""The original cannot build a shallower one either: it always has four widths and a bottleneck."""


@dataclass(frozen=True)
class UnetSpec:
    """Describe the layout of a U-Net generator, in the original's terms."""

    levels: int
    """Stride-2 convolutions from the image to the bottleneck: 8 in unet_256, 7 in unet_128; at least 5."""
    ngf: int
    """Channels after the first convolution; they double up to 8 * ngf."""
    input_nc: int
    """Channels of the mask as it enters: 3 equal ones in Mask2Lesion."""
    output_nc: int
    """Channels of the image: 3, or 1 for grey."""
    norm: Norm
    """instance (no parameters), batch (affine, with running statistics) or none."""
    dropout: bool = True
    """Dropout 0.5 in the inner blocks of 8 * ngf channels; it has no parameters."""
    upsample: Upsample = "deconv"
    """How the side is doubled: by transposed convolutions as in the original, or by `ResizeConv2d`."""
    appearance_rows: int = 0
    """Appearances that `Appearance` keeps of the images trained on; 0: the generator takes no appearance."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels after each of the `levels` convolutions."""
        return tuple(self.ngf * min(1 << level, 8) for level in range(self.levels))

    @property
    def numbers(self) -> int:
        """How many numbers an appearance has."""
        return APPEARANCE_SIZE

    @property
    def names(self) -> tuple[str, ...]:
        """Names of an appearance's numbers."""
        return NAMES

    @property
    def has_bias(self) -> bool:
        """Whether layers that a norm may follow have a bias: only beside InstanceNorm."""
        return self.norm == "instance"


class ResizeConv2d(nn.Conv2d):
    """Double the side by repeating pixels, then convolve 3x3: (B, C, H, W) to (B, C', 2H, 2W).

    Every output pixel is made by as many weights as its neighbours, which a 4x4 transposed convolution of stride 2
    does not learn by itself: the usual cure for checkerboard artefacts. From Odena, Dumoulin and Olah, "Deconvolution
    and Checkerboard Artifacts", Distill 2016 (doi:10.23915/distill.00003).

    The two steps are computed as the one transposed convolution that they are together, with four multiplications a
    weight and output pixel instead of nine.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 3, 1, 1, bias=bias)

    def transposed_weight(self) -> Tensor:
        """Return the weights (C, C', 4, 4) of a transposed convolution of stride 2 and padding 1 that gives the same.

        A repeated pixel meets every place of the 3x3 weights at two offsets in each direction, so the weights are those
        3x3 spread by a box of 2x2, and mirrored, as a transposed convolution counts from the other end.
        """
        padded = F.pad(self.weight, (1, 1, 1, 1))
        rows = padded[:, :, :-1] + padded[:, :, 1:]
        return (rows[:, :, :, :-1] + rows[:, :, :, 1:]).flip(2, 3).transpose(0, 1)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in the base class
        """See the class."""
        return F.conv_transpose2d(input, self.transposed_weight(), self.bias, stride=2, padding=1)


class InstanceNorm2d(nn.InstanceNorm2d):
    """Normalize as PyTorch does, but half-precision input in fp32, as its variance may be next to none."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in the base class
        """(B, C, H, W) to the same."""
        if input.dtype in (torch.bfloat16, torch.float16):
            return super().forward(input.float()).to(input.dtype)
        return super().forward(input)


class Appearance(nn.Module):
    """Compute a scale and a shift for each channel of some layers from an image's appearance.

    They act on what an instance norm has normalised, where a constant plane beside the mask would be all but wiped out.
    From Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018 (arXiv:1709.07871).
    """

    def __init__(self, rows: int, channels: Sequence[int]) -> None:
        super().__init__()
        self._channels = tuple(channels)
        self.register_buffer("table", torch.zeros(rows, APPEARANCE_SIZE))
        self.register_buffer("mean", torch.zeros(APPEARANCE_SIZE))
        self.register_buffer("std", torch.ones(APPEARANCE_SIZE))
        self.table: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.hidden = nn.Sequential(
            nn.Linear(APPEARANCE_SIZE, APPEARANCE_WIDTH),
            nn.LeakyReLU(LEAKY_RELU_SLOPE),
            nn.Linear(APPEARANCE_WIDTH, APPEARANCE_WIDTH),
            nn.LeakyReLU(LEAKY_RELU_SLOPE),
        )
        self.out = nn.Linear(APPEARANCE_WIDTH, 2 * sum(channels))
        _draw(self.out.weight, 0.0, 0.02)
        nn.init.zeros_(self.out.bias)

    @torch.no_grad()
    def set_table(self, table: Tensor) -> None:
        """Keep the appearances (rows, 12) of the images trained on, which numbers are scaled by."""
        self.table.copy_(table)
        self.mean.copy_(table.mean(0))
        self.std.copy_(table.std(0).clamp_min(1e-3))

    def forward(self, appearance: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Compute (scale, shift) of each layer, each (B, C, 1, 1), from (B, 12); the scale is 1 plus what is learnt."""
        found = self.out(self.hidden((appearance - self.mean) / self.std))[:, :, None, None]
        parts = found.split([n for channels in self._channels for n in (channels, channels)], 1)
        return [(1 + scale, shift) for scale, shift in zip(parts[::2], parts[1::2], strict=True)]


def modulate(x: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """Scale and shift (B, C, H, W) per image and channel."""
    scale, shift = by
    return torch.addcmul(shift.to(x.dtype), x, scale.to(x.dtype))


class UnetBlock(nn.Module):
    """Run one level of the U-Net: down, the levels inside it, up, and the skip around all of that.

    The layers stand in one Sequential, in the original's order; the properties name them.
    """

    def __init__(self, spec: UnetSpec, level: int) -> None:
        super().__init__()
        self.level = level
        self.is_outermost = level == 0
        self.is_innermost = level == spec.levels - 1
        inner = spec.widths[level]
        outer_in = spec.input_nc if self.is_outermost else spec.widths[level - 1]
        outer_out = spec.output_nc if self.is_outermost else outer_in
        down = nn.Conv2d(outer_in, inner, 4, 2, 1, bias=spec.has_bias)
        up_in, up_bias = inner if self.is_innermost else 2 * inner, self.is_outermost or spec.has_bias
        up: nn.Module
        if spec.upsample == "deconv":
            up = nn.ConvTranspose2d(up_in, outer_out, 4, 2, 1, bias=up_bias)
        else:
            up = ResizeConv2d(up_in, outer_out, bias=up_bias)
        # LeakyReLU works in place in the original, so there the skip carries the activated tensor; the ReLU
        # that follows the concatenation makes the two the same.
        leaky, relu = nn.LeakyReLU(LEAKY_RELU_SLOPE), nn.ReLU()
        layers: list[nn.Module]
        if self.is_outermost:
            layers = [down, UnetBlock(spec, level + 1), relu, up, nn.Tanh()]
        elif self.is_innermost:
            layers = [leaky, down, relu, up, norm_layer(spec.norm, outer_out)]
        else:
            layers = [leaky, down, norm_layer(spec.norm, inner), UnetBlock(spec, level + 1)]
            layers += [relu, up, norm_layer(spec.norm, outer_out)]
            if spec.dropout and 4 <= level < spec.levels - 1:
                layers.append(nn.Dropout(0.5))
        self.model = nn.Sequential(*layers)

    @property
    def down(self) -> nn.Conv2d:
        """The convolution that halves the side."""
        return cast(nn.Conv2d, self.model[0 if self.is_outermost else 1])

    @property
    def down_norm(self) -> nn.Module | None:
        """The norm after `down`; the outermost and the innermost level have none."""
        return None if self.is_outermost or self.is_innermost else self.model[2]

    @property
    def inside(self) -> UnetBlock | None:
        """The next level; None at the bottleneck."""
        if self.is_innermost:
            return None
        return cast(UnetBlock, self.model[1 if self.is_outermost else 3])

    @property
    def up(self) -> nn.ConvTranspose2d | ResizeConv2d:
        """The layer that doubles the side."""
        return cast(nn.ConvTranspose2d | ResizeConv2d, self.model[3 if self.is_outermost or self.is_innermost else 5])

    @property
    def up_norm(self) -> nn.Module | None:
        """The norm after `up`; the outermost level has none."""
        if self.is_outermost:
            return None
        return self.model[4 if self.is_innermost else 6]

    def forward(self, x: Tensor, modulation: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """(B, C, H, W) to (B, C', H, W); below the outermost level `x` comes out again ahead of it.

        `modulation` has a scale and a shift for the norms after `up`, from that of level 1 inwards.
        """
        y, norm = x, self.up_norm
        for layer in self.model:
            y = layer(y, modulation) if isinstance(layer, UnetBlock) else layer(y)
            if layer is norm and modulation is not None:
                y = modulate(y, modulation[self.level - 1])
        return y if self.is_outermost else torch.cat([x, y], 1)


class UnetGenerator(nn.Module):
    """Synthesize images (B, output_nc, H, W) in [-1, 1] from masks (B, input_nc, H, W) in [-1, 1].

    H and W are multiples of ``2 ** levels``. All weights are drawn from N(0, 0.02) and all biases zero, as in
    the original; the scales of a batch norm are drawn from N(1, 0.02).

    Where the spec has rows of appearances, an appearance (B, 12) comes in beside each
    mask, and modulates what the norms on the way up give.
    """

    def __init__(self, spec: UnetSpec) -> None:
        super().__init__()
        if spec.levels < MIN_DEPTH:
            raise ValueError(f"a U-Net generator has at least {MIN_DEPTH} levels, got {spec.levels}")
        self.spec = spec
        self.model = UnetBlock(spec, 0)
        self.apply(initialize)
        self.appearance = Appearance(spec.appearance_rows, spec.widths[:-1]) if spec.appearance_rows else None

    def blocks(self) -> list[UnetBlock]:
        """Return the blocks, from the outermost to the bottleneck."""
        blocks: list[UnetBlock] = []
        block: UnetBlock | None = self.model
        while block is not None:
            blocks.append(block)
            block = block.inside
        return blocks

    def forward(self, x: Tensor, appearance: Tensor | None = None) -> Tensor:
        """See the class."""
        y: Tensor
        if self.appearance is None:
            y = self.model(x)
        else:
            assert appearance is not None  # noqa: S101 - nobody who made it with rows calls it without
            with torch.autocast(x.device.type, enabled=False):
                modulation = self.appearance(appearance)
            y = self.model(x, modulation)
        return y


class PatchDiscriminator(nn.Module):
    """Compute logits (B, 1, H', W') of mask and image (B, input_nc, H, W) in [-1, 1], each of a patch of 70x70 pixels.

    ``--netD basic`` of the original, without its sigmoid: three convolutions of stride 2, two of stride 1, all 4x4;
    256x256 pixels give 30x30 logits.
    """

    def __init__(self, input_nc: int, ndf: int, norm: Norm) -> None:
        super().__init__()
        has_bias = norm == "instance"
        layers: list[nn.Module] = [nn.Conv2d(input_nc, ndf, 4, 2, 1), nn.LeakyReLU(LEAKY_RELU_SLOPE)]
        for before, after, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
            layers += [
                nn.Conv2d(before * ndf, after * ndf, 4, stride, 1, bias=has_bias),
                norm_layer(norm, after * ndf),
                nn.LeakyReLU(LEAKY_RELU_SLOPE),
            ]
        self.model = nn.Sequential(*layers, nn.Conv2d(8 * ndf, 1, 4, 1, 1))
        self.apply(initialize)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.model(x)
        return y


class ScaledDiscriminators(nn.Module):
    """Run several of `PatchDiscriminator`, each on the picture at half the side that the one before it sees.

    So they see patches of 70, 140, 280 ... pixels. From Wang et al., "High-Resolution Image Synthesis and Semantic
    Manipulation with Conditional GANs", CVPR 2018 (arXiv:1711.11585), section 3.2.
    """

    def __init__(self, count: int, input_nc: int, ndf: int, norm: Norm) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(input_nc, ndf, norm) for _ in range(count))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, input_nc, H, W) to logits (B, 1, H', W') of each, from the full side on."""
        logits = []
        for scale, network in enumerate(self.scales):
            x = F.avg_pool2d(x, 2) if scale else x
            logits.append(network(x))
        return logits


DETAIL_GAIN: Final = 16.0
"""What is finest in a photograph of skin, some four grey levels of 255, comes to about one half by it."""

_OPPONENT: Final = ((1 / 3, 1 / 3, 1 / 3), (0.5, -0.5, 0.0), (0.25, 0.25, -0.5))
"""Grey, red against green, and yellow against blue, of red, green and blue."""


def detail(images: Tensor) -> Tensor:
    """Amplify what a 3x3 binomial blur takes away, as grey and two differences of color: (B, 3, H, W) to the same.

    In a photograph the finest detail is nearly grey. Colored noise of a level or two, which a discriminator overlooks
    beside the colors themselves, stands out here.
    """
    blur = torch.tensor([0.25, 0.5, 0.25], device=images.device, dtype=images.dtype)
    highpass = -torch.outer(blur, blur)
    highpass[1, 1] += 1
    opponent = torch.tensor(_OPPONENT, device=images.device, dtype=images.dtype)
    weight = DETAIL_GAIN * opponent[:, :, None, None] * highpass
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), weight)


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Make the layer of a norm; of none, one that does nothing.

    Example:
        >>> norm_layer("batch", 3).num_features
        3
    """
    if norm == "instance":
        return InstanceNorm2d(channels, eps=NORM_EPS, affine=False, track_running_stats=False)
    if norm == "batch":
        return nn.BatchNorm2d(channels, eps=NORM_EPS, affine=True, track_running_stats=True)
    return nn.Identity()


def initialize(module: nn.Module) -> None:
    """Draw the weights of a convolution or a batch norm as the original does; leave other modules as they are.

    Example:
        >>> norm = nn.BatchNorm2d(2)
        >>> initialize(norm)
        >>> norm.bias.tolist()
        [0.0, 0.0]
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        _draw(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        _draw(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _draw(weight: Tensor, mean: float, std: float) -> None:
    """Draw weights, unless they are a shape alone (PyTorch would load its compiler for those, which takes seconds)."""
    if not weight.is_meta:
        nn.init.normal_(weight, mean, std)
