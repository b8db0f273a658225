"""Half precision: how far off it is, and what stays in single precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
import torch.nn.functional as F
from support import TINY, disc
from torch import nn

from m2l_export.checkpoint import load_checkpoint
from m2l_export.graph.deploy import ByteGraph, deploy, dropout_byte_count
from m2l_export.graph.half_precision import (
    EmulatedHalf,
    Fp32Norm,
    emulate_bfloat16,
    emulate_half_precision,
    to_half_precision,
)
from m2l_export.graph.onnx_writer import input_specs, to_onnx
from m2l_runtime.errors import CheckpointError
from m2l_train.models.networks import UnetGenerator, UnetSpec


def steered() -> UnetGenerator:
    torch.manual_seed(0)
    made = UnetGenerator(UnetSpec(6, 8, 3, 3, "instance", appearance_rows=4)).eval()
    assert made.appearance is not None
    made.appearance.table.copy_(torch.randn(4, 12))
    return made


def masks(side: int) -> torch.Tensor:
    shapes = [
        disc(side, side / 4, side / 2, side / 2),
        np.zeros((side, side), np.uint8),
        np.full((side, side), 255, np.uint8),
    ]
    dot = np.zeros((side, side), np.uint8)
    dot[side // 3, side // 2] = 255
    return torch.from_numpy(np.stack([*shapes, dot]))


@pytest.mark.parametrize("upsampling", ["pixel-shuffle", "transposed"])
def test_half_precision__images_of_a_trained_network_are_within_two_levels(upsampling: Any) -> None:
    """Computed by PyTorch in half precision, which rounds after every operator; black, white and a dot among them."""
    graph = deploy(load_checkpoint(TINY / "tiny_net_G.pth").network, "instance", upsampling).graph
    with torch.inference_mode():
        exact = graph(masks(256)).int()
        images = to_half_precision(graph)(masks(256)).int()
    assert (images - exact).abs().max() <= 2
    assert (images - exact).abs().double().mean() < 0.2
    assert not torch.equal(images, exact)


@pytest.mark.parametrize("upsampling", ["pixel-shuffle", "transposed"])
def test_half_precision__the_emulation_rounds_as_half_precision_does(upsampling: Any) -> None:
    """Against PyTorch's own convolutions of halves, which are slow on most CPUs."""
    half = to_half_precision(deploy(load_checkpoint(TINY / "tiny_net_G.pth").network, "instance", upsampling).graph)
    quick = emulate_half_precision(half)
    assert sum(isinstance(module, EmulatedHalf) for module in quick.modules()) == 16
    with torch.inference_mode():
        slow, found = half(masks(256)).int(), quick(masks(256)).int()
    assert (found - slow).abs().max() <= 1
    assert (found != slow).double().mean() < 0.02, "sums in another order may round to the next half"
    assert not any(isinstance(module, EmulatedHalf) for module in half.modules()), "it is left as it was"


def test_half_precision__the_emulation_rounds_every_result() -> None:
    """2048 + 1 is no half: what a convolution adds to it is lost, as in half precision, and not in single."""
    layer = nn.Conv2d(1, 1, 1).half()
    layer.weight.data.fill_(1)
    layer.bias.data.fill_(1)  # type: ignore[union-attr]
    with torch.inference_mode():
        found = EmulatedHalf(layer)(torch.full((1, 1, 1, 1), 2048.0).half())
    assert (found.dtype, found.item()) == (torch.half, 2048.0)


def test_half_precision__what_an_appearance_does_is_computed_in_single_precision() -> None:
    graph = deploy(steered(), "instance", "pixel-shuffle", stochastic=True).graph
    half = to_half_precision(graph)
    kinds = {name: parameter.dtype for name, parameter in half.named_parameters()}
    assert {kind for name, kind in kinds.items() if ".modulation." in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if ".modulation." not in name} == {torch.float16}
    bits = dropout_byte_count(steered().spec, (64, 64))
    inputs = {
        "mask": masks(64),
        "appearance": torch.randn(4, 12),
        "dropout_bits": torch.randint(0, 256, (4, bits), dtype=torch.uint8),
    }
    with torch.inference_mode():
        assert (half(**inputs).int() - graph(**inputs).int()).abs().max() <= 4
    assert {parameter.dtype for parameter in graph.parameters()} == {torch.float32}, "it is left as it was"


