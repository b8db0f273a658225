"""TensorRT for RTX parses and builds every graph that is exported, for cards that are not here; refusals are told."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support import slow

from m2l_export.graph.deploy import Upsampling, deploy
from m2l_export.graph.fp16_weights import store_weights_as_fp16
from m2l_export.graph.half_precision import to_half_precision
from m2l_export.graph.onnx_builder import Builder, Value
from m2l_export.graph.onnx_writer import OPSET, input_specs, to_onnx
from m2l_export.quantize.quantizer import Quantizer, Target
from m2l_runtime.backends.cuda.devices import Gpu
from m2l_runtime.backends.trt import inspect
from m2l_runtime.backends.trt.build import BuildOptions, Plan, PlanError, _configured, _timing_cache, build_plan
from m2l_runtime.backends.trt.inspect import ConvolutionType, LayerType
from m2l_runtime.backends.trt.library import logger
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.errors import ArgumentError, EngineNotInstalled
from m2l_runtime.literals import Norm
from m2l_train.models.networks import UnetGenerator, UnetSpec

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")

CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
SIDE = 32
OPTIONS = BuildOptions(compute_capability="8.9", batch_sizes=(1, 2, 4))
GPU = Gpu(0, "Fake H100", "9.0", 1 << 36, "13.0")
NAMES = [f"downs.{level}" for level in range(6)] + [f"ups.{level}" for level in reversed(range(6))]
MASK = TensorSpec(name="mask", role="mask", dtype="uint8", shape=("batch", SIDE, SIDE))


def rotating(*kinds: tuple[object, ...]) -> list[Any]:
    """Pair each kind of graph with each compute capability; one of a kind is fast, another one for the next kind."""
    return [
        (slow if number % len(CAPABILITIES) != turn else pytest.param)(*kind, capability)
        for number, kind in enumerate(kinds)
        for turn, capability in enumerate(CAPABILITIES)
    ]


@functools.cache
def exported(
    precision: LayerType, upsampling: Upsampling = "pixel-shuffle", norm: Norm = "instance", *, is_steered: bool = False
) -> tuple[bytes, tuple[TensorSpec, ...]]:
    """ONNX of a network of five levels, and its inputs."""
    torch.manual_seed(0)
    spec = UnetSpec(6, 4, 3, 3, norm, appearance_rows=4 if is_steered else 0)
    graph = deploy(UnetGenerator(spec), "instance", upsampling, is_steered).graph
    specs = input_specs(spec, (64, 64), is_steered)
    return to_onnx(to_half_precision(graph) if precision == "fp16" else graph, specs), specs


@pytest.mark.parametrize(("precision", "capability"), rotating(("fp32",), ("fp16",)))
def test_build__builds_for_cards_that_are_not_here(precision: LayerType, capability: str) -> None:
    content, specs = exported(precision)
    plan = build_plan(content, specs, precision, BuildOptions(compute_capability=capability))
    assert (plan.compute_capability, plan.batch_sizes, plan.flavour) == (capability, (1, 16, 64), "tensorrt_rtx")
    assert plan.onnx_sha256 == hashlib.sha256(content).hexdigest()
    assert len(plan.content) > 10_000
    assert [one.type for one in plan.convolutions] == [precision] * 12
    assert [one.name for one in plan.convolutions] == NAMES
    assert (plan.counts, plan.types_read_from, plan.card) == ({precision: 12}, "network", None)


@pytest.mark.parametrize(
    ("upsampling", "norm", "is_steered", "precision", "capability"),
    rotating(
        ("pixel-shuffle", "instance", True, "fp32"),
        ("transposed", "instance", True, "fp16"),
        ("transposed", "instance", False, "fp32"),
        ("pixel-shuffle", "batch", False, "fp16"),
        ("pixel-shuffle", "instance", True, "fp16"),
        ("transposed", "instance", True, "fp32"),
        ("transposed", "instance", False, "fp16"),
        ("pixel-shuffle", "batch", False, "fp32"),
    ),
)
def test_build__builds_whatever_a_graph_is_like(
    upsampling: Upsampling, norm: Norm, is_steered: bool, precision: LayerType, capability: str
) -> None:
    content, specs = exported(precision, upsampling, norm, is_steered=is_steered)
    plan = build_plan(content, specs, precision, replace(OPTIONS, compute_capability=capability))
    assert [one.type for one in plan.convolutions] == [precision] * 12


@pytest.mark.parametrize("tf32", [False, True])
def test_build__single_precision_is_not_tf32_unless_it_is_asked_for(tf32: bool) -> None:
    """The library's own default is to round silently what convolutions multiply."""
    builder = tensorrt_rtx.Builder(logger(tensorrt_rtx))
    made = _configured(tensorrt_rtx, builder, replace(OPTIONS, tf32=tf32, memory_limit_bytes=1 << 20), "8.9")
    assert made.get_flag(tensorrt_rtx.BuilderFlag.TF32) is tf32
    assert made.get_memory_pool_limit(tensorrt_rtx.MemoryPoolType.WORKSPACE) == 1 << 20
    assert made.profiling_verbosity == tensorrt_rtx.ProfilingVerbosity.DETAILED


