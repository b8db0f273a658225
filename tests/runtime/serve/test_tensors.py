"""Tensors cross the wire as they are, in JSON and in bytes; what is no request is told in words."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from m2l_runtime.errors import ArgumentError
from m2l_runtime.serve.tensors import parse_request, write_response


def request(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "mask", "shape": [2, 2], "datatype": "UINT8", "data": [0, 1, 2, 255], **changes}


def test_parse_request__data_may_be_flat_or_nested() -> None:
    flat = parse_request(request(tensor()), None)
    nested = parse_request(request(tensor(data=[[0, 1], [2, 255]])), None)
    assert flat.tensors["mask"].tolist() == nested.tensors["mask"].tolist() == [[0, 1], [2, 255]]
    assert flat.tensors["mask"].dtype == np.uint8


def test_parse_request__binary_tensors_follow_in_their_order() -> None:
    first = {"name": "mask", "shape": [3], "datatype": "UINT8", "parameters": {"binary_data_size": 3}}
    second = {"name": "seeds", "shape": [1], "datatype": "UINT64", "parameters": {"binary_data_size": 8}}
    text = request(first, second, {"name": "appearance", "shape": [1], "datatype": "FP32", "data": [2.5]}, id="a")
    asked = parse_request(text + b"\x01\x02\x03" + struct.pack("<Q", 2**64 - 1), str(len(text)))
    assert asked.tensors["mask"].tolist() == [1, 2, 3]
    assert asked.tensors["seeds"].tolist() == [2**64 - 1]
    assert asked.tensors["appearance"].tolist() == [2.5]
    assert (asked.id, asked.outputs) == ("a", None)


def test_parse_request__seeds_in_json_keep_all_digits() -> None:
    one = {"name": "seeds", "shape": [2], "datatype": "UINT64", "data": [2**64 - 1, 2**53 + 1]}
    assert parse_request(request(one), None).tensors["seeds"].tolist() == [2**64 - 1, 2**53 + 1]


BAD = {
    "no JSON": (b"\xff", None, "not JSON"),
    "empty": (b"", None, "not JSON"),
    "a list": (b"[]", None, "not JSON of an inference request"),
    "no inputs": (b"{}", None, "inputs"),
    "none": (request(), None, "got 0 inputs"),
    "unknown field": (request(tensor(), x=1), None, "unknown field"),
    "nested without end": (b'{"inputs":' + b"[" * 100_000, None, "not JSON|recursion"),
    "data nested without end": (request(tensor())[:-20] + b"[" * 100_000, None, "not JSON"),
    "twice": (request(tensor(), tensor()), None, "there twice"),
    "type": (request(tensor(datatype="BYTES")), None, "is 'BYTES'; expected one of UINT8"),
    "too few": (request(tensor(data=[1])), None, "4 values; 1 came"),
    "ragged": (request(tensor(data=[[1], [2, 3]])), None, "must be a list of numbers"),
    "text": (request(tensor(data=["a"] * 4)), None, "must be a list of numbers"),
    "fractions": (request(tensor(data=[0.5] * 4)), None, "must be a list of numbers"),
    "booleans": (request(tensor(data=[True] * 4)), None, "must be a list of numbers"),
    "too high": (request(tensor(data=[0, 1, 2, 256])), None, "0 to 255"),
    "negative": (request(tensor(data=[0, 1, 2, -1])), None, "0 to 255"),
    "huge": (request(tensor(data=[0, 1, 2, 10**40])), None, "must be a list of numbers|not JSON"),
    "a number": (request(tensor(data=5, shape=[1])), None, "must be a list of numbers"),
    "null": (request(tensor(data=None)), None, "must be a list of numbers"),
    "an object": (request(tensor(data={})), None, "must be a list of numbers"),
    "no shape": (request(tensor(shape=[])), None, "1 to 8 sides"),
    "many sides": (request(tensor(shape=[1] * 9)), None, "1 to 8 sides"),
    "negative side": (request(tensor(shape=[-1, -4])), None, "1 to 8 sides"),
    "huge side": (request(tensor(shape=[2**31])), None, "1 to 8 sides"),
    "no data": (request({k: v for k, v in tensor().items() if k != "data"}), None, "neither data nor"),
    "both": (request(tensor(parameters={"binary_data_size": 4})), None, "both data and"),
    "size": (request({**tensor(parameters={"binary_data_size": True}), "data": None}), None, "both|number of bytes"),
    "shared memory": (request(tensor(parameters={"shared_memory_region": "a"})), None, "'shared_memory_region'"),
    "trailing": (request(tensor()) + b"abc", str(len(request(tensor()))), "3 bytes follow the JSON"),
    "header length": (request(tensor()), "-1", "whole number up to"),
    "header length too long": (request(tensor()), "99999999999999", "whole number up to"),
    "header length beyond": (request(tensor()), "5000", "whole number up to"),
    "long id": (request(tensor(), id="x" * 1000), None, "at most 256 characters"),
}


@pytest.mark.parametrize(("body", "length", "message"), BAD.values(), ids=BAD)
def test_parse_request__what_is_no_request_is_told_in_words(body: bytes, length: str | None, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        parse_request(body, length)
    assert len(str(caught.value)) < 2100


def test_parse_request__a_binary_tensor_of_another_size_is_refused() -> None:
    one = {"name": "mask", "shape": [2, 2], "datatype": "UINT8", "parameters": {"binary_data_size": 3}}
    text = request(one)
    with pytest.raises(ArgumentError, match="has 4 bytes; 3 came"):
        parse_request(text + b"abc", str(len(text)))
    one["parameters"] = {"binary_data_size": 4}
    text = request(one)
    with pytest.raises(ArgumentError, match="has 4 bytes; 3 came"):
        parse_request(text + b"abc", str(len(text)))


def test_write_response__is_read_back_by_the_protocol() -> None:
    outputs: dict[str, npt.NDArray[Any]] = {
        "image": np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
        "seeds": np.array([2**64 - 1], np.uint64),
    }
    body, length = write_response({"model_name": "m"}, outputs, {"image": True})
    assert length is not None
    head = json.loads(body[:length])
    assert body[length:] == bytes(range(6))
    assert head["outputs"][0] == {
        "name": "image",
        "datatype": "UINT8",
        "shape": [1, 2, 3],
        "parameters": {"binary_data_size": 6},
    }
    assert head["outputs"][1]["data"] == [2**64 - 1]
    assert write_response({}, outputs, {})[1] is None
