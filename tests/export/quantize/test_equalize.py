"""Channels brought alike in range: the same images in float64, and less lost where activations have eight bits."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from support import disc
from torch import Tensor, nn

from m2l_export.graph.deploy import ByteGraph, DeployUnet, NormStatistics, Upsampling, deploy, dropout_byte_count
from m2l_export.graph.deploy import dropout_factors as factors_of
from m2l_export.graph.stage import Stage
from m2l_export.quantize.equalize import MAX_AMPLIFICATION, Peaks, channel_peaks, equalize, equalize_results
from m2l_runtime.conditioning.conditions import dropout_bits
from m2l_runtime.literals import Norm, Upsample
from m2l_train.models.networks import UnetGenerator, UnetSpec

SIDE = 64
EXACT = 1e-9
KINDS: tuple[tuple[Norm, NormStatistics], ...] = (
    ("instance", "instance"),
    ("batch", "instance"),
    ("batch", "running"),
    ("none", "instance"),
)


def network(norm: Norm = "instance", upsample: Upsample = "deconv", rows: int = 0, seed: int = 0) -> UnetGenerator:
    """A float64 generator of random weights, whose channels have ranges that differ by up to a hundred."""
    torch.manual_seed(seed)
    made = UnetGenerator(UnetSpec(6, 3, 3, 3, norm, upsample=upsample, appearance_rows=rows)).double().eval()
    for name, tensor in made.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_(0.1 if name.endswith("bias") else 0, 0.3)
    if made.appearance is not None:
        made.appearance.set_table(torch.randn(rows, 12, dtype=torch.float64))
        made.appearance.out.bias.data.copy_(10 ** (2 * torch.rand_like(made.appearance.out.bias) - 1) - 1)
    for block in made.blocks():
        for layer, layer_norm in ((block.down, block.down_norm), (block.up, block.up_norm)):
            count = layer.out_channels
            spread = 10 ** (2 * torch.rand(count, dtype=torch.float64) - 1)
            if isinstance(layer_norm, nn.BatchNorm2d):
                layer_norm.weight.data.mul_(spread).abs_().add_(0.05)
            else:
                axis = (1, -1, 1, 1) if isinstance(layer, nn.ConvTranspose2d) else (-1, 1, 1, 1)
                layer.weight.data.mul_(spread.view(axis))
    return made


def inputs_of(made: UnetGenerator, stochastic: bool, count: int = 3) -> dict[str, npt.NDArray[Any]]:
    masks = np.stack([disc(SIDE, 8 + 7 * i, 30 + i, 28) for i in range(count)])
    inputs: dict[str, npt.NDArray[Any]] = {"mask": masks}
    if made.appearance is not None:
        inputs["appearance"] = made.appearance.table[:count].float().numpy()
    if stochastic:
        size = dropout_byte_count(made.spec, (SIDE, SIDE))
        inputs["dropout_bits"] = np.stack([dropout_bits(i, size) for i in range(count)])
    return inputs


def graph_of(made: UnetGenerator, statistics: NormStatistics = "instance", stochastic: bool = False) -> ByteGraph:
    return deploy(made, statistics, "transposed", stochastic).graph


def real_images(graph: ByteGraph, inputs: dict[str, npt.NDArray[Any]]) -> Tensor:
    """Images as floats, of random greys: no tanh at its ends, where everything is the same."""
    count = len(inputs["mask"])
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(count, 1, SIDE, SIDE, dtype=torch.float64, generator=generator) * 2 - 1
    more: list[Tensor | None] = [None, None]
    if "appearance" in inputs:
        more[0] = torch.from_numpy(inputs["appearance"]).double()
    if "dropout_bits" in inputs:
        more[1] = factors_of(torch.from_numpy(inputs["dropout_bits"]).double())
    with torch.inference_mode():
        y: Tensor = graph.unet(x, *more)
    assert y.std() > 0.05, "the images of this network are all the same"
    return y


@pytest.mark.parametrize(("norm", "statistics"), KINDS)
@pytest.mark.parametrize("upsample", ["deconv", "resize"])
@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("stochastic", [False, True])
def test_equalize__the_images_stay_the_same(
    norm: Norm, statistics: NormStatistics, upsample: Upsample, rows: int, stochastic: bool
) -> None:
    made = network(norm, upsample, rows)
    graph, inputs = graph_of(made, statistics, stochastic), inputs_of(made, stochastic)
    state = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    equal = equalize(graph, channel_peaks(graph, inputs))
    difference = (real_images(equal, inputs) - real_images(graph, inputs)).abs().max()
    assert difference < EXACT
    assert all(torch.equal(tensor, state[name]) for name, tensor in graph.state_dict().items())
    old, new = cast(DeployUnet, graph.unet), cast(DeployUnet, equal.unet)
    for one, other in zip((*old.downs, *old.ups), (*new.downs, *new.ups), strict=True):
        weight, changed = (cast(Any, stage).layer.weight for stage in (one, other))
        assert not torch.allclose(weight, changed), "a layer was left out"


def test_equalize__with_an_appearance_the_images_are_those_of_the_network() -> None:
    made = network("instance", rows=5)
    inputs = inputs_of(made, stochastic=False)
    graph = graph_of(made)
    x = torch.from_numpy(inputs["mask"])[:, None].double() * (2 / 255) - 1
    rows = torch.from_numpy(inputs["appearance"]).double()
    with torch.inference_mode():
        found = cast(DeployUnet, equalize(graph, channel_peaks(graph, inputs)).unet)(x, rows)
        expected = made(x.expand(-1, 3, SIDE, SIDE), rows)
    assert (found - expected).abs().max() < EXACT


def spread(peaks: Peaks) -> float:
    """How far apart channels are: deviation of their peaks' logarithm, mean over stages; dead ones left out."""
    alive = [peak[peak > 1e-4] for peak in (*peaks.downs, *peaks.ups)]
    return float(np.mean([float(peak.log().std()) for peak in alive]))


