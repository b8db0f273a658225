"""Find the tensors of an ONNX model that are stored in other files, without the onnx package.

A model may read its weights from other files ("external data"). An engine that is given bytes looks for those files in
the current directory, so such a model is refused. This module reads the protocol buffer wire format, with a few field
numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). It visits every place where a
TensorProto can stand.
"""

from __future__ import annotations

from collections.abc import Iterator

# message -> {field number: message}. A message that holds no tensor at any depth is not listed.
_HOLDS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_MAX_NESTING = 64


def external_tensors(model: bytes) -> list[str]:
    """List the names of the tensors whose data lies outside `model`.

    Raises:
        ValueError: `model` is not a protocol buffer of the shape that onnx.proto describes.
    """
    return list(_external(memoryview(model), "ModelProto", 0))


def _external(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_NESTING:
        raise ValueError(f"graphs nested more than {_MAX_NESTING} deep")
    if kind == "TensorProto":
        name, external = "", False
        for number, value in _fields(message):
            if number == _TENSOR_NAME and isinstance(value, memoryview):
                name = bytes(value).decode("utf-8", "backslashreplace")
            external |= number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value == 1)
        if external:
            yield name or "(unnamed)"
        return
    holds = _HOLDS[kind]
    for number, value in _fields(message):
        if number in holds:
            if not isinstance(value, memoryview):
                raise ValueError(f"field {number} of {kind} is not a message")
            yield from _external(value, holds[number], depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value): int for numbers, memoryview for strings, bytes and messages."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > end:
            raise ValueError(f"a field of {size} bytes at byte {at} of {end}")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError(f"a number that does not end at byte {at}")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