def test_build__half_precision_throughout_builds_as_well() -> None:
    torch.manual_seed(0)
    spec = UnetSpec(6, 4, 3, 3, "instance")
    graph = to_half_precision(deploy(UnetGenerator(spec), "instance", "pixel-shuffle").graph, fp32_norms=False)
    specs = input_specs(spec, (64, 64))
    assert build_plan(to_onnx(graph, specs), specs, "fp16", OPTIONS).counts == {"fp16": 12}


@pytest.mark.slow
def test_build__plans_of_one_graph_for_two_cards_differ() -> None:
    content, specs = exported("fp32")
    plans = [build_plan(content, specs, "fp32", BuildOptions(compute_capability=name)) for name in ("8.0", "12.0")]
    assert plans[0].content != plans[1].content
    assert plans[0].version == plans[1].version


def test_build__half_asked_of_a_graph_in_single_is_refused() -> None:
    """Strongly typed: it would be built in single precision without a word."""
    content, specs = exported("fp32")
    with pytest.raises(PlanError, match=r"^0 of 12 convolutions compute in fp16, at least 95% .* export it in fp16$"):
        build_plan(content, specs, "fp16", OPTIONS)


def test_build__a_few_layers_may_be_in_another_precision() -> None:
    def chain(singles: int) -> bytes:
        to, mask = Builder(), Value("mask", np.dtype(np.uint8), (SIDE, SIDE))
        x = to.node("Unsqueeze", "plane", to.cast("floats", mask, np.float32), (1,), shape=(1, SIDE, SIDE))
        for k in range(20):
            x = to.cast(f"halves.{k}", x, np.float32 if k < singles else np.float16)
            weight = to.initializer(f"weight.{k}", np.full((1, 1, 3, 3), 0.1, x.dtype))
            x = to.node("Conv", f"conv.{k}", x, weight, pads=[1, 1, 1, 1])
        x = to.node("Squeeze", "picture", x, (1,), shape=(SIDE, SIDE))
        return to.finish("chain", [mask], to.cast("image", x, np.uint8), OPSET, ("test", ""))

    plan = build_plan(chain(1), (MASK,), "fp16", OPTIONS)
    assert [one.type for one in plan.convolutions] == ["fp32"] + ["fp16"] * 19
    with pytest.raises(PlanError, match=r"^18 of 20 convolutions compute in fp16.* in fp32, .* in fp32\)"):
        build_plan(chain(2), (MASK,), "fp16", OPTIONS)


