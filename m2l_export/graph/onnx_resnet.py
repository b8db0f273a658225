"""Write the core of a ResNet generator as ONNX.

Each function stands for the `forward` of the class in :mod:`m2l_export.graph.resnet` that it is named after.
"""

from __future__ import annotations

import math

from m2l_export.graph.onnx_builder import Builder, Value
from m2l_export.graph.onnx_layers import require_bits, unknown, write, write_dropout
from m2l_export.graph.resnet import DeployBlock, DeployResnet


def write_resnet(to: Builder, core: DeployResnet, x: Value, factors: Value | None) -> Value:
    """Write masks (1, H, W) in [-1, 1], and factors of dropout (n,), to images (C, H, W) in [-1, 1].

    Raises:
        ValueError: there are more or fewer factors than values that dropout acts on.
    """
    for number, down in enumerate(core.downs):
        x = to.node("Relu", f"downs.{number}.relu", write(to, down, f"unet.downs.{number}", x))
    used = 0
    for number, block in enumerate(core.blocks):
        if type(block) is not DeployBlock:
            raise unknown(block, f"unet.blocks.{number}")
        x = _block(to, block, f"blocks.{number}", x, factors, used)
        used += math.prod(x.shape) if block.first.drops else 0
    require_bits(factors, used)
    for number, up in enumerate(core.ups):
        x = to.node("Relu", f"ups.{number}.relu", write(to, up, f"unet.ups.{number}", x))
    return to.node("Tanh", "image.tanh", write(to, core.head, "unet.head", x))


def _block(to: Builder, block: DeployBlock, place: str, x: Value, factors: Value | None, begin: int) -> Value:
    y = to.node("Relu", f"{place}.relu", write(to, block.first, f"unet.{place}.first", x))
    if block.first.drops and factors is not None:
        y = write_dropout(to, place, y, factors, begin)
    return to.node("Add", f"{place}.sum", x, write(to, block.second, f"unet.{place}.second", y))
