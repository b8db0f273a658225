"""The deploy graph of a modulated generator: against the network in float64, and its files against the formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from functional_modulated import FILTERED, SMALL, drawn_inputs, images_by_formula, small_modulated

from m2l_export.graph.deploy import deploy
from m2l_export.graph.fp16_weights import store_weights_as_fp16
from m2l_export.graph.half_precision import EmulatedHalf, emulate_half_precision, to_half_precision
from m2l_export.graph.modulated import DeployModulated
from m2l_export.graph.onnx_writer import BATCH, IMAGE, input_specs, to_onnx
from m2l_export.quantize.quantizer import Quantizer, Target
from m2l_runtime.backends.base import BackendOptions, ModelSource
from m2l_runtime.backends.registry import backend_module
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.errors import CheckpointError
from m2l_runtime.synthesizer import run_in_batches
from m2l_train.models.modulated import ModulatedSpec

SIZES = [(32, 32), (16, 40)]


def inputs(batch: int, size: tuple[int, int]) -> dict[str, npt.NDArray[Any]]:
    return dict(zip(("mask", "appearance", "noise"), drawn_inputs(SMALL, batch, size), strict=True))


def levels(images: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return ((images + 1) * 127.5).round().clip(0, 255).astype(np.int64)


@pytest.mark.parametrize("spec", [SMALL, FILTERED])
@pytest.mark.parametrize("size", SIZES)
def test_deploy_modulated__equals_the_network_in_float64(size: tuple[int, int], spec: ModulatedSpec) -> None:
    network = small_modulated(spec).double()
    masks, rows, noise = drawn_inputs(SMALL, 3, size)
    x, row, random = torch.from_numpy(masks)[:, None].double() / 127.5 - 1, torch.from_numpy(rows).double(), noise
    with torch.inference_mode():
        scaled = (torch.from_numpy(random).double() - 127.5) / np.sqrt((256**2 - 1) / 12)
        expected = network(x, row, scaled)
        found = DeployModulated(network)(x, row, torch.from_numpy(random).double())
    assert (found - expected).abs().max() < 1e-12
    assert expected.std() > 0.1


def test_deploy_modulated__leaves_the_network_as_it_was() -> None:
    network = small_modulated()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    graph = DeployModulated(network)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("size", "spec"), [*((size, SMALL) for size in SIZES), (SIZES[1], FILTERED)])
def test_files__give_what_the_formulas_do_at_any_batch(
    engine: str, size: tuple[int, int], spec: ModulatedSpec, is_half: bool
) -> None:
    """Within a level; with weights stored in half precision, within two."""
    if engine == "openvino":
        pytest.importorskip("openvino")
    network, specs = small_modulated(spec), input_specs(spec, size)
    content = to_onnx(deploy(network).graph, specs)
    given = inputs(4, size)
    expected = levels(images_by_formula(network.state_dict(), *given.values()))
    image = TensorSpec(name=IMAGE, role="image", dtype="uint8", shape=(BATCH, *size, 3))
    content = store_weights_as_fp16(content) if is_half else content
    source = ModelSource(name="g.onnx", content=content, precision="fp32", inputs=specs, outputs=(image,))
    for batch in (1, 3):
        backend = backend_module(engine).load(source, BackendOptions(device="cpu", batch_size=batch))
        difference = np.abs(run_in_batches(backend, given).astype(int) - expected)
        backend.close()
        assert difference.max() <= (2 if is_half else 1)
        assert difference.mean() < (0.2 if is_half else 1e-3)
    assert expected.std() > 20


def run(graph: torch.nn.Module, given: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    with torch.inference_mode():
        images = graph(**{name: torch.from_numpy(array) for name, array in given.items()})
    return images.numpy().astype(np.int64)  # type: ignore[no-any-return]


def test_half_precision__convolutions_alone_are_in_it_and_images_are_near() -> None:
    graph = deploy(small_modulated()).graph
    half = to_half_precision(graph)
    kinds = {name: parameter.dtype for name, parameter in half.named_parameters()}
    in_single = {name for name, kind in kinds.items() if kind == torch.float32}
    assert in_single == {name for name in kinds if ".factors." in name or ".numbers." in name}
    given, quick = inputs(4, (32, 32)), emulate_half_precision(half)
    expected, by_torch, emulated = run(graph, given), run(half, given), run(quick, given)
    assert sum(isinstance(module, EmulatedHalf) for module in quick.modules()) == 3 + 6 + 6 + 2 + 1
    assert np.abs(by_torch - expected).max() <= 2
    assert np.abs(emulated - by_torch).max() <= 1
    assert (by_torch != expected).any()
    assert {parameter.dtype for parameter in graph.parameters()} == {torch.float32}, "it is left as it was"


def test_half_precision__weights_beyond_it() -> None:
    network = small_modulated()
    with torch.no_grad():
        network.get_parameter("layers.3.skip_weight")[0] = 1e5
    with pytest.raises(CheckpointError, match=r"weights of up to .* which half precision cannot hold"):
        to_half_precision(deploy(network).graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_statistics": "running"}, "no norms, hence no running statistics; leave out --norm-statistics"),
        ({"stochastic": True}, "no dropout: noise makes its images differ.*; leave out --stochastic"),
        ({"upsampling": "transposed"}, "no transposed convolutions; leave out --upsampling"),
    ],
)
def test_deploy__what_a_modulated_generator_has_not(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        deploy(small_modulated(), **options)


@pytest.mark.parametrize("upsampling", ["pixel-shuffle", "resize"])
def test_deploy__its_upsampling_is_what_it_was_trained_with(upsampling: Any) -> None:
    assert deploy(small_modulated(), upsampling=upsampling).upsampling == "resize"


@pytest.mark.parametrize("spec", [SMALL, FILTERED])
@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_fixed_filter__is_no_layer_and_stays_in_float(target: Target, spec: ModulatedSpec) -> None:
    content = to_onnx(deploy(small_modulated(spec)).graph, input_specs(spec, (32, 32)))
    quantizer = Quantizer(content, inputs(2, (32, 32)), target)
    filtering = [node for node in onnx.load_from_string(content).graph.node if node.name == "head.fine"]
    assert [node.op_type for node in filtering] == ["Conv"]
    assert {layer.name for layer in quantizer.layers} >= {"head", "ups.0"}
    assert "head.fine" not in {layer.node for layer in quantizer.layers}
    graph = onnx.load_from_string(quantizer.quantize()).graph
    fixed = {one.name: one for one in graph.initializer}[filtering[0].input[1]]
    assert fixed.data_type == onnx.TensorProto.FLOAT
    left = [node for node in graph.node if node.op_type == "Conv" and node.input[1] == fixed.name]
    assert len(left) == 1
    quantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    others = [node for node in graph.node if node.op_type == "Conv" and node not in left]
    assert all(node.input[1] in quantized for node in others)
