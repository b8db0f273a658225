"""Weights outside an ONNX file: found wherever the parsers of engines find them, however the file is written.

The parsers are two of protobuf's: upb, that of Python, and C++, which onnxruntime, OpenVINO and TensorRT use.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2l_runtime.bundle import onnx_file
from m2l_runtime.bundle.onnx_file import external_tensors
from m2l_runtime.errors import M2LError

onnx = pytest.importorskip("onnx")

from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from onnx.onnx_cpp2py_export import shape_inference  # noqa: E402

VARINTS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_ENUM,
}


def varint(value: int, extra: int = 0) -> bytes:
    """A number of 7 bits a byte, with bytes that it could do without."""
    out, value = bytearray(), value % (1 << 64)
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    if extra:
        out[-1] |= 0x80
        out += bytes([0x80] * (extra - 1) + [0])
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def messages_with_tensors() -> dict[str, Any]:
    """Descriptors of all messages of onnx's own schema in which a tensor can stand, by name."""
    found: dict[str, Any] = {}

    def visit(descriptor: Any) -> None:
        if descriptor.name not in found:
            found[descriptor.name] = descriptor
            for one in descriptor.fields:
                if one.message_type is not None:
                    visit(one.message_type)

    visit(onnx.ModelProto.DESCRIPTOR)
    names = {"TensorProto"}
    while more := {n for n, d in found.items() if n not in names and any(t in names for _, t in held(d))}:
        names |= more
    return {name: found[name] for name in names}


def held(descriptor: Any) -> list[tuple[int, str]]:
    return [(one.number, one.message_type.name) for one in descriptor.fields if one.message_type is not None]


def test_external_tensors__knows_the_schema_of_onnx() -> None:
    schema = messages_with_tensors()
    assert {n: frozenset(f.number for f in d.fields) for n, d in schema.items()} == onnx_file._FIELDS
    places = {n: {number: t for number, t in held(d) if t in schema} for n, d in schema.items() if n != "TensorProto"}
    assert places == onnx_file._HOLDS


def add_model(tensor: bytes) -> bytes:
    """A model that adds a tensor `w` of four numbers to its input, the tensor as these bytes."""
    x, y = (helper.make_tensor_value_info(name, 1, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y]).SerializeToString()
    head = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]).SerializeToString()
    return bytes(head + field(7, graph + field(5, tensor)))


BASE = TensorProto(name="w", dims=[4], data_type=1).SerializeToString()
ELSEWHERE = onnx.StringStringEntryProto(key="location", value="w.bin").SerializeToString()


def long_tag(number: int, wire: int, bit: int) -> bytes:
    """A tag with a bit above the 32nd, which engines drop."""
    return varint(1 << bit | number << 3 | wire)


OUTSIDE = {
    "plain": field(13, ELSEWHERE) + varint(14 << 3) + b"\1",
    "location alone": varint(14 << 3) + b"\1",
    "a bit of the tag above the 32nd": long_tag(13, 2, 33) + field(13, ELSEWHERE)[1:] + long_tag(14, 0, 34) + b"\1",
    "tags that are too long": varint(13 << 3 | 2, 2) + field(13, ELSEWHERE)[1:] + varint(14 << 3, 3) + b"\1",
    "a location above 32 bits": field(13, ELSEWHERE) + varint(14 << 3) + varint(1 << 40 | 1),
    "a location above 32 bits alone": varint(14 << 3) + varint(1 << 33 | 1),
    "a location that is too long": varint(14 << 3) + varint(1, 4),
}


@pytest.mark.parametrize("how", OUTSIDE)
def test_external_tensors__none_is_hidden_by_how_it_is_written(how: str) -> None:
    content = add_model(BASE + OUTSIDE[how])
    (tensor,) = as_cpp(content).graph.initializer
    assert tensor.data_location == TensorProto.EXTERNAL, "so C++ reads it"
    assert is_refused(content)


def as_cpp(content: bytes) -> Any:
    """What protobuf in C++ reads, written anew."""
    return onnx.ModelProto.FromString(shape_inference.infer_shapes(content, False, False, False))


def is_refused(content: bytes) -> bool:
    try:
        return bool(external_tensors(content))
    except ValueError:
        return True


