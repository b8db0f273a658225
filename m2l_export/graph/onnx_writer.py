"""Write a deploy graph as one self-contained ONNX file.

Layers are written by :mod:`m2l_export.graph.onnx_layers`, what is around them in a modulated generator by
:mod:`m2l_export.graph.onnx_modulated`, in a ResNet generator by :mod:`m2l_export.graph.onnx_resnet`, and the rest here:
bytes, and a U-Net's skips, modulation and dropout.

Initializers have the names that PyTorch's `state_dict` has. Convolutions are called by their place in the network,
downs.0 (outermost) to ups.0, which engines and their logs then do, too; other nodes by their place and what they do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, cast

import numpy as np

from m2l_export.graph.deploy import ByteGraph, DeployUnet, Modulation, dropout_byte_count
from m2l_export.graph.modulated import DeployModulated
from m2l_export.graph.onnx_builder import BATCH, Builder, Value
from m2l_export.graph.onnx_layers import (
    FIXED_WEIGHTS,
    convolution_name,
    require_bits,
    to_array,
    unknown,
    weight_name,
    write,
    write_dropout,
)
from m2l_export.graph.onnx_modulated import write_modulated
from m2l_export.graph.onnx_resnet import write_resnet
from m2l_export.graph.resnet import DeployResnet
from m2l_export.graph.stage import Stage
from m2l_runtime._version import __version__
from m2l_runtime.bundle.schema import TensorSpec
from m2l_train.models import networks
from m2l_train.models.modulated import ModulatedSpec
from m2l_train.models.networks import UnetSpec
from m2l_train.models.resnet import ResnetSpec

__all__ = [
    "APPEARANCE",
    "BATCH",
    "DROPOUT_BITS",
    "FIXED_WEIGHTS",
    "IMAGE",
    "MASK",
    "NOISE",
    "OPSET",
    "convolution_name",
    "input_specs",
    "to_onnx",
]

OPSET: Final = 20
MASK: Final = "mask"
APPEARANCE: Final = "appearance"
DROPOUT_BITS: Final = "dropout_bits"
NOISE: Final = "noise"
IMAGE: Final = "image"


def input_specs(
    spec: UnetSpec | ModulatedSpec | ResnetSpec, image_size: tuple[int, int], stochastic: bool = False
) -> tuple[TensorSpec, ...]:
    """List the inputs of such a network's graph, in order."""
    mask = TensorSpec(name=MASK, role="mask", dtype="uint8", shape=(BATCH, *image_size))
    appearance = TensorSpec(name=APPEARANCE, role="appearance", dtype="float32", shape=(BATCH, spec.numbers))
    if isinstance(spec, ModulatedSpec):
        noise = TensorSpec(name=NOISE, role="noise", dtype="uint8", shape=(BATCH, spec.noise_count(image_size)))
        return mask, appearance, noise
    specs = (mask, appearance) if spec.appearance_rows else (mask,)
    if not stochastic:
        return specs
    byte_count = dropout_byte_count(spec, image_size)
    return (*specs, TensorSpec(name=DROPOUT_BITS, role="dropout_bits", dtype="uint8", shape=(BATCH, byte_count)))


def to_onnx(graph: ByteGraph, inputs: Sequence[TensorSpec]) -> bytes:
    """Write ONNX of `inputs`, all with the same open batch axis, to uint8 `image` (batch, H, W, 3).

    The bytes depend on the weights, the inputs and the versions of m2l and onnx alone.

    Args:
        graph: of :func:`m2l_export.graph.deploy.deploy`, in single precision or of `half_precision.to_half_precision`.
        inputs: of :func:`input_specs`, for the same network.

    Raises:
        TypeError: the graph has a module that there is no function for, or one with options that are not written.
        ValueError: the graph takes other inputs than these, or has layers that do not fit each other.
    """
    values = {spec.name: Value(spec.name, np.dtype(spec.dtype), _sides(spec)) for spec in inputs}
    required, optional = _INPUTS.get(type(graph.unet), ({MASK}, {APPEARANCE, DROPOUT_BITS}))
    if values.keys() - optional != required:
        may_have = f" and perhaps {', '.join(sorted(optional))}" if optional else ""
        raise ValueError(f"this deploy graph takes {', '.join(sorted(required))}{may_have}; got {list(values)}")
    builder = Builder()
    image = _byte_graph(builder, graph, values)
    return builder.finish("generator", list(values.values()), image, OPSET, ("m2l", __version__))


_INPUTS: Final[Mapping[type, tuple[set[str], set[str]]]] = {
    DeployModulated: ({MASK, APPEARANCE, NOISE}, set()),
    DeployResnet: ({MASK}, {DROPOUT_BITS}),
}
"""Inputs that a graph must have, and those that it may, by its class where that is no U-Net's."""