def model(*nodes: onnx.NodeProto, **initializers: np.ndarray[Any, Any]) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("mask", TensorProto.UINT8, ["batch", SIDE, SIDE])],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIDE, SIDE])],
        [onnx.numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    made.ir_version = 10
    return bytes(made.SerializeToString())


def test_build__an_input_without_a_profile_is_named() -> None:
    content, specs = exported("fp32", is_steered=True)
    for some in (specs[:1], specs[1:], ()):
        with pytest.raises(
            PlanError, match="a profile is needed for each input of the graph, appearance, dropout_bits, "
        ):
            build_plan(content, some, "fp32", OPTIONS)


def test_build__a_batch_that_is_not_open() -> None:
    content, specs = exported("fp32")
    model = onnx.load_from_string(content)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(PlanError, match="TensorRT for RTX did not build the plan: "):
        build_plan(model.SerializeToString(), specs, "fp32", OPTIONS)


def test_build__dropout_that_is_left_on_is_not_taken() -> None:
    """Exported in training mode, where onnxruntime drops it without a word."""
    node = helper.make_node("Dropout", ["float", "ratio", "training"], ["dropped"], name="dropout")
    live = model(
        helper.make_node("Cast", ["mask"], ["float"], to=TensorProto.FLOAT),
        node,
        helper.make_node("Cast", ["dropped"], ["image"], to=TensorProto.UINT8),
        ratio=np.array(0.5, np.float32),
        training=np.array(True),
    )
    with pytest.raises(PlanError, match="^TensorRT does not take the graph: Dropout 'dropout': "):
        build_plan(live, (MASK,), "fp32", OPTIONS)


def test_build__weights_stored_in_half_precision_compute_in_single() -> None:
    content, specs = exported("fp32")
    plan = build_plan(store_weights_as_fp16(content), specs, "fp32", OPTIONS)
    assert plan.counts == {"fp32": 12}


def test_build__what_the_builder_said_is_kept() -> None:
    content, specs = exported("fp16")
    said = build_plan(content, specs, "fp16", OPTIONS).log
    assert said
    assert all(line.partition(": ")[0] in ("info", "warning", "error") for line in said)
    assert any("engine" in line.lower() for line in said)


def test_build__what_the_parser_does_not_take_is_named() -> None:
    cases = {
        "Greater 'compare'": model(
            helper.make_node("Greater", ["mask", "limit"], ["is"], name="compare"),
            helper.make_node("Cast", ["is"], ["image"], to=TensorProto.UINT8),
            limit=np.array(128, np.uint8),
        ),
        "Unsqueeze 'reshape'": model(
            helper.make_node("Unsqueeze", ["mask", "axis"], ["wide"], name="reshape"),
            helper.make_node("Squeeze", ["wide", "axis"], ["image"]),
            axis=np.array([1], np.int64),
        ),
        "RandomUniformLike 'dice'": model(
            helper.make_node("Cast", ["mask"], ["float"], to=TensorProto.FLOAT),
            helper.make_node(
                "RandomUniformLike", ["float"], ["random"], name="dice", seed=1.0, dtype=TensorProto.DOUBLE
            ),
            helper.make_node("Cast", ["random"], ["image"], to=TensorProto.UINT8),
        ),
    }
    for named, content in cases.items():
        with pytest.raises(PlanError, match=f"^TensorRT does not take the graph: {named}: "):
            build_plan(content, (MASK,), "fp32", OPTIONS)
    with pytest.raises(PlanError, match="^TensorRT does not take the graph: "):
        build_plan(b"no protocol buffer", (MASK,), "fp32", OPTIONS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (BuildOptions(compute_capability="9.0"), r"builds for compute capability 7.5, .*; got 9.0"),
        (BuildOptions(compute_capability="8.9\x1b"), r"; got 8\.9"),
        (
            BuildOptions(),
            r"there is no GPU here to build for; name a compute capability \(--compute-capability\): 7.5, ",
        ),
        (BuildOptions(card=GPU), r"builds for compute capability 7.5, .*; got 9.0"),
        (BuildOptions(flavour="tensorrt"), "TensorRT builds on the GPU that the plan is for, and there is none here"),
        (
            BuildOptions(flavour="tensorrt", compute_capability="8.9"),
            "builds on the GPU that the plan is for, and the",
        ),
        (
            BuildOptions(flavour="tensorrt", compute_capability="8.9", card=GPU),
            "builds for the GPU that is there, of compute capability 9.0; got 8.9: leave it out, or build with ten",
        ),
        (BuildOptions(compute_capability="8.9", optimization_level=6), "the optimization level is 0 to 5; got 6"),
        (BuildOptions(batch_sizes=(4, 2, 8)), "from 1 and in order; got 4, 2, 8"),
        (BuildOptions(batch_sizes=(0, 2, 8)), "from 1 and in order; got 0, 2, 8"),
        (BuildOptions(batch_sizes=(1, 2, 4097)), "a call takes at most 4,096 masks; got 4,097"),
    ],
)
def test_build__options_that_cannot_be(options: BuildOptions, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", lambda _: None)
    is_out_of_range = options.optimization_level is not None or options.batch_sizes != BuildOptions.batch_sizes
    with pytest.raises(ArgumentError if is_out_of_range else PlanError, match=said):
        build_plan(b"", (MASK,), "fp32", options)


def test_build__a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise ImportError("No module named 'tensorrt'")

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(
        EngineNotInstalled, match=r"TensorRT \(tensorrt\) does not load \(No module .*\): pip install tensorrt-cu13"
    ):
        build_plan(b"", (MASK,), "fp32", BuildOptions(flavour="tensorrt", card=GPU))


def test_build__progress_and_a_wish_to_stop() -> None:
    content, specs = exported("fp32")
    seen: list[tuple[str, int, int]] = []

    def note(*step: Any) -> bool:
        seen.append(step)
        return True

    assert isinstance(build_plan(content, specs, "fp32", OPTIONS, note), Plan)
    assert seen
    assert all(phase and 1 <= done <= total for phase, done, total in seen)
    with pytest.raises(PlanError, match="^the build was stopped$"):
        build_plan(content, specs, "fp32", OPTIONS, lambda *_: False)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), ValueError("in a step")])
