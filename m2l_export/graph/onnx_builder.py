"""Collect nodes and constants, and write an ONNX model of them.

Of ONNX this knows operators' names, not what they compute: a caller says what type and shape a node's output has where
they are not those of its first input, and the checker has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

BATCH: Final = "batch"
"""The name of the first axis of every tensor that is no constant."""
_IR_VERSION: Final = 10
"""Of the file format: the oldest with what opset 20 may use, so that older engines read it."""


@dataclass(frozen=True)
class Value:
    """Describe a tensor that flows through the graph."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Shape without the batch axis, which comes first."""


Input = Value | str | float | Sequence[int]
"""Input of a node: a value; the name of an initializer, or an empty name for an input that is left out; a scalar of
the type of the node's first input; or a vector of int64."""


class Builder:
    """Collect nodes in the order in which they are added, and initializers, each once."""

    def __init__(self) -> None:
        self._model = onnx.ModelProto()  # filled in place: to put weights together anew would copy all of them
        self._constants: dict[str, npt.NDArray[Any]] = {}
        self._names: set[str] = set()

    def node(
        self,
        operator: str,
        name: str,
        *inputs: Input,
        dtype: npt.DTypeLike | None = None,
        shape: tuple[int, ...] | None = None,
        **attributes: object,
    ) -> Value:
        """Add a node of one output, both of the same name.

        Args:
            operator: such as Conv.
            name: that nothing else has.
            inputs: in ONNX's order, the first of them a value.
            dtype: of the output; None: that of the first input.
            shape: of the output, without the batch axis; None: that of the first input.
            attributes: in ONNX's terms.

        Raises:
            ValueError: something else has the name.
        """
        first = inputs[0]
        assert isinstance(first, Value)  # noqa: S101 - see above
        value = Value(name, first.dtype if dtype is None else np.dtype(dtype), first.shape if shape is None else shape)
        self._add(operator, name, inputs, [value], attributes)
        return value

    def split(self, name: str, value: Value, sizes: Sequence[int]) -> list[Value]:
        """Cut a value of shape (n, ...) along its first axis behind the batch, into parts of `sizes`."""
        parts = [Value(f"{name}.{k}", value.dtype, (size, *value.shape[1:])) for k, size in enumerate(sizes)]
        self._add("Split", name, [value, sizes], parts, {"axis": 1})
        return parts

    def cast(self, name: str, value: Value, dtype: npt.DTypeLike) -> Value:
        """Convert a value's type; a value that has it already is given back as it is."""
        to = np.dtype(dtype)
        if value.dtype == to:
            return value
        return self.node("Cast", name, value, dtype=to, to=helper.np_dtype_to_tensor_dtype(to))

    def initializer(self, name: str, array: npt.NDArray[Any]) -> str:
        """Keep a constant, and give its name back; the same one may be kept again.

        Raises:
            ValueError: something else has the name.
        """
        if name not in self._constants:
            self._claim(name)
            self._constants[name] = array
            self._model.graph.initializer.append(numpy_helper.from_array(array, name))
        elif self._constants[name].dtype != array.dtype or not np.array_equal(self._constants[name], array):
            raise ValueError(f"two constants of the ONNX graph would be called {name}")
        return name

    def finish(self, name: str, inputs: Sequence[Value], output: Value, opset: int, producer: tuple[str, str]) -> bytes:
        """Write the model that takes `inputs` and gives `output`, and check it; nothing may be added after that.

        Args:
            name: of the graph.
            inputs: in order.
            output: with the shape that it is to have.
            opset: of ONNX's own operators, the only ones that there are.
            producer: name and version.

        Raises:
            onnx.checker.ValidationError, onnx.shape_inference.InferenceError: types or shapes do not fit each other.
        """
        model = self._model
        model.ir_version = _IR_VERSION
        model.opset_import.append(helper.make_opsetid("", opset))
        model.producer_name, model.producer_version = producer
        model.graph.name = name
        model.graph.input.extend(map(_info, inputs))
        model.graph.output.append(_info(output))
        content = bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(content, full_check=True)
        return content

    def _add(
        self, operator: str, name: str, inputs: Sequence[Input], outputs: Sequence[Value], attributes: dict[str, Any]
    ) -> None:
        first = inputs[0]
        assert isinstance(first, Value)  # noqa: S101 - see `node`
        names = [self._input(one, first.dtype) for one in inputs]
        for output in outputs:
            self._claim(output.name)
        node = helper.make_node(operator, names, [output.name for output in outputs], name=name, **attributes)
        self._model.graph.node.append(node)

    def _input(self, given: Input, dtype: np.dtype[Any]) -> str:
        """Find the name of an input; constants are named by what they hold."""
        if isinstance(given, Value):
            return given.name
        if isinstance(given, str):
            return given
        if isinstance(given, float):
            return self.initializer(f"constant.{dtype}.{given!r}", np.array(given, dtype))
        return self.initializer(f"constant.int64.{'_'.join(map(str, given))}", np.array(given, np.int64))

    def _claim(self, name: str) -> None:
        if name in self._names:
            raise ValueError(f"two tensors of the ONNX graph would be called {name}")
        self._names.add(name)


def _info(value: Value) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(value.name, kind, [BATCH, *value.shape])
