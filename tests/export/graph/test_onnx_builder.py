"""Nodes and constants put together: names, types and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from m2l_export.graph.onnx_builder import Builder, Value

X = Value("x", np.dtype(np.float32), (3, 4))


def finish(to: Builder, output: Value) -> bytes:
    return to.finish("g", [X], output, 20, ("maker", "1"))


def test_onnx_builder__a_constant_that_is_used_twice_is_kept_once() -> None:
    to = Builder()
    y = to.node("Mul", "twice", to.node("Add", "more", X, 2.0), 2.0)
    y = to.node("Slice", "cut", y, (0,), (2,), (1,), (1,), shape=(2, 4))
    assert to.initializer("named", np.ones(4, np.float32)) == to.initializer("named", np.ones(4, np.float32))
    model = onnx.load_from_string(finish(to, to.node("Mul", "y", y, "named")))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = sorted((array.dtype.name, array.shape, array.ravel().tolist()) for array in constants.values())
    assert found == [
        ("float32", (), [2]),
        ("float32", (4,), [1, 1, 1, 1]),
        ("int64", (1,), [0]),
        ("int64", (1,), [1]),
        ("int64", (1,), [2]),
    ]


def test_onnx_builder__a_scalar_has_the_type_of_what_it_meets() -> None:
    to = Builder()
    y = to.cast("half", X, np.float16)
    y = to.cast("y", to.node("Mul", "tenth", y, 0.1), np.float32)
    (tensor,) = onnx.load_from_string(finish(to, y)).graph.initializer
    assert numpy_helper.to_array(tensor).dtype == np.float16
    assert numpy_helper.to_array(tensor) == np.float16(0.1)
    assert to.cast("again", y, np.float32) is y


def test_onnx_builder__names_are_not_given_twice() -> None:
    to = Builder()
    to.node("Relu", "a", X)
    to.initializer("c", np.zeros(2, np.float32))
    for name in ("a", "c"):
        with pytest.raises(ValueError, match=f"two tensors of the ONNX graph would be called {name}"):
            to.node("Relu", name, X)
    for other in (np.ones(2, np.float32), np.zeros(3, np.float32), np.zeros(2, np.float16)):
        with pytest.raises(ValueError, match="two constants of the ONNX graph would be called c"):
            to.initializer("c", other)


def test_onnx_builder__another_shape_or_type_than_what_is_computed_is_refused() -> None:
    for shape in ((3, 5), (3,), (1, 3, 4)):
        to = Builder()
        with pytest.raises(onnx.shape_inference.InferenceError):
            finish(to, to.node("Relu", "y", X, shape=shape))
    to = Builder()
    with pytest.raises(onnx.shape_inference.InferenceError):
        finish(to, to.node("Relu", "y", X, dtype=np.float16))
    to = Builder()
    with pytest.raises(onnx.checker.ValidationError):
        finish(to, to.node("NoSuchOperator", "y", X))
