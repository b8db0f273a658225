"""Write a deploy graph as one self-contained ONNX file.

Each kind of module has one function here, which adds to the file what the module's `forward` computes; a new kind of
layer is one more function under `_writes`. A module of any other class is an error: its subclass may compute something
else, so classes are compared exactly.

Initializers have the names that PyTorch's `state_dict` has. Convolutions are called by their place in the network,
downs.0 (outermost) to ups.0, which engines and their logs then do, too; other nodes by their place and what they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from m2l_export.graph.deploy import (
    ByteGraph,
    DeployUnet,
    Modulation,
    RepeatedConv2d,
    Stage,
    SubPixelConv2d,
    dropout_byte_count,
)
from m2l_export.graph.half_precision import Fp32Norm
from m2l_export.graph.onnx_builder import BATCH, Builder, Value
from m2l_runtime._version import __version__
from m2l_runtime.bundle.schema import TensorSpec
from m2l_train.models import networks
from m2l_train.models.networks import APPEARANCE_SIZE, UnetSpec

__all__ = [
    "APPEARANCE",
    "BATCH",
    "DROPOUT_BITS",
    "IMAGE",
    "MASK",
    "OPSET",
    "convolution_name",
    "input_specs",
    "to_onnx",
]

OPSET: Final = 20
MASK: Final = "mask"
APPEARANCE: Final = "appearance"
DROPOUT_BITS: Final = "dropout_bits"
IMAGE: Final = "image"

_Writer = Callable[[Builder, Any, str, Value], Value]
_WRITERS: Final[dict[type[nn.Module], _Writer]] = {}
"""By class of module: takes the module, its name in `state_dict` and its input, and gives its output."""


def input_specs(spec: UnetSpec, image_size: tuple[int, int], stochastic: bool = False) -> tuple[TensorSpec, ...]:
    """List the inputs of such a network's graph, in order."""
    mask = TensorSpec(name=MASK, role="mask", dtype="uint8", shape=(BATCH, *image_size))
    appearance = TensorSpec(name=APPEARANCE, role="appearance", dtype="float32", shape=(BATCH, APPEARANCE_SIZE))
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
    if (values.keys() - {APPEARANCE, DROPOUT_BITS}) != {MASK}:
        raise ValueError(f"a deploy graph takes {MASK} and perhaps {APPEARANCE}, {DROPOUT_BITS}; got {list(values)}")
    builder = Builder()
    image = _byte_graph(builder, graph, values[MASK], values.get(APPEARANCE), values.get(DROPOUT_BITS))
    return builder.finish("generator", list(values.values()), image, OPSET, ("m2l", __version__))


def convolution_name(weight: str) -> str:
    """Find a convolution's place in the network by the name of its weights, such as unet.downs.0.layer.weight."""
    return ".".join(part for part in weight.split(".") if part in ("downs", "ups") or part.isdecimal())


