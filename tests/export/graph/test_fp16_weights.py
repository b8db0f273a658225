"""Weights stored in half precision: what is rounded, what is not, and that nothing else changes."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import CommandLine
from functional_unet import original_generator
from onnx import TensorProto, numpy_helper
from support import REFERENCE, TINY, disc
from torch import nn

from m2l_export import ExportOptions, export_checkpoint
from m2l_export.checkpoint import load_checkpoint
from m2l_export.graph.deploy import Upsampling, deploy
from m2l_export.graph.fp16_weights import store_weights_as_fp16
from m2l_export.graph.onnx_writer import input_specs, to_onnx
from m2l_export.parity import gate
from m2l_runtime import Synthesizer
from m2l_runtime.errors import CheckpointError
from m2l_runtime.literals import Norm, Upsample
from m2l_train.models.networks import UnetGenerator, UnetSpec

pytestmark = pytest.mark.usefixtures("only_onnxruntime")

SPEC = UnetSpec(6, 16, 3, 3, "instance")


def network(spec: UnetSpec = SPEC) -> UnetGenerator:
    torch.manual_seed(3)
    made = UnetGenerator(spec).eval()
    for name, tensor in made.state_dict().items():
        if tensor.is_floating_point() and "running" not in name:
            tensor.normal_(0, 0.1)
    return made


def onnx_of(
    made: UnetGenerator, upsampling: Upsampling = "pixel-shuffle", stochastic: bool = False, side: int = 64
) -> bytes:
    specs = input_specs(made.spec, (side, side), stochastic)
    return to_onnx(deploy(made, upsampling=upsampling, stochastic=stochastic).graph, specs)


def initializers(content: bytes) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load_from_string(content).graph.initializer}


def test_fp16_weights__weights_are_halved_and_nothing_else() -> None:
    plain = onnx_of(network())
    half = store_weights_as_fp16(plain)
    assert 0.49 < len(half) / len(plain) < 0.53
    before, after = initializers(plain), initializers(half)
    rounded = 0
    for name, tensor in before.items():
        if len(tensor.dims) == 4:
            stored, values = numpy_helper.to_array(after[f"{name}.fp16"]), numpy_helper.to_array(tensor)
            assert stored.dtype == np.float16
            expected = torch.from_numpy(values.copy()).half().float().numpy()
            np.testing.assert_array_equal(stored.astype(np.float32), expected)
            rounded += 1
        else:
            assert after[name].SerializeToString() == tensor.SerializeToString()
    assert rounded == 12, "six layers down, six up"
    assert len(before) == len(after)


def test_fp16_weights__what_computes_is_single_precision(tmp_path: Path) -> None:
    """After its own constants are folded, onnxruntime runs the very same operators on the very same types."""
    plain = onnx_of(network())
    graphs = []
    for content in (plain, store_weights_as_fp16(plain)):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(content, options)
        graphs.append(onnx.load(tmp_path / "optimized.onnx").graph)
    kinds = [Counter(node.op_type for node in graph.node) for graph in graphs]
    assert kinds[0] == kinds[1]
    assert not [t.name for t in graphs[1].initializer if t.data_type == TensorProto.FLOAT16]


def test_fp16_weights__the_same_file_twice() -> None:
    plain = onnx_of(network())
    assert store_weights_as_fp16(plain) == store_weights_as_fp16(plain)


def rounded_network(made: UnetGenerator) -> UnetGenerator:
    """With the weights that a half-precision file holds: the first layer's are summed over the mask's channels."""
    made = copy.deepcopy(made)
    for name, parameter in made.named_parameters():
        if parameter.ndim < 2:
            continue
        if name == "model.model.0.weight":
            total = parameter.detach().sum(1, keepdim=True).half().float()
            parameter.data = torch.cat([total, torch.zeros_like(parameter[:, 1:])], 1)
        else:
            parameter.data = parameter.detach().half().float()
    return made


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("upsampling", ["pixel-shuffle", "transposed"])
def test_fp16_weights__images_are_those_of_a_network_of_rounded_weights(norm: Norm, upsampling: Upsampling) -> None:
    made = network(UnetSpec(6, 4, 3, 3, norm))
    masks = np.stack([disc(64, 5 + 9 * i, 30, 20 + 5 * i) for i in range(3)])
    session = onnxruntime.InferenceSession(store_weights_as_fp16(onnx_of(made, upsampling)))
    found = session.run(None, {"mask": masks})[0].astype(np.float64)
    state = {k: v.double() for k, v in rounded_network(made).state_dict().items()}
    for mask, image in zip(masks, found, strict=True):
        x = torch.from_numpy(mask).double().expand(1, 3, 64, 64) / 127.5 - 1
        y = original_generator(state, x, 6, batch_norm="batch")[0]
        assert np.abs(image - ((y + 1) * 127.5).numpy().transpose(1, 2, 0)).max() < 0.51
    exact = onnxruntime.InferenceSession(onnx_of(made, upsampling)).run(None, {"mask": masks})[0]
    assert (exact != found).mean() > 1e-4, "rounding is seen"


@pytest.mark.parametrize("upsample", ["deconv", "resize"])
def test_fp16_weights__with_all_that_comes_in(upsample: Upsample) -> None:
    """Only the large matrices of the appearance are rounded; what numbers are scaled by stays exact."""
    spec = UnetSpec(6, 4, 3, 3, "instance", upsample=upsample, appearance_rows=9)
    made = network(spec)
    assert made.appearance is not None
    made.appearance.set_table(torch.rand(9, 12) * 50 + 10)
    before = initializers(onnx_of(made, stochastic=True))
    after = initializers(store_weights_as_fp16(onnx_of(made, stochastic=True)))
    for name, tensor in before.items():
        if tensor.data_type == TensorProto.FLOAT and sum(side > 1 for side in tensor.dims) < 2:
            assert after[name].data_type == TensorProto.FLOAT
    twelves = [numpy_helper.to_array(tensor) for tensor in after.values() if list(tensor.dims) == [12]]
    for exact in (made.appearance.mean, made.appearance.std):
        assert any(np.array_equal(values, exact.numpy()) for values in twelves)
    matrices = [t for t in after.values() if t.data_type == TensorProto.FLOAT16 and len(t.dims) == 2]
    assert sorted(sorted(t.dims) for t in matrices) == [[12, 64], [64, 64], [64, 2 * (4 + 8 + 16 + 32 + 32)]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7e4, r"weights of up to 7e\+04 \(unet.ups.0.*half precision cannot hold.*leave out --weights fp16"),
        (1e-9, r"weights of at most 1e-09 \(unet.ups.0.*rounds to zero, all of them; leave out --weights fp16"),
    ],
)
def test_fp16_weights__weights_that_half_precision_cannot_hold(tmp_path: Path, value: float, message: str) -> None:
    state = torch.load(TINY / "tiny_net_G.pth", weights_only=True)
    last = state["model.model.3.weight"]
    last[:] = value
    with pytest.raises(CheckpointError, match=r"^.*g\.pth: has " + message):
        torch.save(state, tmp_path / "g.pth")
        export_checkpoint(tmp_path / "g.pth", tmp_path / "b", ExportOptions(weights="fp16"))
    assert not (tmp_path / "b").exists()
    export_checkpoint(tmp_path / "g.pth", tmp_path / "b")


def test_fp16_weights__weights_that_are_zero_stay_so() -> None:
    made = network(UnetSpec(6, 2, 3, 3, "instance"))
    nn.init.zeros_(made.model.down.weight)
    store_weights_as_fp16(onnx_of(made))


def test_fp16_weights__the_gate_accepts_two_levels_for_these_and_one_for_others(
    tmp_path: Path, m2l: CommandLine
) -> None:
    outcome = m2l("export", TINY / "tiny_net_G.pth", tmp_path / "b", "--weights", "fp16")
    assert outcome.code == 0
    with Synthesizer.open(tmp_path / "b") as synth:
        for model in synth.bundle.manifest.models:
            assert (model.precision, model.weights) == ("fp32", "fp16")
        assert model.parity.accepted_max_level_difference == 2
        assert synth.bundle.manifest.warnings == ()
    assert "stored in half precision" in (tmp_path / "b" / "MODEL_CARD.md").read_text()
    assert m2l("verify", tmp_path / "b").code == 0
    exact = export_checkpoint(TINY / "tiny_net_G.pth", tmp_path / "c").bundle.manifest.models[0]
    assert exact.parity.accepted_max_level_difference == 1
    assert model.file.size_bytes < 0.55 * exact.file.size_bytes


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference checkpoint is not here")
def test_fp16_weights__the_trained_reference_moves_by_a_level_at_most(tmp_path: Path) -> None:
    made = load_checkpoint(REFERENCE / "latest_net_G.pth").network
    assert isinstance(made, UnetGenerator)
    inputs = {"mask": gate.gate_masks((256, 256), REFERENCE / "masks")}
    report = export_checkpoint(
        REFERENCE / "latest_net_G.pth", tmp_path / "b", ExportOptions(weights="fp16", masks=REFERENCE / "masks")
    )
    assert report.parity.max_level_difference <= 1
    assert report.parity.mean_level_difference < 0.004
    with Synthesizer.open(report.bundle, backend="onnxruntime") as synth:
        found = synth(inputs["mask"])
    rounded = gate.reference_images(rounded_network(made), inputs, "instance")
    assert np.abs(found.astype(int) - rounded).mean() < 1e-4, "nothing but the weights is rounded"
