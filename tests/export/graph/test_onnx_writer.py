"""The ONNX file: its interface, its bytes, and onnxruntime against PyTorch and the file of PyTorch's exporter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from functional_modulated import SMALL, small_modulated
from onnx import TensorProto, numpy_helper
from support import Array, disc
from torch import nn
from torch_exporter import exported

from m2l_export.graph.deploy import ByteGraph, DeployUnet, NormStatistics, Upsampling, deploy
from m2l_export.graph.half_precision import emulate_half_precision, to_half_precision
from m2l_export.graph.modulated import DeployModulated
from m2l_export.graph.onnx_writer import (
    APPEARANCE,
    DROPOUT_BITS,
    FIXED_WEIGHTS,
    MASK,
    NOISE,
    OPSET,
    input_specs,
    to_onnx,
)
from m2l_export.graph.stage import Stage
from m2l_export.quantize.equalize import channel_peaks, equalize, equalize_results
from m2l_runtime.bundle.onnx_file import external_tensors
from m2l_runtime.bundle.schema import TensorSpec
from m2l_train.models.modulated import ModulatedSpec
from m2l_train.models.networks import UnetGenerator, UnetSpec

PLAIN = UnetSpec(6, 4, 3, 3, "instance")
FILM = replace(PLAIN, appearance_rows=5)
BATCH_NORM = replace(PLAIN, norm="batch")
RESIZE = replace(PLAIN, upsample="resize")


def same(graph: ByteGraph, _: Mapping[str, npt.NDArray[Any]]) -> ByteGraph:
    return graph


def equalised(graph: ByteGraph, inputs: Mapping[str, npt.NDArray[Any]]) -> ByteGraph:
    peaks = channel_peaks(graph, inputs)
    return equalize_results(equalize(graph, peaks), peaks)


def half(graph: ByteGraph, _: Mapping[str, npt.NDArray[Any]]) -> ByteGraph:
    return to_half_precision(graph)


def whole_half(graph: ByteGraph, _: Mapping[str, npt.NDArray[Any]]) -> ByteGraph:
    return to_half_precision(graph, fp32_norms=False)


@dataclass(frozen=True)
class Kind:
    """A kind of deploy graph, with random weights."""

    spec: UnetSpec | ModulatedSpec = PLAIN
    upsampling: Upsampling = "pixel-shuffle"
    statistics: NormStatistics = "instance"
    stochastic: bool = False
    size: tuple[int, int] = (64, 64)
    change: Callable[[ByteGraph, Mapping[str, npt.NDArray[Any]]], ByteGraph] = same

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        return input_specs(self.spec, self.size, self.stochastic)

    @property
    def is_half(self) -> bool:
        return self.change in (half, whole_half)

    def inputs(self, batch: int = 4) -> dict[str, npt.NDArray[Any]]:
        """Discs, a noisy mask and one of a single pixel, and what else the graph takes."""
        generator, (height, width) = np.random.default_rng(7), self.size
        masks = np.stack([disc(max(self.size), 5 + 4 * i, 30, 20 + 5 * i)[:height, :width] for i in range(batch)])
        masks[-1] = generator.integers(0, 256, self.size)
        masks[0] = 0
        masks[0, height // 3, width // 2] = 255
        made: dict[str, npt.NDArray[Any]] = {
            MASK: masks,
            APPEARANCE: generator.uniform(0, 50, (batch, self.spec.numbers)).astype(np.float32),
            DROPOUT_BITS: generator.integers(0, 256, (batch, cast(int, self.specs[-1].shape[-1]))).astype(np.uint8),
        }
        made[NOISE] = made[DROPOUT_BITS]
        return {spec.name: made[spec.name] for spec in self.specs}

    def graph(self) -> ByteGraph:
        if isinstance(self.spec, ModulatedSpec):
            return self.change(deploy(small_modulated(self.spec)).graph, self.inputs()).eval()
        torch.manual_seed(4)
        network = UnetGenerator(self.spec).eval()
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.1)
        if network.appearance is not None:
            network.appearance.set_table(torch.rand(self.spec.appearance_rows, 12) * 50)
        with torch.inference_mode():
            made = deploy(network, self.statistics, self.upsampling, self.stochastic).graph
            return self.change(made, self.inputs()).eval()


KINDS: dict[str, Kind] = {
    "plain": Kind(),
    "no norm": Kind(replace(PLAIN, norm="none")),
    "batch norm": Kind(BATCH_NORM),
    "running statistics": Kind(BATCH_NORM, statistics="running"),
    "transposed": Kind(upsampling="transposed"),
    "deconvolution, batch norm": Kind(BATCH_NORM, upsampling="transposed"),
    "resize": Kind(RESIZE, upsampling="resize"),
    "resize, running statistics": Kind(replace(RESIZE, norm="batch"), upsampling="resize", statistics="running"),
    "resize as sub-pixel": Kind(RESIZE),
    "one channel": Kind(replace(PLAIN, input_nc=1, output_nc=1)),
    "wide": Kind(size=(64, 128)),
    "tall": Kind(replace(FILM, output_nc=1), stochastic=True, size=(192, 64)),
    "five levels": Kind(replace(PLAIN, levels=5, ngf=2)),
    "seven levels": Kind(replace(PLAIN, levels=7, ngf=2), size=(128, 128)),
    "nine levels": Kind(replace(PLAIN, levels=9, ngf=2), size=(512, 512)),
    "appearance": Kind(FILM),
    "appearance, no norm": Kind(replace(FILM, norm="none"), upsampling="transposed"),
    "dropout": Kind(stochastic=True),
    "dropout of three stages": Kind(replace(PLAIN, levels=8, ngf=2), stochastic=True, size=(256, 256)),
    "appearance and dropout": Kind(replace(FILM, levels=7), stochastic=True, size=(128, 128)),
    "appearance and dropout, resize": Kind(
        replace(RESIZE, appearance_rows=5, levels=7), upsampling="resize", stochastic=True, size=(128, 128)
    ),
    "equalized": Kind(upsampling="transposed", change=equalised),
    "equalized, appearance and dropout": Kind(FILM, upsampling="transposed", stochastic=True, change=equalised),
    "half": Kind(change=half),
    "half, deconvolution": Kind(upsampling="transposed", change=half),
    "half, resize": Kind(RESIZE, upsampling="resize", change=half),
    "half, batch norm": Kind(BATCH_NORM, change=half),
    "half, appearance and dropout": Kind(replace(FILM, levels=7), stochastic=True, size=(128, 128), change=half),
    "modulated": Kind(SMALL),
    "modulated, wide": Kind(replace(SMALL, encoder=(3,), decoder=(4,)), size=(32, 64)),
    "modulated, half": Kind(SMALL, change=half),
    "half throughout": Kind(change=whole_half),
    "half throughout, batch norm": Kind(BATCH_NORM, change=whole_half),
    "half throughout, no norm, one channel": Kind(replace(PLAIN, norm="none", output_nc=1), change=whole_half),
}

by_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def written(kind: Kind) -> bytes:
    return to_onnx(kind.graph(), kind.specs)


def run(content: bytes, inputs: Mapping[str, npt.NDArray[Any]]) -> Array:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images: Array = session.run(None, dict(inputs))[0]
    return images


@by_kind
def test_onnx_writer__onnxruntime_computes_what_pytorch_does(kind: Kind) -> None:
    graph, inputs = kind.graph(), kind.inputs()
    with torch.inference_mode():
        expected = emulate_half_precision(graph)(
            **{name: torch.from_numpy(array) for name, array in inputs.items()}
        ).numpy()
    found = run(to_onnx(graph, kind.specs), inputs)
    assert found.shape == expected.shape
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= (2 if kind.is_half else 1)
    assert difference.mean() <= (0.1 if kind.is_half else 1e-3)
    assert expected.std() > 3
    assert np.abs(expected[1].astype(int) - expected[2]).mean() > 0.3, "masks are told from each other"


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", ["plain", "appearance and dropout", "half, appearance and dropout"])
def test_onnx_writer__any_batch(name: str, batch: int) -> None:
    kind = KINDS[name]
    content, inputs = written(kind), kind.inputs(5)
    together = run(content, {name: array[:batch] for name, array in inputs.items()})
    alone = np.concatenate([run(content, {n: a[row : row + 1] for n, a in inputs.items()}) for row in range(batch)])
    assert np.abs(together.astype(int) - alone).max() <= 1


@pytest.mark.slow
@by_kind
def test_onnx_writer__the_same_images_as_of_the_file_that_pytorch_exports(kind: Kind) -> None:
    graph, inputs = kind.graph(), kind.inputs()
    np.testing.assert_array_equal(run(to_onnx(graph, kind.specs), inputs), run(exported(graph, kind.specs), inputs))


@by_kind
def test_onnx_writer__what_shape_inference_finds_is_what_the_file_says(kind: Kind) -> None:
    """Also of what lies between: a convolution's output has the shape that the writer counted on for dropout."""
    model = onnx.load_from_string(written(kind))
    declared = [(d.dim_param or d.dim_value) for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert declared == ["batch", *kind.size, 3]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    found = inferred.graph.output[0].type.tensor_type
    assert [d.dim_value for d in found.shape.dim][1:] == [*kind.size, 3]
    assert found.elem_type == TensorProto.UINT8


@pytest.mark.parametrize(
    ("name", "of_convolutions", "of_norms"),
    [
        ("appearance and dropout", TensorProto.FLOAT, TensorProto.FLOAT),
        ("half, appearance and dropout", TensorProto.FLOAT16, TensorProto.FLOAT),
        ("half, batch norm", TensorProto.FLOAT16, TensorProto.FLOAT),
        (
            "half throughout",
            TensorProto.FLOAT16,
            TensorProto.FLOAT,
        ),  # the training network's norms are so by themselves
        ("half throughout, batch norm", TensorProto.FLOAT16, TensorProto.FLOAT16),
    ],
)
def test_onnx_writer__types(name: str, of_convolutions: int, of_norms: int) -> None:
    """Which images do not tell: onnxruntime's CPU computes halves in single precision."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(written(KINDS[name])), check_type=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.input)}
    expected = {
        "Conv": of_convolutions,
        "InstanceNormalization": of_norms,
        "Relu": of_convolutions,
        "Tanh": of_convolutions,
        "Gemm": TensorProto.FLOAT,
        "Round": TensorProto.FLOAT,
    }
    found = {(node.op_type, kinds[node.input[0]]) for node in model.graph.node if node.op_type in expected}
    assert found == {(kind, type_) for kind, type_ in expected.items() if kind != "Gemm" or "appearance" in name}


@by_kind
def test_onnx_writer__weights_have_the_names_that_pytorch_gives_them(kind: Kind) -> None:
    """Which a bundle is read back by (scripts/quantize_bundle.py)."""
    graph = kind.graph()
    initializers = onnx.load_from_string(to_onnx(graph, kind.specs)).graph.initializer
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in initializers}
    for name, tensor in graph.state_dict().items():
        assert found[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_onnx_writer__interface() -> None:
    kind = KINDS["tall"]
    model = onnx.load_from_string(written(kind))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("mask", "tensor(uint8)", ["batch", 192, 64]),
        ("appearance", "tensor(float)", ["batch", 12]),
        ("dropout_bits", "tensor(uint8)", ["batch", 32 * 12 * 4 // 8]),
    ]
    assert [(i.name, i.type, i.shape) for i in session.get_outputs()] == [
        ("image", "tensor(uint8)", ["batch", 192, 64, 3])
    ]
    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    assert (model.ir_version, model.producer_name) == (10, "m2l")


@by_kind
def test_onnx_writer__nothing_but_the_network_is_in_the_file(kind: Kind) -> None:
    model = onnx.load_from_string(written(kind))
    graph_parts = (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer)
    for part in (model, model.graph, *graph_parts):
        assert not part.metadata_props
        assert not part.doc_string
    assert not model.graph.value_info
    assert not model.functions
    assert b".py" not in model.SerializeToString()
    used = {name for node in model.graph.node for name in node.input}
    made = {name for node in model.graph.node for name in node.output}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    assert made - {"image"} <= used, "no node without a use"
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)


@by_kind
def test_onnx_writer__the_same_weights_give_the_same_bytes(kind: Kind) -> None:
    assert written(kind) == written(kind)


def test_onnx_writer__the_norm_stays_one_operator_and_dropout_is_gone() -> None:
    model = onnx.load_from_string(written(Kind(replace(PLAIN, levels=8), size=(256, 256))))
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["InstanceNormalization"] == 13
    assert (kinds["Conv"], kinds["DepthToSpace"], kinds["ConvTranspose"]) == (16, 8, 0)
    assert "Dropout" not in kinds
    assert sum(len(n.input) == 3 for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose")) == 3


@pytest.mark.parametrize("upsampling", ["pixel-shuffle", "transposed"])
def test_onnx_writer__convolutions_are_called_by_their_place(upsampling: Upsampling) -> None:
    model = onnx.load_from_string(written(Kind(upsampling=upsampling)))
    names = [node.name for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert names == [*(f"downs.{level}" for level in range(6)), *(f"ups.{level}" for level in reversed(range(6)))]


def test_onnx_writer__convolutions_of_a_modulated_generator_are_called_by_their_place() -> None:
    nodes = [node for node in onnx.load_from_string(written(Kind(SMALL))).graph.node if node.op_type == "Conv"]
    names = [node.name for node in nodes if not node.input[1].endswith(FIXED_WEIGHTS)]
    ups = [(f"ups.{n}.noise", *((f"ups.{n}.skip",) if n in (3, 5) else ()), f"ups.{n}") for n in range(6)]
    assert names == ["downs.0", "downs.1", "downs.2", *(name for stage in ups for name in stage), "head"]


@by_kind
def test_onnx_writer__bytes_are_cast_ahead_of_all_else(kind: Kind) -> None:
    """TensorRT neither reshapes nor subtracts uint8, and has no operators on bits."""
    model = onnx.load_from_string(written(kind))
    for spec in kind.specs:
        readers = {node.op_type for node in model.graph.node if spec.name in node.input}
        assert spec.dtype != "uint8" or readers == {"Cast"}
    assert model.graph.node[-1].op_type == "Cast"
    assert not {n.op_type for n in model.graph.node} & {"BitShift", "BitwiseAnd", "BitwiseOr", "Mod", "Greater"}


def test_onnx_writer__external_data_is_seen(tmp_path: Path) -> None:
    model = onnx.load_from_string(written(Kind()))
    assert external_tensors(model.SerializeToString()) == []
    path = tmp_path / "m.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, size_threshold=0, location="w.bin")
    assert len(external_tensors(path.read_bytes())) == len(model.graph.initializer)


class Squared(nn.LeakyReLU):
    """Of a class that computes something else than its parent."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - as in the base class
        return super().forward(input) ** 2


def stage(graph: ByteGraph, level: int) -> Stage:
    return cast(Stage, cast(DeployUnet, graph.unet).downs[level])


def of_another_layer(graph: ByteGraph) -> None:
    stage(graph, 2).layer = nn.AvgPool2d(2)


def of_another_norm(graph: ByteGraph) -> None:
    stage(graph, 2).norm = nn.GroupNorm(1, 16)


def of_a_subclass(graph: ByteGraph) -> None:
    modulation = cast(DeployUnet, graph.unet).modulation
    assert modulation is not None
    modulation.hidden[1] = Squared()


def test_onnx_writer__a_subclass_in_a_modulated_generator_is_refused() -> None:
    graph = Kind(SMALL).graph()
    cast(DeployModulated, graph.unet).numbers.mlp[1] = Squared()
    with pytest.raises(TypeError, match=r"^unet\.numbers\.mlp\.1 is of class .*Squared, .*onnx_layers has functions"):
        to_onnx(graph, Kind(SMALL).specs)


def of_another_network(graph: ByteGraph) -> None:
    graph.unet = nn.Sequential(nn.Conv2d(1, 3, 1))


def of_other_padding(graph: ByteGraph) -> None:
    stage(graph, 0).layer = nn.Conv2d(1, 4, 4, 2, 1, padding_mode="replicate")


def of_padding_in_words(graph: ByteGraph) -> None:
    stage(graph, 0).layer = nn.Conv2d(1, 4, 3, 1, "same")


def of_running_statistics(graph: ByteGraph) -> None:
    stage(graph, 1).norm = nn.InstanceNorm2d(8, track_running_stats=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            of_another_layer,
            r"^unet\.downs\.2\.layer is of class torch\..*\.AvgPool2d, .* functions for .*SubPixelConv2d",
        ),
        (of_another_norm, r"^unet\.downs\.2\.norm is of class torch\..*\.GroupNorm, which is not written as ONNX"),
        (of_a_subclass, r"^unet\.modulation\.hidden\.1 is of class .*test_onnx_writer\.Squared, which is not"),
        (of_another_network, r"^unet is of class torch\..*\.Sequential, which is not written"),
        (of_other_padding, r"^unet\.downs\.0\.layer is padded by \(1, 1\) in mode replicate; only numbers of zeros"),
        (of_padding_in_words, r"^unet\.downs\.0\.layer is padded by same in mode zeros; only numbers of zeros"),
        (of_running_statistics, r"^unet\.downs\.1\.norm normalizes by running statistics"),
    ],
)
def test_onnx_writer__what_is_not_known_is_refused(change: Callable[[ByteGraph], None], message: str) -> None:
    graph = KINDS["appearance"].graph()
    change(graph)
    with pytest.raises(TypeError, match=message):
        to_onnx(graph, KINDS["appearance"].specs)


