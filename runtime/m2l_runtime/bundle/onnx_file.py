"""Read what is needed of an ONNX model without the onnx package: which tensors are stored elsewhere, and wide nodes.

A model may read its weights from other files ("external data"). An engine that is given bytes looks for those files in
the current directory, so such a model is refused. This module reads the protocol buffer wire format, with a few field
numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). It visits every place where a
TensorProto can stand.

Engines read leniently: bits of a field's tag above the 32nd are dropped, numbers may be written longer than they need
to be, unknown fields and fields of another wire type are passed over. So that one file cannot be two models, all of
these are refused (https://protobuf.dev/programming-guides/encoding).
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
# message -> the numbers of its fields. A newer engine may find a tensor in one that is not listed.
_FIELDS: dict[str, frozenset[int]] = {
    "ModelProto": frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}),
    "TrainingInfoProto": frozenset({1, 2, 3, 4}),
    "FunctionProto": frozenset({1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}),
    "GraphProto": frozenset({1, 2, 5, 10, 11, 12, 13, 14, 15, 16}),
    "NodeProto": frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}),
    "AttributeProto": frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 20, 21, 22, 23}),
    "SparseTensorProto": frozenset({1, 2, 3}),
    "TensorProto": frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16}),
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_MODEL_GRAPH, _GRAPH_NODE, _NODE_TENSORS, _NODE_NAME = 7, 1, (1, 2), 3
_MAX_NESTING = 64
_MAX_TAG = (1 << 32) - 1


def external_tensors(model: bytes) -> list[str]:
    """List the names of the tensors whose data lies outside `model`.

    Raises:
        ValueError: `model` is not a protocol buffer of the shape that onnx.proto describes.
    """
    return list(_external(memoryview(model), "ModelProto", 0))


def wide_nodes(model: bytes, max_tensors: int) -> list[str]:
    """List the names of the graph's nodes that have more than `max_tensors` inputs and outputs together.

    WebGPU gives a shader so many buffers and no more.

    Raises:
        ValueError: `model` is not a protocol buffer of the shape that onnx.proto describes.
    """
    names = []
    for graph in _messages(memoryview(model), "ModelProto", _MODEL_GRAPH):
        for node in _messages(graph, "GraphProto", _GRAPH_NODE):
            fields = list(_fields(node, "NodeProto"))
            if sum(number in _NODE_TENSORS for number, _ in fields) > max_tensors:
                found = [value for number, value in fields if number == _NODE_NAME and isinstance(value, memoryview)]
                names += [bytes(value).decode("utf-8", "backslashreplace") for value in found]
    return names


def _messages(message: memoryview, kind: str, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(message, kind):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _external(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_NESTING:
        raise ValueError(f"graphs nested more than {_MAX_NESTING} deep")
    if kind == "TensorProto":
        name, external = "", False
        for number, value in _fields(message, kind):
            if number == _TENSOR_NAME and isinstance(value, memoryview):
                name = bytes(value).decode("utf-8", "backslashreplace")
            # Of a location, engines keep the lower 32 bits; 0 is the only one that is inside the file.
            external |= number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)
        if external:
            yield name or "(unnamed)"
        return
    holds = _HOLDS[kind]
    for number, value in _fields(message, kind):
        if number in holds:
            if not isinstance(value, memoryview):
                raise ValueError(f"field {number} of {kind} is not a message")
            yield from _external(value, holds[number], depth + 1)


def _fields(message: memoryview, kind: str) -> Iterator[tuple[int, int | memoryview | None]]:
    """Yield (field number, value): int for numbers, memoryview for strings, bytes and messages, None for the rest."""
    at, end, known = 0, len(message), _FIELDS[kind]
    while at < end:
        start = at
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if tag > _MAX_TAG:
            raise ValueError(f"a tag of more than 32 bits at byte {start}")
        if number not in known:
            raise ValueError(f"{kind} has no field {number} (byte {start})")
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {start}")
        if at + size > end:
            raise ValueError(f"a field of {size} bytes at byte {at} of {end}")
        yield number, message[at : at + size] if wire == 2 else None
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number of 7 bits a byte, the lowest first; return (number, where it ends).

    Raises:
        ValueError: it does not end, has more than 64 bits, or has bytes that it could do without.
    """
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError(f"a number that does not end at byte {at}")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            if value >> 64 or (byte == 0 and shift):
                raise ValueError(f"a number that is longer than it needs to be, or than 64 bits, before byte {at}")
            return value, at
        shift += 7
