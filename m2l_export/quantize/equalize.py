"""Equalize the ranges of a deploy graph's channels, as quantization wants them. The images stay the same.

Eight bits have one scale for a whole tensor of activations, so a channel that swings ten times as far as the others
leaves them 25 levels. Both non-linearities of the network are positively homogeneous, ``relu(s x) = s relu(x)`` for
s > 0, so a channel can be divided by any s before them, in the norm, modulation or convolution that it comes from,
and the weights that take it multiplied by s: the same image, in real arithmetic. From Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", ICCV 2019 (arXiv:1906.04721); the s of Xiao et al.,
"SmoothQuant", ICML 2023 (arXiv:2211.10438), equation 4.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy.typing as npt
import torch
from torch import Tensor, nn

from m2l_export.graph.deploy import ByteGraph, DeployUnet
from m2l_export.graph.stage import Stage

MIGRATION: Final = 0.5
"""How much of a channel's range moves into the weights: 0 none, 1 all of it."""
MAX_AMPLIFICATION: Final = 64.0
_MIN_SCALE: Final = 1e-5


@dataclass(frozen=True)
class Peaks:
    """Hold the largest absolute values seen in each channel, from the outermost stage inwards, (C,) each."""

    downs: tuple[Tensor, ...]
    """Outputs of the downsampling stages."""
    ups: tuple[Tensor, ...]
    """Outputs of the upsampling stages but the last, after modulation, dropout and ReLU."""
    down_results: tuple[Tensor, ...]
    """Outputs of the downsampling stages' layers, before the norms."""
    up_results: tuple[Tensor, ...]
    """Outputs of the upsampling stages' layers, before the norms."""


def channel_peaks(graph: ByteGraph, inputs: Mapping[str, npt.NDArray[Any]]) -> Peaks:
    """Run `inputs` through the graph, one image at a time, and record the peaks after all stages.

    Args:
        graph: deploy graph with any kind of upsampling.
        inputs: arrays by name as the graph takes them.
    """
    unet = cast(DeployUnet, graph.unet)
    downs: dict[int, Tensor] = {}
    ups: dict[int, Tensor] = {}
    down_results: dict[int, Tensor] = {}
    up_results: dict[int, Tensor] = {}

    def note(into: dict[int, Tensor], level: int, x: Tensor) -> None:
        peak = x.detach().abs().amax((0, 2, 3))
        into[level] = torch.maximum(into[level], peak) if level in into else peak

    hooks = [
        stage.register_forward_hook(lambda _, __, x, level=level: note(downs, level, x))
        for level, stage in enumerate(unet.downs)
    ]
    for into, stages in ((down_results, unet.downs), (up_results, unet.ups)):
        hooks += [
            cast(Stage, stage).layer.register_forward_hook(
                lambda _, __, x, level=level, into=into: note(into, level, x)
            )
            for level, stage in enumerate(stages)
        ]
    # An upsampling stage is modulated and dropped outside of it, so its peaks are taken where the next one begins.
    for level, stage in enumerate(unet.ups):
        if level + 1 < len(unet.ups):
            hooks.append(
                stage.register_forward_pre_hook(
                    lambda _, args, level=level: note(ups, level + 1, args[0][:, -_outputs(unet.ups[level + 1]) :])
                )
            )
    try:
        with torch.inference_mode():
            for row in range(len(next(iter(inputs.values())))):
                graph(**{name: torch.from_numpy(array[row : row + 1].copy()) for name, array in inputs.items()})
    finally:
        for hook in hooks:
            hook.remove()
    return Peaks(
        tuple(downs[level] for level in range(len(unet.downs))),
        tuple(ups[level] for level in range(1, len(unet.ups))),
        tuple(down_results[level] for level in range(len(unet.downs))),
        tuple(up_results[level] for level in range(len(unet.ups))),
    )


def equalize(graph: ByteGraph, peaks: Peaks) -> ByteGraph:
    """Scale channels so that they are alike in range. The images stay the same.

    Args:
        graph: deploy graph with transposed convolutions. It is left as it was.
        peaks: the result of :func:`channel_peaks`.
    """
    graph = copy.deepcopy(graph)
    unet = cast(DeployUnet, graph.unet)
    downs, ups = [cast(Stage, s) for s in unet.downs], [cast(Stage, s) for s in unet.ups]
    deepest = len(downs) - 1
    for level in range(deepest + 1):
        # The output of a downsampling stage goes to the next one and, as a skip, to the upsampling stage beside it.
        takers = [_input_peaks(ups[level].layer)[: len(peaks.downs[level])]]
        if level < deepest:
            takers.append(_input_peaks(downs[level + 1].layer))
        scale = _scale(peaks.downs[level], takers)
        _divide_output(downs[level], scale)
        _multiply_input(ups[level].layer, scale, 0)
        if level < deepest:
            _multiply_input(downs[level + 1].layer, scale, 0)
    for level in range(1, deepest + 1):
        taker, peak = ups[level - 1].layer, peaks.ups[level - 1]
        begin = len(_input_peaks(taker)) - len(peak)
        scale = _scale(peak, [_input_peaks(taker)[begin:]])
        if unet.modulation is None:
            _divide_output(ups[level], scale)
        else:
            unet.modulation.divide(level, scale)
        _multiply_input(taker, scale, begin)
    return graph


