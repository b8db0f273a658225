"""A deploy graph to the same graph in half precision, for engines that compute in the types that a graph names."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from m2l_export.graph.deploy import ByteGraph, DeployUnet, Stage
from m2l_export.graph.fp16_weights import MAX_FP16
from m2l_runtime.errors import CheckpointError


class Fp32Norm(nn.Module):
    """A norm that takes and gives half precision and computes in single: (B, C, H, W) to the same.

    A variance near zero, as in black masks, is below what half precision tells from zero: the smallest normal number is
    6e-5, an instance norm's epsilon 1e-5.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.norm(x.float())
        return y.to(x.dtype)


class EmulatedHalf(nn.Module):
    """A convolution in half precision that multiplies and adds up in single, then rounds: (B, C, H, W) to the same.

    Products of halves are exact in single precision, in which cuDNN has tensor cores add them up unless it is told
    otherwise.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        weights = {name: weight.float() for name, weight in self.layer.named_parameters()}
        y: Tensor = functional_call(self.layer, weights, (x.float(),))
        return y.half()


def to_half_precision(graph: ByteGraph, fp32_norms: bool = True) -> ByteGraph:
    """The graph with convolutions, activations and skips in half precision.

    What an appearance does is computed in single precision and rounded where it is applied; so are bytes.

    Args:
        graph: in single precision. It is left as it was.
        fp32_norms: see :class:`Fp32Norm`; otherwise norms are in half precision, too.

    Raises:
        CheckpointError: a weight is beyond half precision's range (65,504).
    """
    made = copy.deepcopy(graph)
    unet = cast(DeployUnet, made.unet)
    for stage in (*unet.downs, *unet.ups):
        one = cast(Stage, stage)
        for name, weight in one.named_parameters():
            largest = float(weight.detach().abs().amax())
            if not largest <= MAX_FP16:
                raise CheckpointError(
                    f"has weights of up to {largest:.3g} ({name}), which half precision cannot hold (at most "
                    f"{MAX_FP16:,.0f}); leave it in single precision"
                )
        one.layer.half()
        if one.norm is None:
            continue
        one.norm = Fp32Norm(one.norm) if fp32_norms else one.norm.half()
    return made


def emulate_half_precision(graph: ByteGraph) -> ByteGraph:
    """A graph of :func:`to_half_precision`, computed with the same rounding after every operator, but quickly on a CPU.

    PyTorch's own convolutions of halves take many times as long where a CPU has no instructions for them.
    """
    made = copy.deepcopy(graph)
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d | nn.ConvTranspose2d) and child.weight.dtype == torch.half:
                setattr(module, name, EmulatedHalf(child))
    return made
