"""Write the core of a modulated generator as ONNX.

Each function stands for the `forward` of the class in :mod:`m2l_export.graph.modulated` that it is named after.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from m2l_export.graph.modulated import HEAD_PARTS, DeployModulated, Factors, ModulatedStage, Numbers
from m2l_export.graph.onnx_builder import Builder, Value
from m2l_export.graph.onnx_layers import FIXED_WEIGHTS, repeat, weight_name, write
from m2l_train.models.modulated import MAX_DEVIATIONS, NOISE_MEAN, luma_weights, phase_weights
from m2l_train.models.networks import LEAKY_RELU_SLOPE


def write_modulated(to: Builder, core: DeployModulated, x: Value, appearance: Value, noise: Value) -> Value:
    """Write masks (1, H, W) in [-1, 1], appearances (numbers,) and bytes of noise (n,) to images (3, H, W).

    Raises:
        ValueError: there is more or less noise than the network takes.
    """
    sides = core.spec.noise_sides((x.shape[1], x.shape[2]))
    count = sum(map(math.prod, sides))
    if noise.shape != (count,):
        raise ValueError(f"the network takes {count:,} bytes of noise, and the input has {noise.shape[0]:,}")
    hidden = _numbers(to, core.numbers, appearance)
    factors = [_factors(to, stage.factors, f"ups.{index}", hidden) for index, (_, _, stage) in enumerate(core.stages())]
    centered = to.node("Sub", "noise.centered", to.cast(f"noise.{x.dtype}", noise, x.dtype), NOISE_MEAN)
    planes = to.split("noise.planes", centered, [math.prod(side) for side in sides])
    features = []
    for level, down in enumerate(core.downs):
        x = write(to, down, f"unet.downs.{level}", x)
        x = to.node("LeakyRelu", f"downs.{level}.leaky_relu", x, alpha=LEAKY_RELU_SLOPE)
        features.append(x)
    normalizing: Value | None = None
    for index, ((place, number, stage), plane, side) in enumerate(zip(core.stages(), planes, sides, strict=True)):
        scale, after = factors[index]
        by = scale if normalizing is None else to.node("Mul", f"ups.{index}.factor", normalizing, scale)
        x = to.node("Mul", f"ups.{index}.scaled", x, _plane(to, f"ups.{index}.factor", by, x.dtype))
        if place and number:
            x = repeat(to, f"ups.{index}.repeat", x)
        plane = to.node("Reshape", f"ups.{index}.noise.plane", plane, (-1, 1, *side), shape=(1, *side))
        x = _stage(to, stage, f"ups.{index}", x, features[-1 - place] if place and number else None, plane)
        normalizing = after
    assert normalizing is not None  # noqa: S101 - there is a stage
    x = to.node("Mul", "head.scaled", x, _plane(to, "head.factor", normalizing, x.dtype))
    head = write(to, core.head, "unet.head", x)
    luma, offset, phases = to.split("head.parts", head, HEAD_PARTS)
    color = to.node("Add", "head.color", _smooth(to, "head.offset", offset, core.spec.chroma_passes), luma)
    color = _enlarge(to, "head.enlarged", color)
    if core.spec.sharpening:
        fine = _fixed_filter(to, "head.fine", head, _sharpening_weights(core.spec.sharpening))
    else:
        fine = _fixed_filter(to, "head.fine", phases, np.array(phase_weights()))
    fine = to.node("DepthToSpace", "head.luma", fine, shape=(1, *color.shape[1:]), blocksize=2, mode="CRD")
    return to.node("Add", "image.rgb", color, fine)


def _smooth(to: Builder, name: str, x: Value, passes: int) -> Value:
    """Write binomial filters of 3x3, each as two means of 2x2: engines have them, and quantize none of it."""
    channels, height, width = x.shape
    steps = 2 * passes
    pads = (0, 0, passes, passes) * 2
    x = to.node("Pad", f"{name}.padded", x, pads, shape=(channels, height + steps, width + steps), mode="edge")
    for step in reversed(range(steps)):
        shape = (channels, height + step, width + step)
        x = to.node("AveragePool", f"{name}.mean.{step}", x, shape=shape, kernel_shape=[2, 2], strides=[1, 1])
    return x


def _fixed_filter(to: Builder, name: str, x: Value, weights: npt.NDArray[np.float64]) -> Value:
    """Write a filter as a convolution, which is no layer of the network: it stays in float."""
    (channels, height, width), (after, _, side, _) = x.shape, weights.shape
    margin = side // 2
    shape = (channels, height + 2 * margin, width + 2 * margin)
    padded = to.node("Pad", f"{name}.padded", x, (0, 0, margin, margin) * 2, shape=shape, mode="edge")
    taps = to.initializer(f"{name}{FIXED_WEIGHTS}", weights.astype(x.dtype))
    return to.node("Conv", name, padded, taps, shape=(after, height, width), kernel_shape=[side, side])


def _sharpening_weights(sharpening: float) -> npt.NDArray[np.float64]:
    """Return the weights of `filter_luma` for all that the head draws; what is for chroma is 0."""
    luma, offset, _ = HEAD_PARTS
    weights = np.array(luma_weights(sharpening))
    nothing = np.zeros((len(weights), offset, *weights.shape[2:]))
    return np.concatenate([weights[:, :luma], nothing, weights[:, luma:]], 1)


def _enlarge(to: Builder, name: str, x: Value) -> Value:
    """Write (C, H, W) to (C, 2H, 2W), by a triangle filter."""
    scales = to.initializer("repeat.scales", np.array([1, 1, 2, 2], np.float32))
    shape = (x.shape[0], 2 * x.shape[1], 2 * x.shape[2])
    return to.node(
        "Resize", name, x, "", scales, shape=shape, mode="linear", coordinate_transformation_mode="half_pixel"
    )


def _plane(to: Builder, name: str, value: Value, dtype: np.dtype[np.generic]) -> Value:
    """Write factors (C,) to (C, 1, 1) of the type of the convolutions."""
    value = to.node("Unsqueeze", f"{name}.plane", value, (2, 3), shape=(*value.shape, 1, 1))
    return to.cast(f"{name}.{dtype}", value, dtype)


def _numbers(to: Builder, module: Numbers, appearance: Value) -> Value:
    x = to.node("Sub", "numbers.centered", appearance, weight_name(to, "unet.numbers.mean", module.mean))
    x = to.node("Div", "numbers.scaled", x, weight_name(to, "unet.numbers.std", module.std))
    x = to.node("Clip", "numbers.clipped", x, -MAX_DEVIATIONS, MAX_DEVIATIONS)
    return write(to, module.mlp, "unet.numbers.mlp", x)


def _factors(to: Builder, module: Factors, place: str, hidden: Value) -> tuple[Value, Value]:
    """Write (hidden,) to the scales of the inputs (C,) and of the outputs (C',)."""
    scale = write(to, module.style, f"unet.{place}.factors.style", hidden)
    power = write(to, module.power, f"unet.{place}.factors.power", to.node("Mul", f"{place}.squared", scale, scale))
    return scale, to.node("Reciprocal", f"{place}.normalizing", to.node("Sqrt", f"{place}.deviation", power))


def _stage(to: Builder, module: ModulatedStage, place: str, x: Value, skip: Value | None, noise: Value) -> Value:
    y = write(to, module.noise, f"unet.{place}.noise", noise)
    if module.skip is not None:
        assert skip is not None  # noqa: S101 - the stage after a doubling has one
        y = to.node("Add", f"{place}.beside_skip", write(to, module.skip, f"unet.{place}.skip", skip), y)
    y = to.node("Add", f"{place}.beside_noise", write(to, module.layer, f"unet.{place}.layer", x), y)
    return to.node("LeakyRelu", f"{place}.leaky_relu", y, alpha=LEAKY_RELU_SLOPE)
