"""Turn a trained modulated generator into the core of the graph that is shipped.

Each step is exact in real arithmetic:

- What normalizes outputs depends on the appearance alone, so squares of weights are added up once.
- What normalizes a layer and what scales the inputs of the next one are one factor, because only repeating of pixels,
  which moves nothing between channels, is between them.
- The scaling of noise from bytes is part of its weights, once the mean is subtracted.
- The matrix from Cb, Cr to what they add to red, green and blue is part of the convolution that draws them, because it
  is linear as smoothing and enlarging are. Luma is then added to all three channels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2l_train.models.modulated import (
    DEMODULATION_EPS,
    GAIN,
    LUMA_PHASES,
    MAX_DEVIATIONS,
    NOISE_DEVIATION,
    NOISE_MEAN,
    YCBCR_TO_RGB,
    ModulatedConv2d,
    ModulatedGenerator,
    ModulatedSpec,
    filter_luma,
    smooth,
)
from m2l_train.models.networks import LEAKY_RELU_SLOPE

HEAD_PARTS: Final = (1, 3, LUMA_PHASES)
"""Channels of the head: luma; what red, green and blue add to it, each by chroma; the phases of luma."""


class Factors(nn.Module):
    """Compute the scales of a layer's inputs (B, C) and outputs (B, C') from (B, hidden)."""

    def __init__(self, source: ModulatedConv2d) -> None:
        super().__init__()
        self.style = copy.deepcopy(source.style)
        self.style.bias = nn.Parameter(self.style.bias.detach() + 1)
        weight = source.weight.detach()
        self.power = nn.Linear(weight.shape[1], weight.shape[0])
        gain = 1 / GAIN**2
        self.power.weight = nn.Parameter(weight.square().sum((2, 3)) * gain)
        self.power.bias = nn.Parameter((source.constant_power().detach() + DEMODULATION_EPS) * gain)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        scale = self.style(hidden)
        return scale, 1 / torch.sqrt(self.power(scale * scale))


class ModulatedStage(nn.Module):
    """Apply one convolution of the decoder, beside features of the mask and noise, and activate."""

    def __init__(self, source: ModulatedConv2d) -> None:
        super().__init__()
        self.factors = Factors(source)
        self.layer = _convolution(source.weight, source.bias)
        self.noise = _convolution(source.noise_weight / NOISE_DEVIATION)
        self.skip = None if source.skip_weight is None else _convolution(source.skip_weight)

    def forward(self, x: Tensor, skip: Tensor | None, noise: Tensor) -> Tensor:
        """Map (B, C, H, W), scaled, to (B, C', H, W), not yet normalized; `noise` (B, 1, H, W) is of bytes around 0."""
        y = self.noise(noise)
        if self.skip is not None:
            y = self.skip(skip) + y
        return F.leaky_relu(self.layer(x) + y, LEAKY_RELU_SLOPE)


def _convolution(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, 1, 1, bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


class Numbers(nn.Module):
    """Map appearances (B, numbers) to (B, hidden)."""

    def __init__(self, source: ModulatedGenerator) -> None:
        super().__init__()
        self.register_buffer("mean", source.mean.clone())
        self.register_buffer("std", source.std.clone())
        self.mean: Tensor
        self.std: Tensor
        self.mlp = copy.deepcopy(source.mlp)

    def forward(self, appearance: Tensor) -> Tensor:
        """See the class."""
        hidden: Tensor = self.mlp(((appearance - self.mean) / self.std).clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS))
        return hidden


class DeployModulated(nn.Module):
    """Run the generator as lists of stages: (B, 1, H, W) in [-1, 1] to (B, 3, H, W), in [-1, 1] once it is clipped."""

    def __init__(self, network: ModulatedGenerator) -> None:
        super().__init__()
        network = copy.deepcopy(network).eval()
        self.spec: ModulatedSpec = network.spec
        self.numbers = Numbers(network)
        self.downs = network.downs
        self.ups = nn.ModuleList(ModulatedStage(layer) for _, _, layer in network.places())
        matrix, head = network.head.weight.new_tensor(YCBCR_TO_RGB), network.head
        weight, bias = head.weight.detach().clone(), cast(Tensor, head.bias).detach().clone()
        offset = matrix[:, 1:]  # of red, green and blue from luma, by chroma
        chroma = torch.einsum("rc,cikl->rikl", offset, weight[1:3])
        weight = torch.cat([weight[:1], chroma, weight[3:]])
        bias = torch.cat([bias[:1], offset @ bias[1:3], bias[3:]])
        self.head = _convolution(weight, bias)

    def stages(self) -> Iterator[tuple[int, int, ModulatedStage]]:
        """Yield (place of the side from the innermost, number at that side, stage)."""
        for index, stage in enumerate(self.ups):
            yield index // 2, index % 2, cast(ModulatedStage, stage)

    def forward(self, x: Tensor, appearance: Tensor, noise: Tensor) -> Tensor:
        """See the class; `noise` (B, n) is of bytes as floats of the type of `x`."""
        hidden = self.numbers(appearance)
        factors = [stage.factors(hidden) for _, _, stage in self.stages()]
        sides = self.spec.noise_sides((x.shape[2], x.shape[3]))
        parts = torch.split(noise - NOISE_MEAN, [math.prod(side) for side in sides], 1)
        planes = [part.reshape(-1, 1, *side) for part, side in zip(parts, sides, strict=True)]
        features = []
        for down in self.downs:
            x = F.leaky_relu(down(x), LEAKY_RELU_SLOPE)
            features.append(x)
        normalizing: Tensor | None = None
        for (place, number, stage), plane, (scale, after) in zip(self.stages(), planes, factors, strict=True):
            by = scale if normalizing is None else normalizing * scale
            x = x * by[:, :, None, None].to(x.dtype)
            if place and number:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = stage(x, features[-1 - place] if place and number else None, plane)
            normalizing = after
        assert normalizing is not None  # noqa: S101 - there is a stage
        luma, offset, phases = self.head(x * normalizing[:, :, None, None].to(x.dtype)).split(HEAD_PARTS, 1)
        smoothed = smooth(offset, self.spec.chroma_passes)
        color = F.interpolate(luma + smoothed, scale_factor=2.0, mode="bilinear", align_corners=False)
        return color + F.pixel_shuffle(filter_luma(luma, phases, self.spec.sharpening), 2)
