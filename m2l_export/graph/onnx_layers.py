"""Write the layers of a deploy graph as ONNX.

Each kind of layer has one function here, which adds to the file what the layer's `forward` computes; a new kind is one
more function under `writes`. A module of any other class is an error: its subclass may compute something else, so
classes are compared exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from m2l_export.graph.deploy import RepeatedConv2d, SubPixelConv2d, SubPixelConv3x3
from m2l_export.graph.half_precision import Fp32Norm
from m2l_export.graph.onnx_builder import Builder, Value
from m2l_export.graph.stage import Stage
from m2l_train.models import networks

Writer = Callable[[Builder, Any, str, Value], Value]
WRITERS: Final[dict[type[nn.Module], Writer]] = {}
"""By class of module: takes the module, its name in `state_dict` and its input, and gives its output."""

_PLACE_WORDS: Final = ("downs", "ups", "noise", "skip", "head", "blocks", "first", "second")
"""Parts of a weight's name that tell convolutions apart, beside numbers. Others, such as `layer`, are left out."""

FIXED_WEIGHTS: Final = ".taps"
"""End of the names of weights that are a fixed filter's: such a convolution is no layer, and stays in float."""


def convolution_name(weight: str) -> str:
    """Find a convolution's place in the network by the name of its weights.

    Example:
        >>> convolution_name("unet.downs.0.layer.weight"), convolution_name("unet.ups.3.noise.weight")
        ('downs.0', 'ups.3.noise')
    """
    return ".".join(part for part in weight.split(".") if part in _PLACE_WORDS or part.isdecimal())


def write(to: Builder, module: nn.Module, name: str, x: Value) -> Value:
    """Write a module by the function for its class.

    Raises:
        TypeError: there is none.
    """
    writer = WRITERS.get(type(module))
    if writer is None:
        raise unknown(module, name)
    return writer(to, module, name, x)


def unknown(module: nn.Module, name: str) -> TypeError:
    """Make the error for a module that there is no function for."""
    kind = type(module)
    known = ", ".join(one.__name__ for one in WRITERS)
    return TypeError(
        f"{name} is of class {kind.__module__}.{kind.__qualname__}, which is not written as ONNX; "
        f"m2l_export.graph.onnx_layers has functions for {known}"
    )


def writes(*kinds: type[nn.Module]) -> Callable[[Writer], Writer]:
    """Register a function for modules of these classes."""

    def register(writer: Writer) -> Writer:
        WRITERS.update(dict.fromkeys(kinds, writer))
        return writer

    return register


@writes(Stage)
def _stage(to: Builder, module: Stage, name: str, x: Value) -> Value:
    x = write(to, module.layer, f"{name}.layer", x)
    return x if module.norm is None else write(to, module.norm, f"{name}.norm", x)


@writes(nn.Conv2d)
def _convolution(to: Builder, module: nn.Conv2d, name: str, x: Value) -> Value:
    if module.padding_mode == "reflect" and not isinstance(module.padding, str):
        return _reflected_convolution(to, module, name, x)
    padding = _padding(module, name)
    return _convolve(to, "Conv", module, name, x, _convolved(module, x, padding * 2), pads=padding * 2)


def _reflected_convolution(to: Builder, module: nn.Conv2d, name: str, x: Value) -> Value:
    """Write the reflection as an operator of its own: a convolution of ONNX pads with zeros alone."""
    rows, columns = cast(tuple[int, int], module.padding)
    shape = (x.shape[0], x.shape[1] + 2 * rows, x.shape[2] + 2 * columns)
    pads = (0, 0, rows, columns, 0, 0, rows, columns)
    x = to.node("Pad", f"{convolution_name(name)}.reflected", x, pads, shape=shape, mode="reflect")
    none = (0, 0, 0, 0)
    return _convolve(to, "Conv", module, name, x, _convolved(module, x, none), pads=none)


def _convolved(module: nn.Conv2d, x: Value, pads: Sequence[int]) -> list[int]:
    """Return the sides of what a convolution gives; `pads` are rows and columns before, then after."""
    return [
        (side + before + after - dilation * (kernel - 1) - 1) // stride + 1
        for side, before, after, dilation, kernel, stride in zip(
            x.shape[1:], pads[:2], pads[2:], module.dilation, module.kernel_size, module.stride, strict=True
        )
    ]


