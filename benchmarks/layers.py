"""Write ONNX files of one layer: an upsampling layer in either form, and products to find a peak by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from m2l_export.graph.deploy import SubPixelConv2d
from m2l_export.graph.onnx_writer import OPSET
from m2l_runtime.bundle.schema import Precision
from m2l_train.models.networks import NORM_EPS, UnetSpec

Form = Literal["deconvolution", "sub-pixel"]
INPUT: Final = "x"
OUTPUT: Final = "y"
_IR_VERSION: Final = 10


@dataclass(frozen=True)
class Upsampling:
    """Describe the upsampling layer of a level, 0 the outermost, in a network of 256x256 pixels."""

    level: int
    side: int
    """Of what comes in; what comes out has twice that."""
    inputs: int
    outputs: int
    has_norm: bool

    @property
    def label(self) -> str:
        """Its sizes."""
        return f"{self.inputs} to {self.outputs} channels, side {self.side} to {2 * self.side}"


def upsampling_layers(spec: UnetSpec, image_side: int = 256) -> list[Upsampling]:
    """List all of a network, the bottleneck's first."""
    found = []
    for level in reversed(range(spec.levels)):
        is_outermost, is_innermost = level == 0, level == spec.levels - 1
        inner = spec.widths[level]
        found.append(
            Upsampling(
                level=level,
                side=image_side >> (level + 1),
                inputs=inner if is_innermost else 2 * inner,
                outputs=spec.output_nc if is_outermost else spec.widths[level - 1],
                has_norm=not is_outermost,
            )
        )
    return found


def upsampling_file(layer: Upsampling, form: Form, path: Path) -> Path:
    """Write ReLU, layer and norm as in the deploy graph: (batch, C, S, S) floats to twice the side."""
    torch.manual_seed(layer.level)
    transposed = torch.nn.ConvTranspose2d(layer.inputs, layer.outputs, 4, 2, 1, bias=not layer.has_norm)
    torch.nn.init.normal_(transposed.weight, 0.0, 0.02)
    constants: dict[str, npt.NDArray[Any]] = {}
    nodes = [helper.make_node("Relu", [INPUT], ["relu"])]
    if form == "deconvolution":
        constants |= _constants(transposed)
        nodes.append(
            helper.make_node(
                "ConvTranspose", ["relu", *constants], ["up"], kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 1, 1]
            )
        )
    else:
        constants |= _constants(SubPixelConv2d(transposed).conv)
        nodes += [
            helper.make_node("Conv", ["relu", *constants], ["conv"], kernel_shape=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("DepthToSpace", ["conv"], ["shuffled"], blocksize=2, mode="CRD"),
            helper.make_node("Slice", ["shuffled", "starts", "ends", "rows"], ["cut"]),
            helper.make_node("Slice", ["cut", "starts", "ends", "columns"], ["up"]),
        ]
        for name, value in (("starts", 1), ("ends", -1), ("rows", 2), ("columns", 3)):
            constants[name] = np.array([value], np.int64)
    last = nodes[-1]
    if layer.has_norm:
        constants |= {"scale": np.ones(layer.outputs, np.float32), "shift": np.zeros(layer.outputs, np.float32)}
        nodes.append(helper.make_node("InstanceNormalization", ["up", "scale", "shift"], [OUTPUT], epsilon=NORM_EPS))
    else:
        last.output[0] = OUTPUT
    shapes = ((layer.inputs, layer.side, layer.side), (layer.outputs, 2 * layer.side, 2 * layer.side))
    return _write(nodes, constants, *shapes, path)


def products_file(channels: int, side: int, depth: int, precision: Precision, path: Path) -> Path:
    """Write 1x1 convolutions, one after the other, of as many channels in as out: matrix products and nothing else.

    int8 is written as m2l's files have it: weights signed and by channel, what comes in and out unsigned.
    """
    generator = np.random.default_rng(0)
    weight = generator.normal(0, channels**-0.5, (channels, channels, 1, 1)).astype(np.float32)
    scales = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
    is_int8 = precision == "int8"
    constants: dict[str, npt.NDArray[Any]] = {}
    nodes: list[Any] = []
    before = INPUT
    if is_int8:
        constants = {"scale": np.array(8 / 255, np.float32), "zero": np.array(128, np.uint8)}
        nodes += _through_bytes(INPUT, 0)
        before = "float0"
    for number in range(1, depth + 1):
        name, weights = f"product{number}", f"w{number}"
        if is_int8:
            constants[f"{weights}_int8"] = np.round(weight / scales[:, None, None, None]).astype(np.int8)
            constants |= {f"{weights}_scale": scales, f"{weights}_zero": np.zeros(channels, np.int8)}
            from_int8 = [f"{weights}_int8", f"{weights}_scale", f"{weights}_zero"]
            nodes.append(helper.make_node("DequantizeLinear", from_int8, [weights], axis=0))
        else:
            constants[weights] = weight
        nodes.append(helper.make_node("Conv", [before, weights], [name], name=name, kernel_shape=[1, 1]))
        before = name
        if is_int8:
            nodes += _through_bytes(name, number)
            before = f"float{number}"
    nodes[-1].output[0] = OUTPUT
    return _write(nodes, constants, (channels, side, side), (channels, side, side), path)


def _through_bytes(name: str, number: int) -> list[Any]:
    return [
        helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"bytes{number}"]),
        helper.make_node("DequantizeLinear", [f"bytes{number}", "scale", "zero"], [f"float{number}"]),
    ]


def multiplications(content: bytes, side: int = 256) -> dict[str, int]:
    """Count multiplications of an image in each convolution of a file, by node, for masks or floats of this side."""
    model = onnx.load_from_string(content)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    }
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    found = {}
    for node in inferred.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            at = shapes[node.output[0] if node.op_type == "Conv" else node.input[0]]
            found[node.name or node.output[0]] = math.prod(at[2:]) * math.prod(weights[node.input[1]])
    return found


def _constants(layer: torch.nn.Conv2d | torch.nn.ConvTranspose2d) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = {"weight": layer.weight.detach().numpy()}
    if layer.bias is not None:
        found["bias"] = layer.bias.detach().numpy()
    return found


def _write(
    nodes: Sequence[Any],
    constants: dict[str, npt.NDArray[Any]],
    shape_in: tuple[int, ...],
    shape_out: tuple[int, ...],
    path: Path,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *shape_in])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", *shape_out])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path