def _sides(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(side for side in spec.shape if not isinstance(side, str))


# The graph around the layers. Each function stands for the `forward`, or the function, of its name in deploy.py.


def _byte_graph(to: Builder, graph: ByteGraph, values: Mapping[str, Value]) -> Value:
    """Write uint8 masks (H, W), and what else comes in, to uint8 images (H, W, 3), with the cast ahead of all else."""
    core, mask = graph.unet, values[MASK]
    dtype = to_array(graph.convolution_weight()).dtype
    x = to.cast("mask.float", mask, dtype)
    x = to.node("Unsqueeze", "mask.plane", x, (1,), shape=(1, *mask.shape))
    x = to.node("Mul", "mask.scaled", x, 2 / 255)
    x = to.node("Sub", "mask.centered", x, 1.0)
    if type(core) is DeployModulated:
        y = write_modulated(to, core, x, values[APPEARANCE], values[NOISE])
    elif isinstance(core, DeployUnet | DeployResnet) and type(core) in (DeployUnet, DeployResnet):
        factors, dropout_bits = None, values.get(DROPOUT_BITS)
        if dropout_bits is not None:
            factors = _dropout_factors(to, to.cast("dropout.bytes", dropout_bits, dtype))
        if isinstance(core, DeployResnet):
            y = write_resnet(to, core, x, factors)
        else:
            y = _unet(to, core, x, values.get(APPEARANCE), factors)
    else:
        raise unknown(core, "unet")
    if y.dtype == np.float16:
        y = to.cast("image.float", y, np.float32)
    y = to.node("Add", "image.positive", y, 1.0)
    y = to.node("Mul", "image.scaled", y, 127.5)
    y = to.node("Round", "image.rounded", y)
    y = to.node("Clip", "image.levels", y, 0.0, 255.0)
    if y.shape[0] == 1:
        y = to.node("Concat", "image.rgb", y, y, y, shape=(3, *y.shape[1:]), axis=1)
    y = to.node("Transpose", "image.channels_last", y, shape=(*y.shape[1:], y.shape[0]), perm=[0, 2, 3, 1])
    return to.cast(IMAGE, y, np.uint8)


def _dropout_factors(to: Builder, packed: Value) -> Value:
    """Write bytes as floats (n,) to factors (8n,), 0 or 2, by operators that TensorRT has."""
    (count,) = packed.shape
    powers = to.initializer(f"dropout.powers.{packed.dtype}", np.array([2.0**-k for k in range(9)], packed.dtype))
    x = to.node("Unsqueeze", "dropout.columns", packed, (2,), shape=(count, 1))
    x = to.node("Mul", "dropout.shifted", x, powers, shape=(count, 9))
    x = to.node("Floor", "dropout.floor", x)
    from_bit = to.node("Slice", "dropout.from_bit", x, (0,), (8,), (2,), shape=(count, 8))
    from_bit = to.node("Mul", "dropout.from_bit.scaled", from_bit, 2.0)
    from_next = to.node("Slice", "dropout.from_next", x, (1,), (9,), (2,), shape=(count, 8))
    from_next = to.node("Mul", "dropout.from_next.scaled", from_next, 4.0)
    x = to.node("Sub", "dropout.by_byte", from_bit, from_next)
    return to.node("Reshape", "dropout.factors", x, (-1, 8 * count), shape=(8 * count,))


def _unet(to: Builder, unet: DeployUnet, x: Value, appearance: Value | None, factors: Value | None) -> Value:
    """Write masks (1, H, W) in [-1, 1] to images (C, H, W) in [-1, 1]."""
    modulation = unet.modulation
    if (modulation is None) != (appearance is None):
        raise ValueError(f"the network takes {'no' if modulation is None else 'an'} appearance, contrary to the inputs")
    by_stage: list[tuple[Value, Value] | None] = [None] * len(unet.ups)
    if modulation is not None and appearance is not None:
        if type(modulation) is not Modulation:
            raise unknown(modulation, "unet.modulation")
        by_stage[1:] = _modulation(to, modulation, "unet.modulation", appearance)
    skips: list[Value] = []
    for level, down in enumerate(unet.downs):
        if level:
            skips.append(x)
            x = to.node("LeakyRelu", f"downs.{level}.leaky_relu", x, alpha=networks.LEAKY_RELU_SLOPE)
        x = write(to, down, f"unet.downs.{level}", x)
    used = 0
    for level, up in reversed(list(enumerate(unet.ups))):
        place = f"ups.{level}"
        x = write(to, up, f"unet.{place}", to.node("Relu", f"{place}.relu", x))
        of_stage = by_stage[level]
        if of_stage is not None:
            scale, shift = (to.cast(f"{one.name}.{x.dtype}", one, x.dtype) for one in of_stage)
            x = to.node("Mul", f"{place}.scaled", x, scale)
            x = to.node("Add", f"{place}.shifted", x, shift)
        if cast(Stage, up).drops:
            begin, used = used, used + math.prod(x.shape)
            if factors is not None:
                x = write_dropout(to, place, x, factors, begin)
        if skips:
            skip = skips.pop()
            channels = skip.shape[0] + x.shape[0]
            x = to.node("Concat", f"{place}.beside_skip", skip, x, shape=(channels, *x.shape[1:]), axis=1)
    require_bits(factors, used)
    return to.node("Tanh", "image.tanh", x)


def _modulation(to: Builder, module: Modulation, name: str, appearance: Value) -> list[tuple[Value, Value]]:
    """Write an appearance (12,) to (scale, shift), each (C, 1, 1), for each upsampling stage from the second on."""
    x = to.node("Sub", "modulation.centered", appearance, weight_name(to, f"{name}.mean", module.mean))
    x = to.node("Div", "modulation.scaled", x, weight_name(to, f"{name}.std", module.std))
    x = write(to, module.hidden, f"{name}.hidden", x)
    x = write(to, module.out, f"{name}.out", x)
    x = to.node("Unsqueeze", "modulation.planes", x, (2, 3), shape=(*x.shape, 1, 1))
    parts = to.split("modulation.parts", x, module.sizes)
    return list(zip(parts[::2], parts[1::2], strict=True))
