"""Read and write the tensors of the Open Inference Protocol, as JSON or in its binary extension.

The protocol: https://github.com/kserve/open-inference-protocol, and the extension of binary tensor data:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md. A body is JSON, and
behind it the bytes of the tensors that say so, in their order, little-endian.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.reading import content_errors
from m2l_runtime._utils.text import plural, shown
from m2l_runtime.errors import ArgumentError

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
"""Header that tells where the JSON of a body ends."""

DTYPES: Final[Mapping[str, str]] = {"UINT8": "|u1", "UINT64": "<u8", "FP32": "<f4"}
"""Types of tensors by their names in the protocol, little-endian."""

BINARY_SIZE: Final = "binary_data_size"
BINARY: Final = "binary_data"
BINARY_OUTPUT: Final = "binary_data_output"

_MAX_ID_CHARS: Final = 256
_MAX_DIMS: Final = 8

Tensor = npt.NDArray[Any]


class InputTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hold an input as a request's JSON has it."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()
    """Its JSON; empty where there is none."""


class OutputRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hold what a request's JSON says of an output that it asks for."""

    name: str
    parameters: dict[str, Any] = {}


class _RequestHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: list[InputTensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[OutputRequest] | None = None


@dataclass(frozen=True)
class InferRequest:
    """Hold a request for inference."""

    tensors: Mapping[str, Tensor]
    """By name; not to be written to."""
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[OutputRequest, ...] | None = None
    """What is asked for; None: all that there are."""


def parse_request(body: bytes, header_length: str | None) -> InferRequest:
    """Read the body of a request for inference.

    Example:
        >>> body = b'{"inputs": [{"name": "m", "shape": [2], "datatype": "UINT8", "data": [0, 255]}]}'
        >>> parse_request(body, None).tensors
        {'m': array([  0, 255], dtype=uint8)}

    Args:
        body: JSON, perhaps with tensors behind it.
        header_length: value of the header that tells where the JSON ends; None: it is all of the body.

    Raises:
        ArgumentError: it is not such a body; the message says what is wrong where.
    """
    end = _header_end(header_length, len(body))
    with content_errors(lambda words: ArgumentError(f"the request is not JSON of an inference request: {words}")):
        head = msgspec.json.decode(body[:end], type=_RequestHead)
    if head.id is not None and len(head.id) > _MAX_ID_CHARS:
        raise ArgumentError(f"the id has at most {_MAX_ID_CHARS} characters, got {len(head.id):,}")
    if not 1 <= len(head.inputs) <= len(DTYPES) + 1:
        raise ArgumentError(f"expected a mask, and perhaps seeds and an appearance, got {len(head.inputs)} inputs")
    rest, at, tensors = memoryview(body)[end:], 0, {}
    for one in head.inputs:
        if one.name in tensors:
            raise ArgumentError(f"input {shown(one.name)} is there twice")
        size = _binary_size(one)
        tensors[one.name] = _tensor(one, None if size is None else rest[at : at + size])
        at += size or 0
    if at != len(rest):
        raise ArgumentError(f"{len(rest):,} bytes follow the JSON, but the inputs say {at:,}")
    outputs = None if head.outputs is None else tuple(head.outputs)
    return InferRequest(tensors, head.id, head.parameters, outputs or None)


def _header_end(header_length: str | None, size: int) -> int:
    if header_length is None:
        return size
    is_number = header_length.isascii() and header_length.isdecimal() and len(header_length) <= 12
    if not (is_number and int(header_length) <= size):
        raise ArgumentError(
            f"{HEADER_LENGTH} must be a whole number up to the length of the body, {size:,}, got {shown(header_length)}"
        )
    return int(header_length)


def _binary_size(given: InputTensor) -> int | None:
    """Return the bytes of an input behind the JSON; None if its values stand in it."""
    name = shown(given.name)
    unknown = next((one for one in given.parameters if one != BINARY_SIZE), None)
    if unknown is not None:
        raise ArgumentError(f"input {name} has the parameter {shown(unknown)}; expected no other than {BINARY_SIZE}")
    size = given.parameters.get(BINARY_SIZE)
    if size is None:
        if not bytes(given.data):
            raise ArgumentError(f"input {name} has neither data nor {BINARY_SIZE}")
        return None
    if bytes(given.data):
        raise ArgumentError(f"input {name} has both data and {BINARY_SIZE}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ArgumentError(f"{BINARY_SIZE} of input {name} must be a number of bytes, got {shown(size)}")
    return size


def _tensor(given: InputTensor, content: memoryview | None) -> Tensor:
    name = shown(given.name)
    if given.datatype not in DTYPES:
        raise ArgumentError(f"input {name} is {shown(given.datatype)}; expected one of {', '.join(DTYPES)}")
    dtype, shape = np.dtype(DTYPES[given.datatype]), tuple(given.shape)
    if not 1 <= len(shape) <= _MAX_DIMS or any(not 0 <= side < 1 << 31 for side in shape):
        raise ArgumentError(f"the shape of input {name} is 1 to {_MAX_DIMS} sides from 0 on, got {_shape_text(shape)}")
    count = 1
    for side in shape:
        count *= side
    if content is not None:
        if len(content) != count * dtype.itemsize:
            raise ArgumentError(
                f"input {name} of shape {_shape_text(shape)} {given.datatype} has {count * dtype.itemsize:,} bytes; "
                f"{len(content):,} came"
            )
        return np.frombuffer(content, dtype).reshape(shape)
    values = _values_of(given.data, given.datatype, dtype, name)
    if values.size != count:
        raise ArgumentError(
            f"input {name} of shape {_shape_text(shape)} has {plural(count, 'value')}; {values.size:,} came"
        )
    return values.reshape(shape)


def _values_of(data: msgspec.Raw, datatype: str, dtype: np.dtype[Any], name: str) -> Tensor:
    """Read the values in JSON, flat or nested by the shape."""
    problem = f"the data of input {name} must be a list of numbers that {datatype} has"
    is_wide = dtype.itemsize == 8  # NumPy would make floats of some
    with content_errors(lambda _: ArgumentError(problem)):
        values = np.asarray(msgspec.json.decode(data), object if is_wide else None)
    if values.ndim and not values.size:
        return np.empty(0, dtype)
    is_number = values.dtype.kind in ("iu" if dtype.kind == "u" else "iuf")
    if is_wide:
        is_number = all(type(one) is int for one in values.flat)
    if not (values.ndim and is_number):
        raise ArgumentError(problem)
    if dtype.kind == "u":
        limits = np.iinfo(dtype)
        if values.min() < 0 or values.max() > limits.max:
            raise ArgumentError(f"{problem}, 0 to {limits.max}")
    with np.errstate(over="ignore"):
        return values.ravel().astype(dtype)


def _shape_text(shape: Sequence[int]) -> str:
    sides = [shown(side) for side in shape[: _MAX_DIMS + 1]]
    return f"[{', '.join(sides)}{', ...' if len(shape) > len(sides) else ''}]"


def write_response(
    head: Mapping[str, Any], outputs: Mapping[str, Tensor], is_binary: Mapping[str, bool]
) -> tuple[bytes, int | None]:
    """Write the body of an answer.

    Example:
        >>> write_response({"model_name": "m2l"}, {"seeds": np.array([7], np.uint64)}, {"seeds": False})
        (b'{"model_name":"m2l","outputs":[{"name":"seeds","datatype":"UINT64","shape":[1],"data":[7]}]}', None)

    Args:
        head: fields beside the outputs.
        outputs: by name, of the types in `DTYPES`.
        is_binary: by name, whether its bytes go behind the JSON.

    Returns:
        The body, and the length of the JSON in it where something follows.
    """
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, tensor in outputs.items():
        datatype = next(one for one, dtype in DTYPES.items() if np.dtype(dtype) == tensor.dtype.newbyteorder("<"))
        one: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(tensor.shape)}
        if is_binary.get(name, False):
            content = tensor.astype(DTYPES[datatype], copy=False).tobytes()
            parts.append(content)
            one["parameters"] = {BINARY_SIZE: len(content)}
        else:
            one["data"] = tensor.ravel().tolist()
        described.append(one)
    text = msgspec.json.encode({**head, "outputs": described})
    return b"".join([text, *parts]), len(text) if parts else None
