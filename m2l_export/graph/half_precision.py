"""Convert a deploy graph to half precision, for engines that compute in the types that a graph names."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from m2l_export.graph.deploy import ByteGraph
from m2l_export.graph.fp16_weights import MAX_FP16
from m2l_export.graph.modulated import DeployModulated
from m2l_export.graph.stage import Stage
from m2l_runtime.errors import CheckpointError


class Fp32Norm(nn.Module):
    """Compute a norm in single precision, with input and output in half precision, (B, C, H, W).

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
    """Compute a convolution of half precision in single precision, and round the output: (B, C, H, W) to the same.

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


class EmulatedBfloat16(nn.Module):
    """Compute a convolution as in bfloat16: inputs, weights and outputs rounded, sums and biases in single precision.

    Maps (B, C, H, W) in single precision to the same. Products of two bfloat16 are exact in single precision, in which
    CPUs with such instructions add them up.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        parameters = {
            name: _as_bfloat16(one) if name == "weight" else one for name, one in self.layer.named_parameters()
        }
        y: Tensor = functional_call(self.layer, parameters, (_as_bfloat16(x),))
        return _as_bfloat16(y)


def _as_bfloat16(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def emulate_bfloat16(graph: ByteGraph) -> ByteGraph:
    """Emulate the convolutions of a graph in single precision as in bfloat16, on a CPU that has no such instructions.

    Args:
        graph: in single precision. It is left as it was.
    """
    return _replace_convolutions(graph, torch.float32, EmulatedBfloat16)


def _replace_convolutions(graph: ByteGraph, dtype: torch.dtype, by: Callable[[nn.Module], nn.Module]) -> ByteGraph:
    converted = copy.deepcopy(graph)
    for module in list(converted.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d | nn.ConvTranspose2d) and child.weight.dtype == dtype:
                setattr(module, name, by(child))
    return converted


def to_half_precision(graph: ByteGraph, fp32_norms: bool = True) -> ByteGraph:
    """Convert convolutions, activations and skips to half precision.

    The modulation by appearances is computed in single precision and rounded where it is applied. So are bytes.

    Args:
        graph: in single precision. It is left as it was.
        fp32_norms: see :class:`Fp32Norm`; otherwise norms are in half precision, too.

    Raises:
        CheckpointError: a weight is beyond half precision's range (65,504).
    """
    converted = copy.deepcopy(graph)
    if isinstance(converted.unet, DeployModulated):
        for module in converted.unet.modules():
            if isinstance(module, nn.Conv2d):
                _require_in_range(module)
                module.half()
        return converted
    for one in [module for module in converted.unet.modules() if isinstance(module, Stage)]:
        _require_in_range(one)
        one.layer.half()
        if one.norm is None:
            continue
        one.norm = Fp32Norm(one.norm) if fp32_norms else one.norm.half()
    return converted


def _require_in_range(module: nn.Module) -> None:
    for name, weight in module.named_parameters():
        largest = float(weight.detach().abs().amax())
        if not largest <= MAX_FP16:
            raise CheckpointError(
                f"has weights of up to {largest:.3g} ({name}), which half precision cannot hold (at most "
                f"{MAX_FP16:,.0f}); leave it in single precision"
            )


def emulate_half_precision(graph: ByteGraph) -> ByteGraph:
    """Emulate a graph of :func:`to_half_precision` quickly on a CPU, with the same rounding after every operator.

    PyTorch's own convolutions of halves take many times as long where a CPU has no instructions for them.
    """
    return _replace_convolutions(graph, torch.half, EmulatedHalf)