def _sides(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(side for side in spec.shape if not isinstance(side, str))


# The graph around the layers. Each function stands for the `forward`, or the function, of its name in deploy.py.


def _byte_graph(
    to: Builder, graph: ByteGraph, mask: Value, appearance: Value | None, dropout_bits: Value | None
) -> Value:
    """Write uint8 masks (H, W) to uint8 images (H, W, 3), with the cast ahead of all else."""
    unet = graph.unet
    if type(unet) is not DeployUnet:
        raise _unknown(unet, "unet")
    dtype = _array(next(graph.parameters())).dtype
    x = to.cast("mask.float", mask, dtype)
    x = to.node("Unsqueeze", "mask.plane", x, (1,), shape=(1, *mask.shape))
    x = to.node("Mul", "mask.scaled", x, 2 / 255)
    x = to.node("Sub", "mask.centered", x, 1.0)
    factors = None
    if dropout_bits is not None:
        factors = _dropout_factors(to, to.cast("dropout.bytes", dropout_bits, dtype))
    y = _unet(to, unet, x, appearance, factors)
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
            raise _unknown(modulation, "unet.modulation")
        by_stage[1:] = _modulation(to, modulation, "unet.modulation", appearance)
    skips: list[Value] = []
    for level, down in enumerate(unet.downs):
        if level:
            skips.append(x)
            x = to.node("LeakyRelu", f"downs.{level}.leaky_relu", x, alpha=networks.LEAKY_RELU_SLOPE)
        x = _write(to, down, f"unet.downs.{level}", x)
    used = 0
    for level, up in reversed(list(enumerate(unet.ups))):
        place = f"ups.{level}"
        x = _write(to, up, f"unet.{place}", to.node("Relu", f"{place}.relu", x))
        of_stage = by_stage[level]
        if of_stage is not None:
            scale, shift = (to.cast(f"{one.name}.{x.dtype}", one, x.dtype) for one in of_stage)
            x = to.node("Mul", f"{place}.scaled", x, scale)
            x = to.node("Add", f"{place}.shifted", x, shift)
        if cast(Stage, up).drops:
            begin, used = used, used + math.prod(x.shape)
            if factors is not None:
                x = _dropout(to, place, x, factors, begin)
        if skips:
            skip = skips.pop()
            channels = skip.shape[0] + x.shape[0]
            x = to.node("Concat", f"{place}.beside_skip", skip, x, shape=(channels, *x.shape[1:]), axis=1)
    bits = 0 if factors is None else factors.shape[0]
    if bits != used:
        raise ValueError(f"dropout acts on {used:,} values of the network, and the inputs have {bits:,} bits")
    return to.node("Tanh", "image.tanh", x)


def _dropout(to: Builder, place: str, x: Value, factors: Value, begin: int) -> Value:
    """Write (C, H, W) times as many of the factors, from `begin` on."""
    end = begin + math.prod(x.shape)
    if (begin, end) != (0, *factors.shape):
        factors = to.node("Slice", f"{place}.kept", factors, (begin,), (end,), (1,), shape=(end - begin,))
    factors = to.node("Reshape", f"{place}.factors", factors, (-1, *x.shape), shape=x.shape)
    return to.node("Mul", f"{place}.dropped", x, factors)


def _modulation(to: Builder, module: Modulation, name: str, appearance: Value) -> list[tuple[Value, Value]]:
    """Write an appearance (12,) to (scale, shift), each (C, 1, 1), for each upsampling stage from the second on."""
    x = to.node("Sub", "modulation.centered", appearance, _weight(to, f"{name}.mean", module.mean))
    x = to.node("Div", "modulation.scaled", x, _weight(to, f"{name}.std", module.std))
    x = _write(to, module.hidden, f"{name}.hidden", x)
    x = _write(to, module.out, f"{name}.out", x)
    x = to.node("Unsqueeze", "modulation.planes", x, (2, 3), shape=(*x.shape, 1, 1))
    parts = to.split("modulation.parts", x, module.sizes)
    return list(zip(parts[::2], parts[1::2], strict=True))


# The layers.


def _write(to: Builder, module: nn.Module, name: str, x: Value) -> Value:
    """Write a module by the function for its class.

    Raises:
        TypeError: there is none.
    """
    writer = _WRITERS.get(type(module))
    if writer is None:
        raise _unknown(module, name)
    return writer(to, module, name, x)


def _unknown(module: nn.Module, name: str) -> TypeError:
    kind = type(module)
    known = ", ".join(one.__name__ for one in (DeployUnet, Modulation, *_WRITERS))
    return TypeError(
        f"{name} is of class {kind.__module__}.{kind.__qualname__}, which is not written as ONNX; "
        f"m2l_export.graph.onnx_writer has functions for {known}"
    )


def _writes(*kinds: type[nn.Module]) -> Callable[[_Writer], _Writer]:
    """Register a function for modules of these classes."""

    def register(writer: _Writer) -> _Writer:
        _WRITERS.update(dict.fromkeys(kinds, writer))
        return writer

    return register


@_writes(Stage)
def _stage(to: Builder, module: Stage, name: str, x: Value) -> Value:
    x = _write(to, module.layer, f"{name}.layer", x)
    return x if module.norm is None else _write(to, module.norm, f"{name}.norm", x)


@_writes(nn.Conv2d)
def _convolution(to: Builder, module: nn.Conv2d, name: str, x: Value) -> Value:
    sides = [
        (side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for side, pad, dilation, kernel, stride in zip(x.shape[1:], *_geometry(module, name), strict=True)
    ]
    return _convolve(to, "Conv", module, name, x, sides)


@_writes(nn.ConvTranspose2d)
def _transposed_convolution(to: Builder, module: nn.ConvTranspose2d, name: str, x: Value) -> Value:
    sides = [
        (side - 1) * stride - 2 * pad + dilation * (kernel - 1) + 1
        for side, pad, dilation, kernel, stride in zip(x.shape[1:], *_geometry(module, name), strict=True)
    ]
    return _convolve(to, "ConvTranspose", module, name, x, sides)


@_writes(RepeatedConv2d)
def _repeated_convolution(to: Builder, module: RepeatedConv2d, name: str, x: Value) -> Value:
    scales = to.initializer("repeat.scales", np.array([1, 1, 2, 2], np.float32))
    channels, height, width = x.shape
    x = to.node(
        "Resize",
        f"{convolution_name(name)}.repeat",
        x,
        "",
        scales,
        shape=(channels, 2 * height, 2 * width),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return _convolution(to, module, name, x)


@_writes(SubPixelConv2d)
def _sub_pixel_convolution(to: Builder, module: SubPixelConv2d, name: str, x: Value) -> Value:
    place = convolution_name(name)
    x = _write(to, module.conv, f"{name}.conv", x)
    channels, height, width = x.shape[0] // 4, 2 * x.shape[1], 2 * x.shape[2]
    full = (channels, height, width)
    x = to.node("DepthToSpace", f"{place}.depth_to_space", x, shape=full, blocksize=2, mode="CRD")
    # As two operators: in one, onnxruntime's CPU rounds halves elsewhere, and is no faster.
    x = to.node("Slice", f"{place}.rows", x, (1,), (-1,), (2,), shape=(channels, height - 2, width))
    return to.node("Slice", f"{place}.columns", x, (1,), (-1,), (3,), shape=(channels, height - 2, width - 2))


@_writes(nn.InstanceNorm2d)
def _instance_norm(to: Builder, module: nn.InstanceNorm2d, name: str, x: Value) -> Value:
    if module.track_running_stats:
        raise TypeError(f"{name} normalizes by running statistics, which is not written as an InstanceNormalization")
    if module.affine:
        scale, shift = _weight(to, f"{name}.weight", module.weight), _weight(to, f"{name}.bias", module.bias)
    else:
        (channels,), end = x.shape[:1], f"{x.dtype}.{x.shape[0]}"
        scale = to.initializer(f"norm.ones.{end}", np.ones(channels, x.dtype))
        shift = to.initializer(f"norm.zeros.{end}", np.zeros(channels, x.dtype))
    place = f"{convolution_name(name)}.norm"
    return to.node("InstanceNormalization", place, x, scale, shift, epsilon=module.eps)


@_writes(networks.InstanceNorm2d)
def _instance_norm_of_training(to: Builder, module: networks.InstanceNorm2d, name: str, x: Value) -> Value:
    return _in_single(to, _instance_norm, module, name, x)


@_writes(Fp32Norm)
def _norm_in_single(to: Builder, module: Fp32Norm, name: str, x: Value) -> Value:
    return _in_single(to, _write, module.norm, f"{name}.norm", x)


def _in_single(to: Builder, writer: _Writer, module: nn.Module, name: str, x: Value) -> Value:
    """Write a norm that computes in single precision, with casts around it where its input is in half."""
    place = f"{convolution_name(name)}.norm"
    y = writer(to, module, name, to.cast(f"{place}.single", x, np.float32))
    return to.cast(f"{place}.{x.dtype}", y, x.dtype)


@_writes(nn.Sequential)
def _sequential(to: Builder, module: nn.Sequential, name: str, x: Value) -> Value:
    for number, layer in module.named_children():
        x = _write(to, layer, f"{name}.{number}", x)
    return x


@_writes(nn.Linear)
def _linear(to: Builder, module: nn.Linear, name: str, x: Value) -> Value:
    weights = [_weight(to, f"{name}.{key}", tensor) for key, tensor in _weights_of(module)]
    return to.node("Gemm", name.removeprefix("unet."), x, *weights, shape=(module.out_features,), transB=1)


@_writes(nn.LeakyReLU)
def _leaky_relu(to: Builder, module: nn.LeakyReLU, name: str, x: Value) -> Value:
    return to.node("LeakyRelu", name.removeprefix("unet."), x, alpha=module.negative_slope)


def _geometry(module: nn.Conv2d | nn.ConvTranspose2d, name: str) -> tuple[tuple[int, ...], ...]:
    """Give (padding, dilation, kernel, stride) of a convolution, each (rows, columns).

    Raises:
        TypeError: it is padded with anything but zeros, or differently at opposite sides.
    """
    padding = module.padding
    if module.padding_mode != "zeros" or isinstance(padding, str) or any(module.output_padding):
        raise TypeError(
            f"{name} is padded by {padding}, {module.output_padding} more at one side, in mode {module.padding_mode}; "
            "only numbers of zeros, the same on opposite sides, are written"
        )
    return padding, module.dilation, module.kernel_size, module.stride


def _convolve(
    to: Builder, operator: str, module: nn.Conv2d | nn.ConvTranspose2d, name: str, x: Value, sides: Sequence[int]
) -> Value:
    padding, dilation, kernel, stride = _geometry(module, name)
    given, taken = (x.shape[0], x.dtype), (module.in_channels, _array(module.weight).dtype)
    if given != taken:
        raise ValueError(f"{name} takes {taken[0]} channels of {taken[1]}, and is given {given[0]} of {given[1]}")
    weights = [_weight(to, f"{name}.{key}", tensor) for key, tensor in _weights_of(module)]
    return to.node(
        operator,
        convolution_name(name),
        x,
        *weights,
        shape=(module.out_channels, *sides),
        kernel_shape=kernel,
        strides=stride,
        pads=padding * 2,
        dilations=dilation,
        group=module.groups,
    )


def _weights_of(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> list[tuple[str, Tensor]]:
    return [(key, tensor) for key, tensor in (("weight", module.weight), ("bias", module.bias)) if tensor is not None]


def _weight(to: Builder, name: str, tensor: Tensor) -> str:
    return to.initializer(name, _array(tensor))


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.detach().cpu().numpy()
    return array