# Engines themselves, which are not to find `w.bin` in the current folder, nor where a link or `..` leads.


def onnxruntime_reads(content: bytes) -> None:
    pytest.importorskip("onnxruntime")
    from m2l_runtime.backends import onnxruntime as backend

    backend._start_session(content, backend._session_options(1))


def tensorrt_reads(content: bytes) -> None:
    library = pytest.importorskip("tensorrt_rtx")
    from m2l_runtime.backends.trt import build

    logger = library.Logger(library.Logger.INTERNAL_ERROR)
    builder = library.Builder(logger)
    build._parse(library, builder.create_network(0), content)


@pytest.mark.parametrize("reads", [onnxruntime_reads, pytest.param(tensorrt_reads, marks=pytest.mark.slow)])
def test_external_tensors__engines_have_no_folder_to_read_from(
    reads: Callable[[bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.arange(4, dtype=np.float32).tofile(tmp_path / "w.bin")
    reads(add_model(BASE + field(9, bytes(16))))
    for where in ("w.bin", str(tmp_path / "w.bin"), f"../{tmp_path.name}/w.bin", f"..{tmp_path}/w.bin"):
        entry = onnx.StringStringEntryProto(key="location", value=where).SerializeToString()
        with pytest.raises(M2LError):
            reads(add_model(BASE + field(13, entry) + OUTSIDE["location alone"]))


class Writer:
    """Write messages as protobuf's encoding allows, or nearly: in ways that no library does."""

    def __init__(self, seed: int, oddness: float) -> None:
        self._random, self._oddness = random.Random(seed), oddness  # noqa: S311

    def odd(self) -> bool:
        return self._random.random() < self._oddness

    def number(self, value: int) -> bytes:
        return varint(value, self._random.randrange(1, 6) if self.odd() else 0)

    def tag(self, number: int, wire: int) -> bytes:
        tag = number << 3 | wire
        if self.odd():
            tag |= 1 << self._random.randrange(29, 40)
        return self.number(tag)

    def message(self, message: Any) -> bytes:
        parts = [part for one, value in message.ListFields() for part in self.field(one, value)]
        while self.odd():
            parts.append(self._random.choice((self.unknown, self.group))())
        if self.odd():
            self._random.shuffle(parts)
        if parts and self.odd():
            parts.append(self._random.choice(parts))
        return b"".join(parts)

    def field(self, one: Any, value: Any) -> Iterator[bytes]:
        for item in value if one.is_repeated else [value]:
            if one.type in VARINTS:
                high = (
                    self._random.randrange(1, 1 << 31) << 32
                    if one.type == FieldDescriptor.TYPE_ENUM and self.odd()
                    else 0
                )
                yield self.tag(one.number, 0) + self.number(item + high)
            elif one.type == FieldDescriptor.TYPE_FLOAT:
                yield self.tag(one.number, 5) + np.float32(item).tobytes()
            elif one.type == FieldDescriptor.TYPE_DOUBLE:
                yield self.tag(one.number, 1) + np.float64(item).tobytes()
            else:
                is_message = one.type == FieldDescriptor.TYPE_MESSAGE
                content = self.message(item) if is_message else item.encode() if isinstance(item, str) else item
                wire = self._random.choice((1, 3, 5)) if self.odd() and self.odd() else 2
                yield self.tag(one.number, wire) + self.number(len(content)) + content

    def unknown(self) -> bytes:
        number = self._random.choice((9, 15, 17, 27, 100, (1 << 29) - 1))
        return self.tag(number, 0) + self.number(self._random.randrange(1 << 40))

    def group(self) -> bytes:
        number = self._random.choice((5, 7, 13, 14, 30))
        return self.tag(number, 3) + self.unknown() + self.tag(number, 4)


def random_model(seed: int) -> Any:
    """A model with tensors in many places, some of them outside the file."""
    rng = random.Random(seed)  # noqa: S311
    count = 0

    def tensor() -> Any:
        nonlocal count
        count += 1
        made = TensorProto(name=f"t{count}", dims=[rng.randrange(3)], data_type=rng.randrange(1, 8))
        if rng.random() < 0.25:
            made.data_location = TensorProto.EXTERNAL
        if rng.random() < 0.2:
            made.external_data.add(key="location", value="w.bin")
        made.raw_data = rng.randbytes(rng.randrange(9))
        return made

    def attribute(depth: int) -> Any:
        made = onnx.AttributeProto(name="a", i=-rng.randrange(5), f=0.5, type=rng.randrange(1, 6))
        kind = rng.randrange(6 if depth else 4)
        if kind == 0:
            made.t.CopyFrom(tensor())
        elif kind == 1:
            made.tensors.extend([tensor(), tensor()])
        elif kind == 2:
            made.sparse_tensor.values.CopyFrom(tensor())
        elif kind == 3:
            made.sparse_tensors.add().indices.CopyFrom(tensor())
        elif kind == 4:
            made.g.CopyFrom(graph(depth - 1))
        else:
            made.graphs.extend([graph(depth - 1)])
        return made

    def node(depth: int) -> Any:
        return onnx.NodeProto(op_type="Unknown", output=["y"], attribute=[attribute(depth)])

    def graph(depth: int) -> Any:
        made = onnx.GraphProto(name="g", node=[node(depth) for _ in range(rng.randrange(2))])
        made.initializer.extend(tensor() for _ in range(rng.randrange(2)))
        if rng.random() < 0.2:
            made.sparse_initializer.add().values.CopyFrom(tensor())
        return made

    model = onnx.ModelProto(ir_version=8, graph=graph(2))
    if rng.random() < 0.2:
        model.functions.add(name="f", node=[node(1)])
    if rng.random() < 0.2:
        model.training_info.add().algorithm.CopyFrom(graph(1))
    return model


def outside(message: Any) -> set[str]:
    """Names of the tensors in a message that onnx takes for external, or that name a place."""
    if message.DESCRIPTOR.name == "TensorProto":
        is_outside = message.data_location == TensorProto.EXTERNAL or len(message.external_data) > 0
        return {message.name or "(unnamed)"} if is_outside else set()
    found: set[str] = set()
    for one, value in message.ListFields():
        if one.message_type is not None:
            for item in value if one.is_repeated else [value]:
                found |= outside(item)
    return found


def test_external_tensors__agrees_with_onnx_on_what_libraries_write() -> None:
    with_some = 0
    for seed in range(200):
        model = random_model(seed)
        expected = outside(model)
        assert set(external_tensors(model.SerializeToString())) == expected, seed
        assert set(external_tensors(Writer(seed, 0).message(model))) == expected, seed
        with_some += bool(expected)
    assert 50 < with_some < 150


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))])
def test_external_tensors__what_a_parser_finds_outside_is_never_passed(part: int) -> None:
    """Files in ways that no library writes, and with bytes changed: 600 a part."""
    found = passed = 0
    for seed in range(600 * part, 600 * (part + 1)):
        rng = random.Random(seed)  # noqa: S311
        content = bytearray(Writer(seed, rng.choice((0.005, 0.02, 0.1))).message(random_model(seed)))
        for _ in range(rng.choice((0, 0, 1, 3))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        is_outside = False
        for parse in (onnx.ModelProto.FromString, as_cpp):
            try:
                is_outside |= bool(outside(parse(bytes(content))))
            except Exception:  # noqa: BLE001, S112 - it is no file to that parser
                continue
        assert not is_outside or is_refused(bytes(content)), seed
        found += is_outside
        passed += not is_refused(bytes(content))
    assert found > 50, "parsers read what is written"
    assert passed > 50, "and so does ours"


def test_external_tensors__numbers_have_one_form() -> None:
    read = onnx_file._varint
    for value in (0, 1, 127, 128, 300, (1 << 32) - 1, 1 << 63, (1 << 64) - 1):
        content = varint(value)
        assert read(memoryview(content), 0) == (value, len(content))
        if len(content) < 10:
            with pytest.raises(ValueError, match="longer than it needs to be"):
                read(memoryview(varint(value, 1)), 0)
    for content in (b"", b"\x80", b"\xff" * 9, b"\xff" * 9 + b"\2", b"\xff" * 10 + b"\1"):
        with pytest.raises(ValueError, match="a number that"):
            read(memoryview(content), 0)
