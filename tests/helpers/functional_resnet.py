"""The ResNet generator of pytorch-CycleGAN-and-pix2pix as functions of its state_dict: an oracle.

Written from its description (layers, order, padding), not from our modules: reflections by indices, transposed
convolutions as convolutions of an input with zeros in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def reflected(x: Tensor, by: int) -> Tensor:
    """(B, C, H, W) to (B, C, H + 2 by, W + 2 by), mirrored at the middle of the outermost rows and columns."""
    for axis in (2, 3):
        last = x.shape[axis] - 1
        places = [last - abs(last - abs(place)) for place in range(-by, last + by + 1)]
        x = x.index_select(axis, torch.tensor(places))
    return x


def doubled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A transposed convolution of 3x3, stride 2, padding 1 and one more row and column: (B, C', 2H, 2W)."""
    batch, channels, height, width = x.shape
    spread = x.new_zeros(batch, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = x
    return F.conv2d(spread, weight.flip(2, 3).transpose(0, 1), bias, padding=1)


def original_resnet(
    state: Mapping[str, Tensor],
    x: Tensor,
    blocks: int,
    *,
    batch_norm: Literal["batch", "running"] = "running",
    eps: float = 1e-5,
    kept: Sequence[Tensor] = (),
) -> Tensor:
    """`x` (B, C, H, W) to (B, C', H, W). `kept`, of ones and zeros for each block, says what dropout keeps."""
    has_bias = "model.1.bias" in state

    def norm(y: Tensor, key: str) -> Tensor:
        column = (1, -1, 1, 1)
        if f"{key}.weight" in state:
            if batch_norm == "running":
                mean, var = state[f"{key}.running_mean"].view(column), state[f"{key}.running_var"].view(column)
            else:
                mean, var = y.mean((0, 2, 3)).view(column), y.var((0, 2, 3), unbiased=False).view(column)
            y = (y - mean) / torch.sqrt(var + eps)
            return y * state[f"{key}.weight"].view(column) + state[f"{key}.bias"].view(column)
        if not has_bias:  # no norm at all
            return y
        mean, var = y.mean((2, 3), keepdim=True), y.var((2, 3), unbiased=False, keepdim=True)
        return (y - mean) / torch.sqrt(var + eps)

    def weights(key: str) -> tuple[Tensor, Tensor | None]:
        return state[f"{key}.weight"], state.get(f"{key}.bias")

    def positive(y: Tensor) -> Tensor:
        return torch.clamp(y, min=0)

    x = positive(norm(F.conv2d(reflected(x, 3), *weights("model.1")), "model.2"))
    for place in (4, 7):
        x = positive(norm(F.conv2d(x, *weights(f"model.{place}"), stride=2, padding=1), f"model.{place + 1}"))
    for number in range(blocks):
        key = f"model.{10 + number}.conv_block"
        second = 6 if f"{key}.6.weight" in state and state[f"{key}.6.weight"].ndim == 4 else 5
        y = positive(norm(F.conv2d(reflected(x, 1), *weights(f"{key}.1")), f"{key}.2"))
        if kept:
            y = y * kept[number] * 2
        x = x + norm(F.conv2d(reflected(y, 1), *weights(f"{key}.{second}")), f"{key}.{second + 1}")
    for place in (10 + blocks, 13 + blocks):
        x = positive(norm(doubled(x, *weights(f"model.{place}")), f"model.{place + 1}"))
    return torch.tanh(F.conv2d(reflected(x, 3), *weights(f"model.{17 + blocks}")))