@pytest.mark.parametrize(
    ("kind", "specs", "message"),
    [
        (Kind(FILM), input_specs(PLAIN, (64, 64)), "takes an appearance, contrary to the inputs"),
        (Kind(PLAIN), input_specs(FILM, (64, 64)), "takes no appearance, contrary to the inputs"),
        (Kind(PLAIN), input_specs(PLAIN, (64, 64), True), r"acts on 0 values of the network, .* have 512 bits"),
        (Kind(stochastic=True), input_specs(PLAIN, (64, 64)), r"acts on 512 values of the network, .* have 0 bits"),
        (Kind(stochastic=True), input_specs(PLAIN, (64, 128), True)[1:], r"got \['dropout_bits'\]"),
        (Kind(PLAIN), (), r"takes mask and perhaps appearance, dropout_bits; got \[\]"),
        (Kind(SMALL), input_specs(FILM, (64, 64)), r"takes appearance, mask, noise; got \['mask', 'appearance'\]"),
        (Kind(SMALL), input_specs(SMALL, (64, 64))[:2], r"takes appearance, mask, noise; got"),
        (
            Kind(SMALL),
            (*input_specs(SMALL, (64, 64))[:2], *input_specs(SMALL, (32, 64))[2:]),
            "takes 1,728 bytes of noise, and the input has 864",
        ),
    ],
)
def test_onnx_writer__inputs_of_another_network(kind: Kind, specs: Sequence[TensorSpec], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_onnx(kind.graph(), specs)


def test_onnx_writer__layers_that_do_not_fit_each_other_are_refused() -> None:
    for layer, message in (
        (nn.Conv2d(7, 32, 4, 2, 1), "takes 7 channels of float32, and is given 16 of float32"),
        (nn.Conv2d(16, 32, 4, 2, 1).half(), "takes 16 channels of float16, and is given 16 of float32"),
    ):
        graph = KINDS["plain"].graph()
        stage(graph, 3).layer = layer
        with pytest.raises(ValueError, match=rf"^unet\.downs\.3\.layer {message}$"):
            to_onnx(graph, KINDS["plain"].specs)
    graph = KINDS["plain"].graph()
    stage(graph, 3).layer = nn.Conv2d(16, 32, 4, 2, 2)
    with pytest.raises(onnx.shape_inference.InferenceError, match=r"ups\.\d"):
        to_onnx(graph, KINDS["plain"].specs)
