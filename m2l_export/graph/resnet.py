"""Turn a trained ResNet generator into the core of the graph that is shipped: the same layers, as lists of stages.

The rewrites of :mod:`m2l_export.graph.deploy` then act on its stages as on those of a U-Net.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2l_export.graph.stage import Stage
from m2l_train.models.resnet import ResnetBlock, ResnetGenerator


class DeployBlock(nn.Module):
    """Add what two stages make of features to these: (B, C, H, W) to the same."""

    def __init__(self, first: Stage, second: Stage) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, factors: Tensor | None = None) -> Tensor:
        """See the class; `factors` (B, C * H * W) multiply what goes from the first stage to the second."""
        y = F.relu(self.first(x))
        if factors is not None:
            y = y * factors.reshape(y.shape)
        z: Tensor = x + self.second(y)
        return z


class DeployResnet(nn.Module):
    """Run the generator as lists of stages: (B, C, H, W) in [-1, 1] to (B, C', H, W) in [-1, 1]."""

    def __init__(
        self, downs: Sequence[Stage], blocks: Sequence[DeployBlock], ups: Sequence[Stage], head: Stage
    ) -> None:
        super().__init__()
        self.downs, self.blocks, self.ups = nn.ModuleList(downs), nn.ModuleList(blocks), nn.ModuleList(ups)
        self.head = head

    def forward(self, x: Tensor, appearance: None = None, factors: Tensor | None = None) -> Tensor:
        """Run all stages.

        Args:
            x: masks (B, C, H, W) in [-1, 1].
            appearance: None.
            factors: (B, n), by which features are multiplied where dropout acts, block after block.
        """
        for down in self.downs:
            x = F.relu(down(x))
        parts = [None] * len(self.blocks) if factors is None else factors.chunk(len(self.blocks), 1)
        for block, part in zip(self.blocks, parts, strict=True):
            x = block(x, part if cast(DeployBlock, block).first.drops else None)
        for up in self.ups:
            x = F.relu(up(x))
        return torch.tanh(self.head(x))


def flatten_resnet(network: ResnetGenerator, stochastic: bool = False) -> DeployResnet:
    """Copy the layers in their order, each with the reflection before it and the norm after it.

    Dropout is left out, as in evaluation mode. If `stochastic`, it stays, and its factors are an input.
    """
    copied = copy.deepcopy(network).eval()
    drops = stochastic and network.spec.dropout
    groups = _groups(copied.model)
    begin = next(place for place, group in enumerate(groups) if isinstance(group[0], ResnetBlock))
    end = begin + network.spec.blocks
    blocks = []
    for (block,) in groups[begin:end]:
        first, second = _groups(cast(ResnetBlock, block).conv_block)
        blocks.append(DeployBlock(_stage(first, drops), _stage(second)))
    downs, ups = ([_stage(group) for group in part] for part in (groups[:begin], groups[end:]))
    return DeployResnet(downs, blocks, ups[:-1], ups[-1])


def _groups(layers: nn.Sequential) -> list[list[nn.Module]]:
    """Divide layers into groups: each block alone, and each convolution with the reflection and the norm around it."""
    groups: list[list[nn.Module]] = []
    before: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.ReflectionPad2d):
            before = [layer]
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | ResnetBlock):
            groups.append([*before, layer])
            before = []
        elif isinstance(layer, nn.BatchNorm2d | nn.InstanceNorm2d):
            groups[-1].append(layer)
    return groups


def _stage(group: list[nn.Module], drops: bool = False) -> Stage:
    """Make a stage of an optional reflection, a convolution and an optional norm."""
    padding = 0
    if isinstance(group[0], nn.ReflectionPad2d):
        padding, group = group[0].padding[0], group[1:]
    layer = group[0]
    if padding:
        assert isinstance(layer, nn.Conv2d)  # noqa: S101 - only these are reflected around
        reflected = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            cast(tuple[int, int], layer.kernel_size),
            padding=padding,
            padding_mode="reflect",
            bias=layer.bias is not None,
        )
        reflected.weight, reflected.bias = layer.weight, layer.bias
        layer = reflected
    return Stage(layer, group[1] if len(group) > 1 else None, drops)