@pytest.mark.parametrize("in_single", [True, False])
def test_half_precision__norms(in_single: bool) -> None:
    graph = to_half_precision(deploy(steered(), "instance", "pixel-shuffle").graph, fp32_norms=in_single)
    assert any(isinstance(module, Fp32Norm) for module in graph.modules()) is in_single


def test_half_precision__a_norm_in_single_precision_sees_single_precision() -> None:
    """PyTorch adds up in single precision on CPUs, whatever a norm is given: the images alone would not tell."""
    seen: list[torch.dtype] = []

    class Norm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.dtype)
            return x * 2

    given = torch.tensor([[1.0, 3.0]]).half()
    taken = Fp32Norm(Norm())(given)
    assert seen == [torch.float32]
    assert taken.dtype == torch.float16
    assert taken.tolist() == [[2.0, 6.0]]


def test_half_precision__weights_beyond_half_precision() -> None:
    made = steered()
    assert made.appearance is not None
    made.appearance.out.bias.data.fill_(1e6)  # which stays in single precision
    to_half_precision(deploy(made, "instance", "pixel-shuffle").graph)
    next(made.parameters()).data.fill_(1e6)
    with pytest.raises(CheckpointError, match="weights of up to .* which half precision cannot hold"):
        to_half_precision(deploy(made, "instance", "pixel-shuffle").graph)


def types_of(graph: ByteGraph, spec: UnetSpec) -> dict[str, set[int]]:
    """Element types of convolutions' weights and norms' inputs in the ONNX file."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(to_onnx(graph, input_specs(spec, (64, 64)))))
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found: dict[str, set[int]] = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "InstanceNormalization"):
            found.setdefault(node.op_type, set()).add(kinds[node.input[1 if node.op_type == "Conv" else 0]])
    return found


def test_half_precision__the_file_says_so() -> None:
    made = steered()
    half = types_of(to_half_precision(deploy(made, "instance", "pixel-shuffle").graph), made.spec)
    assert half == {"Conv": {onnx.TensorProto.FLOAT16}, "InstanceNormalization": {onnx.TensorProto.FLOAT}}


def as_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Round to the upper 16 bits, halves to even: what bfloat16 is."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def test_bfloat16__inputs_weights_and_outputs_of_convolutions_are_rounded_and_nothing_else() -> None:
    torch.manual_seed(0)
    graph = deploy(UnetGenerator(UnetSpec(6, 4, 3, 3, "instance")).eval()).graph
    before = {name: parameter.clone() for name, parameter in graph.named_parameters()}
    emulated = emulate_bfloat16(graph)
    assert all(torch.equal(parameter, before[name]) for name, parameter in graph.named_parameters()), "left as it was"
    own, layers = (
        [one for one in each.modules() if isinstance(one, nn.Conv2d | nn.ConvTranspose2d)] for each in (graph, emulated)
    )
    assert len(own) == len(layers) > 6
    first = next(module for module in emulated.modules() if type(module).__name__ == "EmulatedBfloat16")
    x = torch.randn(1, 1, 64, 64)
    layer = own[0]
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    patches = torch.from_numpy(as_bfloat16(F.unfold(x, 4, padding=1, stride=2).numpy()))
    weight = torch.from_numpy(as_bfloat16(layer.weight.detach().flatten(1).numpy()))
    exact = (weight @ patches[0] + layer.bias.detach().double()[:, None]).reshape(1, -1, 32, 32)
    with torch.inference_mode():
        found, plain = first(x), layer(x)
    assert (found.numpy() == as_bfloat16(found.numpy())).all()
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6)
    assert (found - plain).abs().max() > 1e-3
    images = [np.asarray(each(mask=masks(64))) for each in (graph, emulated)]
    assert 0 < np.abs(images[0].astype(int) - images[1]).max() <= 16
