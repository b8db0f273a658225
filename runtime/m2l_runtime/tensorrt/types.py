"""What a convolution computes in, by m2l's names and by TensorRT's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from m2l_runtime.bundle import ConvolutionArithmetic

LayerType = ConvolutionArithmetic

TYPES: Final[dict[str, LayerType]] = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8"}


@dataclass(frozen=True)
class ConvolutionType:
    """A convolution, and what it computes in."""

    name: str
    type: LayerType