@writes(nn.ConvTranspose2d)
def _transposed_convolution(to: Builder, module: nn.ConvTranspose2d, name: str, x: Value) -> Value:
    padding = _padding(module, name)
    sides = [
        (side - 1) * stride - 2 * pad + dilation * (kernel - 1) + more + 1
        for side, pad, more, dilation, kernel, stride in zip(
            x.shape[1:],
            padding,
            module.output_padding,
            module.dilation,
            module.kernel_size,
            module.stride,
            strict=True,
        )
    ]
    more = {"output_padding": module.output_padding} if any(module.output_padding) else {}
    return _convolve(to, "ConvTranspose", module, name, x, sides, pads=padding * 2, **more)


@writes(RepeatedConv2d)
def _repeated_convolution(to: Builder, module: RepeatedConv2d, name: str, x: Value) -> Value:
    return _convolution(to, module, name, repeat(to, f"{convolution_name(name)}.repeat", x))


def repeat(to: Builder, name: str, x: Value) -> Value:
    """Write (C, H, W) to (C, 2H, 2W), each pixel four times."""
    scales = to.initializer("repeat.scales", np.array([1, 1, 2, 2], np.float32))
    return to.node(
        "Resize",
        name,
        x,
        "",
        scales,
        shape=(x.shape[0], 2 * x.shape[1], 2 * x.shape[2]),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@writes(SubPixelConv2d)
def _sub_pixel_convolution(to: Builder, module: SubPixelConv2d, name: str, x: Value) -> Value:
    place = convolution_name(name)
    x = write(to, module.conv, f"{name}.conv", x)
    channels, height, width = x.shape[0] // 4, 2 * x.shape[1], 2 * x.shape[2]
    full = (channels, height, width)
    x = to.node("DepthToSpace", f"{place}.depth_to_space", x, shape=full, blocksize=2, mode="CRD")
    # As two operators: in one, onnxruntime's CPU rounds halves elsewhere, and is no faster.
    x = to.node("Slice", f"{place}.rows", x, (1,), (-1,), (2,), shape=(channels, height - 2, width))
    return to.node("Slice", f"{place}.columns", x, (1,), (-1,), (3,), shape=(channels, height - 2, width - 2))


@writes(SubPixelConv3x3)
def _sub_pixel_convolution_3x3(to: Builder, module: SubPixelConv3x3, name: str, x: Value) -> Value:
    pads = (0, 0, 1, 1)
    sides = _convolved(module.conv, x, pads)
    x = _convolve(to, "Conv", module.conv, f"{name}.conv", x, sides, pads=pads)
    full = (x.shape[0] // 4, 2 * x.shape[1], 2 * x.shape[2])
    place = convolution_name(name)
    return to.node("DepthToSpace", f"{place}.depth_to_space", x, shape=full, blocksize=2, mode="CRD")


@writes(nn.InstanceNorm2d)
def _instance_norm(to: Builder, module: nn.InstanceNorm2d, name: str, x: Value) -> Value:
    if module.track_running_stats:
        raise TypeError(f"{name} normalizes by running statistics, which is not written as an InstanceNormalization")
    if module.affine:
        scale, shift = weight_name(to, f"{name}.weight", module.weight), weight_name(to, f"{name}.bias", module.bias)
    else:
        (channels,), end = x.shape[:1], f"{x.dtype}.{x.shape[0]}"
        scale = to.initializer(f"norm.ones.{end}", np.ones(channels, x.dtype))
        shift = to.initializer(f"norm.zeros.{end}", np.zeros(channels, x.dtype))
    place = f"{convolution_name(name)}.norm"
    return to.node("InstanceNormalization", place, x, scale, shift, epsilon=module.eps)


@writes(networks.InstanceNorm2d)
def _instance_norm_of_training(to: Builder, module: networks.InstanceNorm2d, name: str, x: Value) -> Value:
    return _in_single(to, _instance_norm, module, name, x)


@writes(Fp32Norm)
def _norm_in_single(to: Builder, module: Fp32Norm, name: str, x: Value) -> Value:
    return _in_single(to, write, module.norm, f"{name}.norm", x)


def _in_single(to: Builder, writer: Writer, module: nn.Module, name: str, x: Value) -> Value:
    """Write a norm that computes in single precision, with casts around it where its input is in half."""
    place = f"{convolution_name(name)}.norm"
    y = writer(to, module, name, to.cast(f"{place}.single", x, np.float32))
    return to.cast(f"{place}.{x.dtype}", y, x.dtype)


@writes(nn.Sequential)
def _sequential(to: Builder, module: nn.Sequential, name: str, x: Value) -> Value:
    for number, layer in module.named_children():
        x = write(to, layer, f"{name}.{number}", x)
    return x


@writes(nn.Linear)
def _linear(to: Builder, module: nn.Linear, name: str, x: Value) -> Value:
    weights = [weight_name(to, f"{name}.{key}", tensor) for key, tensor in _weights_of(module)]
    return to.node("Gemm", name.removeprefix("unet."), x, *weights, shape=(module.out_features,), transB=1)


@writes(nn.LeakyReLU)
def _leaky_relu(to: Builder, module: nn.LeakyReLU, name: str, x: Value) -> Value:
    return to.node("LeakyRelu", name.removeprefix("unet."), x, alpha=module.negative_slope)


def write_dropout(to: Builder, place: str, x: Value, factors: Value, begin: int) -> Value:
    """Write (C, H, W) times as many of the factors, from `begin` on."""
    end = begin + math.prod(x.shape)
    if (begin, end) != (0, *factors.shape):
        factors = to.node("Slice", f"{place}.kept", factors, (begin,), (end,), (1,), shape=(end - begin,))
    factors = to.node("Reshape", f"{place}.factors", factors, (-1, *x.shape), shape=x.shape)
    return to.node("Mul", f"{place}.dropped", x, factors)


def require_bits(factors: Value | None, used: int) -> None:
    """Check that there are as many factors as values that dropout acts on.

    Raises:
        ValueError: there are more or fewer.
    """
    bits = 0 if factors is None else factors.shape[0]
    if bits != used:
        raise ValueError(f"dropout acts on {used:,} values of the network, and the inputs have {bits:,} bits")


def _padding(module: nn.Conv2d | nn.ConvTranspose2d, name: str) -> tuple[int, int]:
    """Give the zeros around the input of a convolution, (rows, columns).

    Raises:
        TypeError: it is padded with anything but zeros, or differently at opposite sides.
    """
    padding = module.padding
    if module.padding_mode != "zeros" or isinstance(padding, str):
        raise TypeError(
            f"{name} is padded by {padding} in mode {module.padding_mode}; only numbers of zeros, the same on opposite "
            "sides, are written, and reflections around a convolution that is not transposed"
        )
    return cast(tuple[int, int], padding)


def _convolve(
    to: Builder,
    operator: str,
    module: nn.Conv2d | nn.ConvTranspose2d,
    name: str,
    x: Value,
    sides: Sequence[int],
    **pads: Sequence[int],
) -> Value:
    given, taken = (x.shape[0], x.dtype), (module.in_channels, to_array(module.weight).dtype)
    if given != taken:
        raise ValueError(f"{name} takes {taken[0]} channels of {taken[1]}, and is given {given[0]} of {given[1]}")
    weights = [weight_name(to, f"{name}.{key}", tensor) for key, tensor in _weights_of(module)]
    attributes: dict[str, Any] = {
        "kernel_shape": module.kernel_size,
        "strides": module.stride,
        "dilations": module.dilation,
        "group": module.groups,
        **pads,
    }
    shape = (module.out_channels, *sides)
    return to.node(operator, convolution_name(name), x, *weights, shape=shape, **attributes)


def _weights_of(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> list[tuple[str, Tensor]]:
    return [(key, tensor) for key, tensor in (("weight", module.weight), ("bias", module.bias)) if tensor is not None]


def weight_name(to: Builder, name: str, tensor: Tensor) -> str:
    """Keep a weight as a constant, and return its name."""
    return to.initializer(name, to_array(tensor))


def to_array(tensor: Tensor) -> npt.NDArray[Any]:
    """Convert a weight to an array."""
    array: npt.NDArray[Any] = tensor.detach().cpu().numpy()
    return array
