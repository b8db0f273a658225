"""The deploy graph of a ResNet generator: each rewrite in float64, and its files against the description."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from functional_resnet import original_resnet
from torch import Tensor

from m2l_export.graph.deploy import NormStatistics, SubPixelConv3x3, Upsampling, deploy, dropout_byte_count
from m2l_export.graph.fp16_weights import store_weights_as_fp16
from m2l_export.graph.half_precision import emulate_half_precision, to_half_precision
from m2l_export.graph.onnx_writer import BATCH, IMAGE, input_specs, to_onnx
from m2l_export.graph.resnet import flatten_resnet
from m2l_runtime.backends.base import BackendOptions, ModelSource
from m2l_runtime.backends.registry import backend_module
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.errors import CheckpointError
from m2l_runtime.literals import Norm
from m2l_runtime.synthesizer import run_in_batches
from m2l_train.models.resnet import ResnetGenerator, ResnetSpec

SIZE = (16, 24)
CASES: tuple[tuple[Norm, NormStatistics], ...] = (
    ("instance", "instance"),
    ("batch", "instance"),
    ("batch", "running"),
    ("none", "instance"),
)


def network(norm: Norm = "instance", blocks: int = 2, dropout: bool = True, channels: int = 3) -> ResnetGenerator:
    """In float64, with biases off zero, scales off one and statistics off (0, 1)."""
    torch.manual_seed(3)
    made = ResnetGenerator(ResnetSpec(blocks, 3, channels, channels, norm, dropout)).double().eval()
    for name, tensor in made.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) * 3 + 0.2)
        elif tensor.is_floating_point():
            spread = 0.15 if norm == "none" else 0.3
            tensor.copy_(torch.randn_like(tensor) * spread + (0.2 if name.endswith("bias") else 0))
    return made


def masks(count: int) -> Any:
    random = np.random.default_rng(5)
    return (random.random((count, *SIZE)) < 0.5).astype(np.uint8) * 255


def described(made: ResnetGenerator, given: Any, statistics: NormStatistics, kept: list[Tensor] | None = None) -> Any:
    """Images (B, H, W, C) in [-1, 1] by the description, one mask at a time."""
    images = []
    for mask in given:
        x = torch.from_numpy(mask)[None, None].double() / 127.5 - 1
        y = original_resnet(
            made.double().state_dict(),
            x.expand(1, made.spec.input_nc, *SIZE),
            made.spec.blocks,
            batch_norm="batch" if statistics == "instance" else "running",
            kept=kept or (),
        )
        images.append(y[0].permute(1, 2, 0).numpy())
    return np.stack(images)


def levels(images: Any) -> Any:
    return ((images + 1) * 127.5).round().clip(0, 255).astype(np.int64)


@pytest.mark.parametrize(("norm", "statistics"), CASES)
@pytest.mark.parametrize("upsampling", ["pixel-shuffle", "transposed"])
def test_deploy__computes_the_description(norm: Norm, statistics: NormStatistics, upsampling: Upsampling) -> None:
    made, (mask,) = network(norm), masks(1)
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    deployed = deploy(made, statistics, upsampling)
    with torch.inference_mode():
        found = deployed.graph.unet(torch.from_numpy(mask)[None, None].double() / 127.5 - 1)
    expected = described(made, [mask], statistics)
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=1e-11)
    assert expected.std() > 0.05
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())
    assert deployed.norm_statistics == ("none" if norm == "none" else statistics)


def test_deploy__a_black_mask_is_0_before_the_first_norm() -> None:
    graph = deploy(network()).graph.unet
    black = torch.full((1, 1, *SIZE), -1.0, dtype=torch.float64)
    with torch.inference_mode():
        assert graph.downs[0].layer(black).abs().max() < 1e-12  # type: ignore[index, union-attr]


def test_sub_pixel__is_the_transposed_convolution() -> None:
    torch.manual_seed(1)
    layer = torch.nn.ConvTranspose2d(3, 2, 3, 2, 1, 1).double()
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(SubPixelConv3x3(layer)(x), layer(x), rtol=0, atol=1e-14)


def test_deploy__dropout_keeps_what_the_bits_say() -> None:
    made, (mask,) = network(), masks(1)
    graph = flatten_resnet(made, stochastic=True)
    kept = [torch.rand(1, 12, 4, 6, generator=torch.Generator().manual_seed(k)) < 0.5 for k in range(2)]
    factors = torch.cat([one.flatten(1) for one in kept], 1).double() * 2
    x = (torch.from_numpy(mask)[None, None].double() / 127.5 - 1).expand(1, 3, *SIZE)
    with torch.inference_mode():
        found, without = graph(x, None, factors), flatten_resnet(made)(x)
    expected = described(made, [mask], "instance", [one.double() for one in kept])
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=1e-11)
    assert (found - without).abs().max() > 0.1


def test_dropout__bytes() -> None:
    spec = ResnetSpec(9, 64, 3, 3, "instance")
    assert dropout_byte_count(spec, (256, 256)) == 9 * 256 * 64 * 64 // 8
    with pytest.raises(CheckpointError, match="fill no whole bytes; choose a height or width that is a multiple of 8"):
        dropout_byte_count(ResnetSpec(1, 1, 3, 3, "instance"), (12, 12))
    with pytest.raises(CheckpointError, match="expected at most 134,217,728; leave out --stochastic"):
        dropout_byte_count(spec, (2048, 2048))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("norm", "statistics"), CASES[:3])
@pytest.mark.parametrize("upsampling", ["pixel-shuffle", "transposed"])
def test_files__give_what_the_description_does_at_any_batch(
    engine: str, norm: Norm, statistics: NormStatistics, upsampling: Upsampling
) -> None:
    pytest.importorskip(engine)
    made, given = network(norm), masks(4)
    expected = levels(described(made, given, statistics))
    specs = input_specs(made.spec, SIZE)
    content = to_onnx(deploy(made.float(), statistics, upsampling).graph, specs)
    assert expected.std() > 20
    for is_half in (False, True):
        stored = store_weights_as_fp16(content) if is_half else content
        difference = np.abs(_run(engine, stored, specs, {"mask": given}) - expected)
        assert difference.max() <= (2 if is_half else 1)
        assert difference.mean() < (0.2 if is_half else 1e-3)


@pytest.mark.parametrize("upsampling", ["pixel-shuffle", "transposed"])
def test_files__drop_by_bits_and_compute_in_half(upsampling: Upsampling) -> None:
    made, given = network(), masks(3)
    specs = input_specs(made.spec, SIZE, stochastic=True)
    count = dropout_byte_count(made.spec, SIZE)
    bits = np.random.default_rng(2).integers(0, 256, (3, count), np.uint8)
    kept = np.unpackbits(bits, axis=1, bitorder="little").reshape(3, 2, 1, 12, 4, 6)
    expected = np.concatenate(
        [
            levels(described(made, [mask], "instance", [torch.from_numpy(one).double() for one in row]))
            for mask, row in zip(given, kept, strict=True)
        ]
    )
    graph = deploy(made.float(), upsampling=upsampling, stochastic=True).graph
    inputs = {"mask": given, "dropout_bits": bits}
    assert np.abs(_run("onnxruntime", to_onnx(graph, specs), specs, inputs) - expected).max() <= 1
    half = to_half_precision(graph)
    content = to_onnx(half.eval(), specs)
    with torch.inference_mode():
        emulated = emulate_half_precision(half)(torch.from_numpy(given), None, torch.from_numpy(bits)).numpy()
    for found in (_run("onnxruntime", content, specs, inputs), emulated.astype(int)):
        assert np.abs(found - expected).mean() < 0.5


def _run(engine: str, content: bytes, specs: tuple[TensorSpec, ...], inputs: dict[str, Any]) -> Any:
    image = TensorSpec(name=IMAGE, role="image", dtype="uint8", shape=(BATCH, *SIZE, 3))
    source = ModelSource(name="g.onnx", content=content, precision="fp32", inputs=specs, outputs=(image,))
    backend = backend_module(engine).load(source, BackendOptions(device="cpu", batch_size=3))
    images = run_in_batches(backend, inputs).astype(int)
    backend.close()
    return images


def test_files__have_the_layers_names_and_no_dead_biases() -> None:
    made = network(blocks=1)
    model = onnx.load_from_string(to_onnx(deploy(made.float()).graph, input_specs(made.spec, SIZE)))
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    names = ["downs.0", "downs.1", "downs.2", "blocks.0.first", "blocks.0.second", "ups.0", "ups.1", "head"]
    assert [node.name for node in nodes] == names
    assert [len(node.input) for node in nodes] == [3] + [2] * 6 + [3]
    assert sum(node.op_type == "Pad" for node in model.graph.node) == 4


def test_to_onnx__other_inputs_than_the_graph_takes() -> None:
    made = network()
    more = TensorSpec(name="appearance", role="appearance", dtype="float32", shape=(BATCH, 12))
    with pytest.raises(ValueError, match="takes mask and perhaps dropout_bits; got"):
        to_onnx(deploy(made.float()).graph, (*input_specs(made.spec, SIZE), more))
