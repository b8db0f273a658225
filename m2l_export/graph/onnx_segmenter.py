"""Write a segmenter as ONNX: what :class:`m2l_train.evaluate.segmenter.Segmenter` computes, bytes in.

The graph holds the scaling of levels, the antialiased resizing to the network's size and the resizing of its
probabilities back, so that an engine needs nothing beside it. Kernels are stored as fp16 and computed with in fp32.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from m2l_export.graph.fp16_weights import store_weights_as_fp16
from m2l_train.evaluate.segmenter import Segmenter

OPSET: Final = 18
"""The first whose Resize is antialiased."""
_IR_VERSION: Final = 8
IMAGES, PROBABILITIES, FEATURES = "images", "probabilities", "features"
"""Names of the graph's input and outputs."""


class _Graph:
    """Collect nodes, whose outputs are called as they are, and constants."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: npt.ArrayLike) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def layer(self, name: str, module: nn.Conv2d | nn.BatchNorm2d, x: str) -> str:
        """Add a convolution or a batch norm."""
        state = {
            key: self.constant(f"{name}.{key}", value.numpy())
            for key, value in module.state_dict().items()
            if key != "num_batches_tracked"
        }
        if isinstance(module, nn.Conv2d):
            pads = [int(pad) for pad in module.padding] * 2
            return self.node("Conv", name, x, *state.values(), pads=pads)
        order = ("weight", "bias", "running_mean", "running_var")
        return self.node("BatchNormalization", name, x, *(state[key] for key in order), epsilon=module.eps)

    def block(self, name: str, block: nn.Module, x: str) -> str:
        """Add layers one after another."""
        for key, module in block.named_children():
            inner = f"{name}.{key}"
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                x = self.layer(inner, module, x)
            elif isinstance(module, nn.ReLU):
                x = self.node("Relu", inner, x)
            else:
                x = self.block(inner, module, x)
        return x


def segmenter_to_onnx(segmenter: Segmenter) -> bytes:
    """Write a segmenter as an ONNX file that runs without PyTorch.

    Input `images`: uint8 (N, H, W, 3). Outputs `probabilities`: float32 (N, H, W) of 0..1, and `features`:
    float32 (N, D), as :class:`m2l_train.evaluate.segmenter.Segmenter` returns them.

    Example:
        >>> from m2l_train.evaluate import load_segmenter
        >>> len(segmenter_to_onnx(load_segmenter())) < 3e6
        True

    Raises:
        CheckpointError: a weight is beyond what fp16 holds.
    """
    graph, network = _Graph(), segmenter.network
    x = graph.node("Cast", "levels", IMAGES, to=TensorProto.FLOAT)
    x = graph.node("Transpose", "planes", x, perm=[0, 3, 1, 2])
    x = graph.node("Div", "scaled", x, graph.constant("half_range", np.float32(127.5)))
    x = graph.node("Sub", "input", x, graph.constant("one", np.float32(1)))
    side = graph.constant("side", np.array([segmenter.spec.side] * 2, np.int64))
    x = _resize(graph, "input_at_side", x, side, antialias=1)
    levels: list[str] = []
    for number, block in enumerate(network.down):
        if number:
            x = graph.node("MaxPool", f"half.{number}", x, kernel_shape=[2, 2], strides=[2, 2])
        x = graph.block(f"down.{number}", block, x)
        levels.append(x)
    means = [
        graph.node("ReduceMean", f"mean.{number}", level, graph.constant(f"area.{number}", [2, 3]), keepdims=0)
        for number, level in enumerate(levels)
    ]
    graph.node("Concat", FEATURES, *means, axis=1)
    twice = graph.constant("twice", np.array([1, 1, 2, 2], np.float32))
    for number in reversed(range(len(network.up))):
        narrow = network.narrow[number]
        assert isinstance(narrow, nn.Conv2d)  # noqa: S101 - see SegmenterNetwork
        x = graph.layer(f"narrow.{number}", narrow, x)
        x = graph.node(
            "Resize",
            f"double.{number}",
            x,
            "",
            twice,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        x = graph.node("Concat", f"beside.{number}", levels[number], x, axis=1)
        x = graph.block(f"up.{number}", network.up[number], x)
    x = graph.node("Sigmoid", "at_side", graph.layer("last", network.last, x))
    shape = graph.node("Shape", "image_size", IMAGES, start=1, end=3)
    x = _resize(graph, "at_size", x, shape)
    graph.node("Squeeze", PROBABILITIES, x, graph.constant("channel", np.array([1], np.int64)))
    return store_weights_as_fp16(_finish(graph, segmenter.spec.feature_count))


def _resize(graph: _Graph, name: str, x: str, size: str, **attributes: Any) -> str:
    """Resize bilinearly to (height, width), centers of pixels on centers, as PyTorch without `align_corners`."""
    axes = {"axes": [2, 3], "coordinate_transformation_mode": "half_pixel", "mode": "linear", **attributes}
    return graph.node("Resize", name, x, "", "", size, **axes)


def _finish(graph: _Graph, feature_count: int) -> bytes:
    sides: list[Any] = ["batch", "height", "width"]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "m2l-segmenter",
            [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, [*sides, 3])],
            [
                helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, sides),
                helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["batch", feature_count]),
            ],
            graph.constants,
        ),
        producer_name="m2l",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