@pytest.mark.parametrize(
    ("norm", "statistics", "rows"),
    [("batch", "instance", 0), ("batch", "running", 0), ("none", "instance", 0), ("instance", "instance", 5)],
)
def test_equalize__channels_become_alike_in_range(norm: Norm, statistics: NormStatistics, rows: int) -> None:
    made = network(norm, rows=rows)
    graph, inputs = graph_of(made, statistics), inputs_of(made, stochastic=False)
    peaks = channel_peaks(graph, inputs)
    before, after = spread(peaks), spread(channel_peaks(equalize(graph, peaks), inputs))
    assert after < 0.6 * before, "half, where weights are alike: a range and its square root"


@pytest.mark.parametrize(("norm", "statistics"), KINDS)
def test_equalize__eight_bits_lose_less(norm: Norm, statistics: NormStatistics) -> None:
    """Activations rounded to 255 steps between their least and their greatest, a tensor at a time; weights are not."""

    def rounded(_: nn.Module, args: Any) -> Any:
        low, high = args[0].min(), args[0].max()
        step = (high - low) / 255
        return (torch.round((args[0] - low) / step) * step + low,)

    def ahead_of_tanh(graph: ByteGraph, inputs: dict[str, npt.NDArray[Any]]) -> Tensor:
        x = torch.from_numpy(inputs["mask"])[:, None].double() * (2 / 255) - 1
        rows = [torch.from_numpy(inputs["appearance"]).double()] if "appearance" in inputs else []
        with torch.inference_mode():
            y: Tensor = graph.unet(x, *rows)
        return torch.atanh(y.clamp(-1 + 1e-15, 1 - 1e-15))

    def loss(graph: ByteGraph, inputs: dict[str, npt.NDArray[Any]]) -> float:
        exact = ahead_of_tanh(graph, inputs)
        layers = [module for module in graph.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
        hooks = [layer.register_forward_pre_hook(rounded) for layer in layers]
        try:
            return float((ahead_of_tanh(graph, inputs) - exact).square().mean())
        finally:
            for hook in hooks:
                hook.remove()

    ratios = []
    for seed in range(4):
        made = network(norm, rows=5 if norm == "instance" else 0, seed=seed)
        graph, inputs = graph_of(made, statistics), inputs_of(made, stochastic=False)
        ratios.append(loss(equalize(graph, channel_peaks(graph, inputs)), inputs) / loss(graph, inputs))
    assert np.exp(np.mean(np.log(ratios))) < 0.7


def test_equalize__results_ahead_of_a_norm_stay_the_same_without_its_epsilon() -> None:
    norms: tuple[Norm, ...] = ("instance", "batch")
    for norm in norms:
        made = network(norm)
        graph, inputs = graph_of(made), inputs_of(made, stochastic=False)
        peaks = channel_peaks(graph, inputs)
        amplified = equalize_results(graph, peaks)
        assert 0 < (real_images(amplified, inputs) - real_images(graph, inputs)).abs().max() < 1 / 127.5
        for one in (graph, amplified):
            for module in one.modules():
                if isinstance(module, nn.InstanceNorm2d):
                    module.eps = 0.0
        assert (real_images(amplified, inputs) - real_images(graph, inputs)).abs().max() < EXACT


def test_equalize__results_ahead_of_a_norm_are_alike_up_to_a_limit() -> None:
    made = network("instance")
    graph, inputs = graph_of(made), inputs_of(made, stochastic=False)
    peaks = channel_peaks(graph, inputs)
    found = channel_peaks(equalize_results(graph, peaks), inputs)
    for before, after, stages in (
        (peaks.down_results, found.down_results, cast(DeployUnet, graph.unet).downs),
        (peaks.up_results, found.up_results, cast(DeployUnet, graph.unet).ups),
    ):
        for old, new, stage in zip(before, after, stages, strict=True):
            if cast(Stage, stage).norm is None:
                assert torch.allclose(new, old, rtol=1e-2)
            else:
                wanted = torch.minimum(old.amax(), MAX_AMPLIFICATION * old)
                assert torch.allclose(new, wanted, rtol=1e-2)


def test_equalize__a_norms_epsilon_goes_with_the_mean_amplification() -> None:
    """So that where there is next to no variance, a channel amplified by as much is what it was."""
    made = network("instance")
    graph, inputs = graph_of(made), inputs_of(made, stochastic=False)
    peaks = channel_peaks(graph, inputs)
    amplified = cast(DeployUnet, equalize_results(graph, peaks).unet)
    count = 0
    for stages, results in ((amplified.downs, peaks.down_results), (amplified.ups, peaks.up_results)):
        for stage, peak in zip(stages, results, strict=True):
            norm = cast(Stage, stage).norm
            if isinstance(norm, nn.InstanceNorm2d):
                amplifications = np.minimum(peak.max().item() / peak.numpy(), MAX_AMPLIFICATION)
                assert norm.eps == pytest.approx(1e-5 * np.prod(amplifications ** (2 / len(amplifications))))
                count += 1
    assert count == 4 + 5


def test_equalize__a_layer_that_gives_nothing_but_zeros() -> None:
    made = network("instance")
    made.blocks()[2].down.weight.data.zero_()
    made.blocks()[2].up.weight.data.zero_()
    graph, inputs = graph_of(made), inputs_of(made, stochastic=False)
    peaks = channel_peaks(graph, inputs)
    equal = equalize_results(equalize(graph, peaks), peaks)
    assert (real_images(equal, inputs) - real_images(graph, inputs)).abs().max() < 1 / 127.5


def test_equalize__peaks_by_hand() -> None:
    """Of the smallest network, level by level, with an appearance and dropout; no hooks, no module is called."""
    made = network("instance", rows=5)
    graph, inputs = graph_of(made, stochastic=True), inputs_of(made, stochastic=True, count=2)
    found = channel_peaks(graph, inputs)
    unet = cast(DeployUnet, graph.unet)
    assert unet.modulation is not None
    downs: list[list[Tensor]] = [[] for _ in range(6)]
    ups: list[list[Tensor]] = [[] for _ in range(5)]
    down_results: list[list[Tensor]] = [[] for _ in range(6)]
    up_results: list[list[Tensor]] = [[] for _ in range(6)]

    def normalized(x: Tensor) -> Tensor:
        return (x - x.mean((1, 2), keepdim=True)) / (x.var((1, 2), unbiased=False, keepdim=True) + 1e-5).sqrt()

    for row in range(2):
        x = torch.from_numpy(inputs["mask"][row]).double()[None] / 127.5 - 1
        skips = []
        for level in range(6):
            layer: Any = unet.downs[level].layer
            x = torch.where(x > 0, x, 0.2 * x) if level else x
            x = F.conv2d(x[None], layer.weight, layer.bias, 2, 1)[0]
            down_results[level].append(x.abs().amax((1, 2)))
            x = normalized(x) if 0 < level < 5 else x
            downs[level].append(x.abs().amax((1, 2)))
            skips.append(x)
        modulation: Any = unet.modulation
        numbers = (torch.from_numpy(inputs["appearance"][row]).double() - modulation.mean) / modulation.std
        numbers = modulation.out(modulation.hidden(numbers))
        kept = torch.from_numpy(np.unpackbits(inputs["dropout_bits"][row], bitorder="little")).double()
        x = skips[5]
        for level in range(5, -1, -1):
            if level < 5:
                x = torch.cat([skips[level], x])
            layer = unet.ups[level].layer
            x = F.conv_transpose2d(x.clamp_min(0)[None], layer.weight, layer.bias, 2, 1)[0]
            up_results[level].append(x.abs().amax((1, 2)))
            if level:
                begin = 2 * sum(made.spec.widths[: level - 1])
                width = made.spec.widths[level - 1]
                scale, shift = numbers[begin : begin + width], numbers[begin + width : begin + 2 * width]
                x = normalized(x) * scale[:, None, None] + shift[:, None, None]
                if level == 4:
                    x = x * 2 * kept.view_as(x)
                ups[level - 1].append(x.clamp_min(0).amax((1, 2)))
    for expected, peaks in (
        (downs, found.downs),
        (ups, found.ups),
        (down_results, found.down_results),
        (up_results, found.up_results),
    ):
        assert len(expected) == len(peaks)
        for values, peak in zip(expected, peaks, strict=True):
            torch.testing.assert_close(peak, torch.stack(values).amax(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("upsampling", ["pixel-shuffle", "resize"])
def test_equalize__peaks_do_not_depend_on_the_form(upsampling: Upsampling) -> None:
    made = network("instance", "resize")
    inputs = inputs_of(made, stochastic=False)
    one = channel_peaks(deploy(made, upsampling=upsampling).graph, inputs)
    other = channel_peaks(deploy(made, upsampling="transposed").graph, inputs)
    for field in ("downs", "ups", "down_results", "up_results"):
        for peak, wanted in zip(getattr(one, field), getattr(other, field), strict=True):
            torch.testing.assert_close(peak, wanted, rtol=1e-9, atol=1e-12)
