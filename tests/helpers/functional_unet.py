"""The U-Net generator of pytorch-CycleGAN-and-pix2pix as functions of its state_dict: an oracle.

Written from its description (layers, order, activations that work in place), not from our modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def original_generator(
    state: Mapping[str, Tensor],
    x: Tensor,
    levels: int,
    *,
    batch_norm: Literal["batch", "running"] = "running",
    eps: float = 1e-5,
) -> Tensor:
    """`x` (B, C, H, W) to (B, C', H, W), without dropout; `batch_norm` says which statistics one uses."""

    def norm(y: Tensor, key: str, has_bias: bool) -> Tensor:
        if f"{key}.weight" in state:
            scale, shift = state[f"{key}.weight"], state[f"{key}.bias"]
            if batch_norm == "running":
                mean, var = state[f"{key}.running_mean"], state[f"{key}.running_var"]
            else:
                mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
            column = (1, -1, 1, 1)
            y = (y - mean.view(column)) / torch.sqrt(var.view(column) + eps)
            return y * scale.view(column) + shift.view(column)
        if not has_bias:  # no norm at all
            return y
        mean, var = y.mean((2, 3), keepdim=True), y.var((2, 3), unbiased=False, keepdim=True)
        return (y - mean) / torch.sqrt(var + eps)

    def block(x: Tensor, prefix: str, level: int) -> Tensor:
        outermost, innermost = level == 0, level == levels - 1
        down = f"{prefix}.{0 if outermost else 1}"
        has_bias = f"{down}.bias" in state
        if not outermost:
            x = torch.where(x > 0, x, 0.2 * x)  # in place: the skip carries it too
        y = F.conv2d(x, state[f"{down}.weight"], state.get(f"{down}.bias"), stride=2, padding=1)
        if not outermost and not innermost:
            y = norm(y, f"{prefix}.2", has_bias)
        if not innermost:
            y = block(y, f"{prefix}.{1 if outermost else 3}.model", level + 1)
        up = f"{prefix}.{3 if outermost or innermost else 5}"
        y = F.conv_transpose2d(
            torch.clamp(y, min=0), state[f"{up}.weight"], state.get(f"{up}.bias"), stride=2, padding=1
        )
        if outermost:
            return torch.tanh(y)
        y = norm(y, f"{prefix}.{4 if innermost else 6}", has_bias)
        return torch.cat([x, y], 1)

    return block(x, "model.model", 0)
