"""Each rewrite of the deploy graph alone, in float64, against the network it replaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from functional_unet import original_generator
from support import TINY, assert_equals_original, oracle
from torch import Tensor, nn

from m2l_export.checkpoint import load_checkpoint
from m2l_export.graph import deploy as d
from m2l_runtime.errors import CheckpointError
from m2l_runtime.literals import Norm
from m2l_train.models.networks import UnetGenerator, UnetSpec

EXACT = 1e-11


def network(norm: Norm, levels: int = 6, input_nc: int = 3, output_nc: int = 3, seed: int = 0) -> UnetGenerator:
    """A float64 generator with non-zero biases, scales off one and statistics off (0, 1)."""
    torch.manual_seed(seed)
    made = UnetGenerator(UnetSpec(levels, 3, input_nc, output_nc, norm)).double().eval()
    for name, tensor in made.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) * 3 + 0.2)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor) * 0.3 + (0.2 if name.endswith("bias") else 0))
    return made


def run(module: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        y: Tensor = module(x)
    return y


def gray(channels: int = 3, batch: int = 1) -> Tensor:
    x = torch.rand(batch, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return x.expand(batch, channels, 64, 64)


def assert_same(a: Tensor, b: Tensor) -> None:
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=EXACT)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("levels", [5, 6])
def test_deploy__flattening_keeps_the_function(norm: Norm, levels: int) -> None:
    made = network(norm, levels)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert_same(run(d.flatten(made), x), run(made, x))


def test_deploy__flattening_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network("batch")
    before = {k: v.clone() for k, v in made.state_dict().items()}
    d.drop_dead_biases(d.use_instance_statistics(d.sum_mask_channels(d.flatten(made))))
    d.fold_running_statistics(d.flatten(made))
    for key, value in made.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_deploy__equal_channels_are_one_channel_through_summed_weights() -> None:
    for input_nc in (1, 3):
        flat = d.flatten(network("instance", input_nc=input_nc))
        summed = d.sum_mask_channels(flat)
        assert_same(run(summed, gray(1)), run(flat, gray(input_nc)))
        assert summed.downs[0].layer.weight.shape[1] == 1  # type: ignore[union-attr, index]


def test_deploy__a_bias_ahead_of_an_instance_norm_does_nothing() -> None:
    for norm in ("instance", "batch"):
        flat = d.use_instance_statistics(d.flatten(network(norm, levels=8)))
        x = torch.rand(1, 3, 256, 256, dtype=torch.float64)
        assert_same(run(d.drop_dead_biases(flat), x), run(flat, x))


def test_deploy__thirteen_biases_of_unet_256_are_dropped_and_no_others() -> None:
    flat = d.flatten(network("instance", levels=8))
    dropped = d.drop_dead_biases(flat)

    def biases(unet: d.DeployUnet) -> list[bool]:
        return [stage.layer.bias is not None for stage in (*unet.downs, *unet.ups)]

    assert biases(flat) == [True] * 16
    assert biases(dropped).count(False) == 13
    assert biases(dropped) == [True, *[False] * 6, True, True, *[False] * 7]


def test_deploy__instance_statistics_are_what_a_batch_of_one_gives() -> None:
    made = network("batch")
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    found = run(d.use_instance_statistics(d.flatten(made)), x)
    state = made.state_dict()
    for index in range(3):
        one = x[index : index + 1]
        assert_same(found[index : index + 1], original_generator(state, one, 6, batch_norm="batch"))
    assert not torch.allclose(found, original_generator(state, x, 6, batch_norm="batch"), atol=1e-3)


def test_deploy__running_statistics_fold_into_the_layer_ahead() -> None:
    made = network("batch")
    folded = d.fold_running_statistics(d.flatten(made))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert_same(run(folded, x), original_generator(made.state_dict(), x, 6, batch_norm="running"))
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d | nn.InstanceNorm2d)]


def test_deploy__the_two_statistics_differ() -> None:
    made = network("batch")
    x = gray()
    a, b = (run(d.deploy(made, s).graph.unet, x[:, :1]) for s in ("instance", "running"))
    assert (a - b).abs().max() > 0.1


@pytest.mark.parametrize("output_nc", [1, 3])
def test_deploy__bytes_in_bytes_out(output_nc: int) -> None:
    unet = d.sum_mask_channels(d.flatten(network("instance", output_nc=output_nc)))
    mask = torch.randint(0, 256, (2, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    x = (mask.double() / 255 - 0.5) / 0.5
    y = run(unet, x[:, None]).numpy()
    expected = np.clip(np.round((y + 1) / 2 * 255), 0, 255).transpose(0, 2, 3, 1)
    found = run(d.ByteGraph(unet), mask)
    assert found.dtype == torch.uint8
    assert found.shape == (2, 64, 64, 3)
    np.testing.assert_array_equal(found.numpy(), np.broadcast_to(expected, (2, 64, 64, 3)))


@pytest.mark.parametrize("value", [-1.0, -0.5, 0.0, 0.999, 1.0])
def test_deploy__the_ends_of_the_range(value: float) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(value))

        def forward(self, x: Tensor) -> Tensor:
            return self.value.expand(x.shape[0], 3, 4, 4)

    levels = run(d.ByteGraph(Constant()), torch.zeros(1, 4, 4, dtype=torch.uint8))
    assert set(levels.flatten().tolist()) == {round((value + 1) * 127.5)}


def test_deploy__all_of_it_equals_the_original() -> None:
    graph = d.deploy(load_checkpoint(TINY / "tiny_net_G.pth").network).graph
    for _, mask, original in oracle(TINY / "masks", TINY / "images_eval"):
        assert_equals_original(run(graph, torch.from_numpy(mask)[None])[0].numpy(), original)


def test_deploy__running_statistics_need_a_batch_norm() -> None:
    for norm in ("instance", "none"):
        with pytest.raises(CheckpointError, match="has no running statistics"):
            d.deploy(network(norm), "running")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3), (2, 2), (5, 4), (16, 8)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("has_bias", [True, False])
def test_deploy__sub_pixels_are_a_transposed_convolution_to_the_last_border(
    height: int, width: int, batch: int, has_bias: bool
) -> None:
    torch.manual_seed(height * 10 + width)
    layer = nn.ConvTranspose2d(3, 5, 4, 2, 1, bias=has_bias).double()
    x = torch.randn(batch, 3, height, width, dtype=torch.float64)
    expected = torch.zeros(batch, 5, 2 * height + 2, 2 * width + 2, dtype=torch.float64)
    for i in range(height):  # the definition: each input pixel adds its kernel, two pixels further each time
        for j in range(width):
            expected[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += torch.einsum(
                "bi,iohw->bohw", x[:, :, i, j], layer.weight
            )
    expected = expected[:, :, 1:-1, 1:-1]
    if layer.bias is not None:
        expected = expected + layer.bias[:, None, None]
    torch.testing.assert_close(d.SubPixelConv2d(layer)(x), expected, atol=1e-12, rtol=0)
    assert d.SubPixelConv2d(layer)(x).shape == (batch, 5, 2 * height, 2 * width)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_deploy__both_forms_are_one_function(norm: Norm) -> None:
    one, other = (d.deploy(network(norm), upsampling=upsampling) for upsampling in ("transposed", "pixel-shuffle"))
    assert (one.upsampling, other.upsampling) == ("transposed", "pixel-shuffle")
    x = gray()[:, :1]
    assert_same(run(one.graph.unet, x), run(other.graph.unet, x))
    assert not any(isinstance(m, nn.ConvTranspose2d) for m in other.graph.modules())