def test_build__what_is_raised_in_a_step_is_raised(error: BaseException, capfd: pytest.CaptureFixture[str]) -> None:
    """The bindings would print it and go on, so that Ctrl-C were a failed build."""
    content, specs = exported("fp32")

    def fail(*_: Any) -> bool:
        raise error

    with pytest.raises(type(error)):
        build_plan(content, specs, "fp32", OPTIONS, fail)
    assert "Traceback" not in capfd.readouterr().err


class FakeConfig:
    """A fake of TensorRT's own builder config, which keeps timings."""

    def __init__(self, takes: set[bytes]) -> None:
        self._takes, self.given = takes, list[bytes]()

    def create_timing_cache(self, content: bytes) -> bytes | None:
        self.given.append(content)
        return None if content == b"damaged" else content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return cache in self._takes


@pytest.mark.parametrize(
    ("content", "used", "is_told"),
    [(b"", b"", False), (b"good", b"good", False), (b"damaged", b"", True), (b"other", b"", True)],
)
def test_build__timings_that_the_library_does_not_take_are_left_aside(
    content: bytes, used: bytes, is_told: bool
) -> None:
    lines: list[str] = []
    config = FakeConfig({b"", b"good"})
    assert _timing_cache(config, BuildOptions(flavour="tensorrt", timing_cache=content), lines) == used
    assert bool(lines) is is_told
    assert _timing_cache(config, OPTIONS, lines) is None, "TensorRT for RTX has none"


@pytest.mark.slow
def test_build__types_of_the_engine_count_where_it_tells_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake of the inspector, as there is no card: fused layers tell of no convolution."""
    content, specs = exported("fp16")
    options = replace(OPTIONS, card=replace(GPU, compute_capability="8.9"))
    told = [ConvolutionType(name, "fp16") for name in NAMES]
    monkeypatch.setattr(inspect, "convolutions", lambda *_: tuple(told))
    assert build_plan(content, specs, "fp16", options).types_read_from == "engine"
    told[0] = ConvolutionType("downs.0", "fp32")
    with pytest.raises(PlanError, match=r"^11 of 12 convolutions compute in fp16, at least 95% .* \(downs.0 in fp32\)"):
        build_plan(content, specs, "fp16", options)
    del told[3:]
    plan = build_plan(content, specs, "fp16", options)
    assert (plan.types_read_from, plan.counts) == ("network", {"fp16": 12})
    assert "info: the inspector tells of 3 of 12 convolutions" in plan.log


@pytest.mark.parametrize(
    ("is_steered", "upsampling", "capability"),
    rotating((False, "pixel-shuffle"), (True, "pixel-shuffle"), (False, "transposed")),
)
def test_build__int8_builds(is_steered: bool, upsampling: Upsampling, capability: str) -> None:
    content, specs = exported("fp32", upsampling, is_steered=is_steered)
    quantizer = Quantizer(content, random_inputs(specs), "tensorrt")
    plan = build_plan(quantizer.quantize(), specs, "int8", replace(OPTIONS, compute_capability=capability))
    assert [one.type for one in plan.convolutions] == ["int8"] * 12


def test_build__int8_with_layers_in_float() -> None:
    content, specs = exported("fp32")
    quantizer = Quantizer(content, random_inputs(specs), "tensorrt")
    assert build_plan(quantizer.quantize(["downs.0"]), specs, "int8", OPTIONS, float_count=1).counts == {
        "fp32": 1,
        "int8": 11,
    }
    left = quantizer.quantize(["downs.0", "ups.0"])
    with pytest.raises(PlanError, match=r"^10 of 12 convolutions compute in int8, .* in fp32, .* in fp32\)"):
        build_plan(left, specs, "int8", OPTIONS)


def random_inputs(specs: Sequence[TensorSpec]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    inputs: dict[str, Any] = {}
    for spec in specs:
        sides = (2, *(side for side in spec.shape if side != "batch"))
        drawn = rng.integers(0, 256, sides) if spec.dtype == "uint8" else rng.normal(size=sides)
        inputs[spec.name] = drawn.astype(spec.dtype)
    return inputs


def test_build__int8_as_onnxruntime_wants_it_is_not_taken() -> None:
    """Biases as integers, which TensorRT's parser refuses: files are made for each engine."""
    content, specs = exported("fp32")
    targets: tuple[Target, ...] = ("onnxruntime", "openvino")
    for target in targets:
        quantized = Quantizer(content, {"mask": np.zeros((1, 64, 64), np.uint8)}, target).quantize()
        with pytest.raises(PlanError, match="^TensorRT does not take the graph: "):
            build_plan(quantized, specs, "int8", OPTIONS)
