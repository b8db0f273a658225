"""The ONNX file: its interface, its bytes, and onnxruntime against PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support import disc

from m2l_export.graph.deploy import ByteGraph, deploy
from m2l_export.graph.onnx_writer import OPSET, input_specs, to_onnx
from m2l_runtime.bundle.onnx_file import external_tensors
from m2l_train.models.networks import Norm, UnetGenerator, UnetSpec

INPUTS = input_specs(UnetSpec(6, 4, 3, 3, "instance"), (64, 64))


def graph(norm: Norm = "instance", levels: int = 6, output_nc: int = 3) -> ByteGraph:
    torch.manual_seed(4)
    network = UnetGenerator(UnetSpec(levels, 4, 3, output_nc, norm))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.1)
    return deploy(network).graph


def test_interface() -> None:
    model = onnx.load_from_string(to_onnx(graph(), INPUTS))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (mask,), (image,) = session.get_inputs(), session.get_outputs()
    assert (mask.name, mask.type, mask.shape) == ("mask", "tensor(uint8)", ["batch", 64, 64])
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["batch", 64, 64, 3])
    assert {o.domain: o.version for o in model.opset_import}[""] == OPSET


def test_no_path_or_source_line_of_the_machine_is_left() -> None:
    model = onnx.load_from_string(to_onnx(graph(), INPUTS))
    graph_parts = (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer)
    for part in (model, model.graph, *graph_parts):
        assert not part.metadata_props
        assert not part.doc_string
    assert not model.graph.value_info
    assert b".py" not in model.SerializeToString()


def test_the_same_weights_give_the_same_bytes() -> None:
    assert to_onnx(graph(), INPUTS) == to_onnx(graph(), INPUTS)


def test_the_norm_stays_one_operator_and_dropout_is_gone() -> None:
    model = onnx.load_from_string(to_onnx(graph(levels=8), input_specs(UnetSpec(8, 4, 3, 3, "instance"), (256, 256))))
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("InstanceNormalization") == 13
    assert (kinds.count("Conv"), kinds.count("DepthToSpace"), kinds.count("ConvTranspose")) == (16, 8, 0)
    assert "Dropout" not in kinds
    assert sum(len(n.input) == 3 for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose")) == 3


def test_external_data_is_seen(tmp_path: Path) -> None:
    model = onnx.load_from_string(to_onnx(graph(), INPUTS))
    assert external_tensors(model.SerializeToString()) == []
    path = tmp_path / "m.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, size_threshold=0, location="w.bin")
    assert len(external_tensors(path.read_bytes())) == len(model.graph.initializer)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("output_nc", [1, 3])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnxruntime_agrees_with_pytorch(norm: Norm, output_nc: int, batch: int) -> None:
    made = graph(norm, output_nc=output_nc)
    masks = np.stack([disc(64, 5 + 4 * i, 30, 20 + 5 * i) for i in range(batch)])
    with torch.inference_mode():
        expected = made(torch.from_numpy(masks)).numpy()
    session = onnxruntime.InferenceSession(to_onnx(made, INPUTS))
    found = session.run(None, {"mask": masks})[0]
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert expected.std() > 1