def equalize_results(graph: ByteGraph, peaks: Peaks) -> ByteGraph:
    """Scale the outputs of layers before an instance norm so that they are alike in range. The norm undoes the scale.

    This is for engines that quantize a convolution's output, too. It is exact but for the norm's epsilon, which is the
    same for all channels. It is scaled by the mean amplification, so it counts for less in channels that are amplified
    more. That shows where there is next to no variance, as in black masks. So no channel is amplified by more than
    `MAX_AMPLIFICATION`.

    Args:
        graph: deploy graph with transposed convolutions. It is left as it was.
        peaks: the result of :func:`channel_peaks` for the same graph.
    """
    graph = copy.deepcopy(graph)
    unet = cast(DeployUnet, graph.unet)
    for stages, results in ((unet.downs, peaks.down_results), (unet.ups, peaks.up_results)):
        for stage, peak in zip(stages, results, strict=True):
            norm = cast(Stage, stage).norm
            if isinstance(norm, nn.InstanceNorm2d):
                share = (peak / peak.amax().clamp_min(torch.finfo(peak.dtype).tiny)).clamp_min(1 / MAX_AMPLIFICATION)
                _divide_result(cast(Stage, stage), share)
                norm.eps /= float(share.log().mean().exp()) ** 2
    return graph


def _outputs(stage: nn.Module) -> int:
    layer: Any = cast(Stage, stage).layer
    return int(layer.conv.out_channels // 4 if hasattr(layer, "conv") else layer.out_channels)


def _scale(peak: Tensor, takers: Sequence[Tensor]) -> Tensor:
    """Compute what to divide each channel by, (C,), of geometric mean 1."""
    weight = torch.stack(list(takers)).amax(0)
    ratio = peak.clamp_min(_MIN_SCALE) ** MIGRATION / weight.clamp_min(_MIN_SCALE) ** (1 - MIGRATION)
    scale: Tensor = ratio / ratio.log().mean().exp()
    return scale


def _input_peaks(layer: nn.Module) -> Tensor:
    """Find the largest absolute weight of each input channel, (C,)."""
    weight = cast(nn.Conv2d | nn.ConvTranspose2d, layer).weight.detach()
    return weight.abs().amax((1, 2, 3) if isinstance(layer, nn.ConvTranspose2d) else (0, 2, 3))


def _multiply_input(layer: nn.Module, scale: Tensor, begin: int) -> None:
    weight = cast(nn.Conv2d | nn.ConvTranspose2d, layer).weight.data
    channels = slice(begin, begin + len(scale))
    if isinstance(layer, nn.ConvTranspose2d):
        weight[channels] *= scale.view(-1, 1, 1, 1)
    else:
        weight[:, channels] *= scale.view(1, -1, 1, 1)


def _divide_output(stage: Stage, scale: Tensor) -> None:
    """Divide a stage's output by `scale`, in its norm if it has one, else in its layer."""
    norm = stage.norm
    if isinstance(norm, nn.InstanceNorm2d):
        weight = torch.ones_like(scale) if norm.weight is None else norm.weight.detach()
        bias = torch.zeros_like(scale) if norm.bias is None else norm.bias.detach()
        scaled = nn.InstanceNorm2d(len(scale), eps=norm.eps, affine=True).to(scale)
        scaled.load_state_dict({"weight": weight / scale, "bias": bias / scale})
        stage.norm = scaled
        return
    _divide_result(stage, scale)


def _divide_result(stage: Stage, scale: Tensor) -> None:
    """Divide the output of a stage's layer by `scale`, before the norm."""
    layer = cast(nn.Conv2d | nn.ConvTranspose2d, stage.layer)
    per_output = (1, -1, 1, 1) if isinstance(layer, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    layer.weight.data /= scale.view(per_output)
    if layer.bias is not None:
        layer.bias.data /= scale
