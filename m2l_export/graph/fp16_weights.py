"""Store the weights of an ONNX file in half precision. It computes in single precision as before.

Engines widen the weights once, when they load the file: a Cast of a constant is a constant.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from m2l_runtime.errors import CheckpointError

MAX_FP16: Final = float(np.finfo(np.float16).max)
SUFFIX: Final = ".fp16"


def store_weights_as_fp16(content: bytes) -> bytes:
    """Store the weights of convolutions and linear layers as fp16, each followed by a Cast to float.

    Weights are the initializers of two or more sides longer than 1. Biases, scales and constants are small
    and stay as they are.

    Raises:
        CheckpointError: a weight is beyond fp16's range (65,504), or a layer's are all too small for it (3e-8).
    """
    model = onnx.load_from_string(content)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or sum(side > 1 for side in tensor.dims) < 2:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        _check(name, values)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + SUFFIX))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}.to_float", to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _check(name: str, values: npt.NDArray[np.float32]) -> None:
    largest = float(np.abs(values).max(initial=0))
    if largest > MAX_FP16:
        raise CheckpointError(
            f"has weights of up to {largest:.3g} ({name}), which half precision cannot hold (at most {MAX_FP16:,.0f}); "
            "leave out --weights fp16"
        )
    if largest > 0 and not values.astype(np.float16).any():
        raise CheckpointError(
            f"has weights of at most {largest:.3g} ({name}), which half precision rounds to zero, all of them; "
            "leave out --weights fp16"
        )
