"""A trained generator to the graph that is shipped: bytes in, bytes out, and nothing in between that is not needed.

The two compute the same images; each step is exact in real arithmetic and proven alone in float64 by a test:

1. `flatten`: the nested blocks become two lists of stages, outermost first.
2. `sum_mask_channels`: the mask is grey, so its equal channels are one channel through summed weights.
3. `use_instance_statistics` or `fold_running_statistics`: what a batch norm becomes.
4. `drop_dead_biases`: a bias ahead of an instance norm is taken away again with the mean.
5. `use_sub_pixel`: a transposed convolution is a 2x2 convolution to four times the channels and depth-to-space.
6. `ByteGraph`: scaling, channel layout and rounding stand in the graph, so that no runtime can drift from training.

Another way to write an upsampling layer is another module in `Stage.layer`.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2l_runtime.errors import CheckpointError
from m2l_train import networks
from m2l_train.networks import UnetGenerator

NormStatistics = Literal["instance", "running"]
Form = Literal["deconvolution", "sub-pixel", "resize"]


class Stage(nn.Module):
    """A layer that halves or doubles the side, and the norm that follows it, if any."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H/2, W/2) or (B, C', 2H, 2W)."""
        x = self.layer(x)
        return x if self.norm is None else self.norm(x)


class DeployUnet(nn.Module):
    """The generator as two lists: (B, C, H, W) in [-1, 1] to (B, C', H, W) in [-1, 1]."""

    def __init__(self, downs: list[Stage], ups: list[Stage]) -> None:
        super().__init__()
        self.downs = nn.ModuleList(downs)
        self.ups = nn.ModuleList(ups)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        skips: list[Tensor] = []
        for level, down in enumerate(self.downs):
            if level:
                skips.append(x)
                x = F.leaky_relu(x, networks.LEAKY_RELU_SLOPE)
            x = down(x)
        for up in reversed(self.ups):
            x = up(F.relu(x))
            if skips:
                x = torch.cat([skips.pop(), x], 1)
        return torch.tanh(x)


class ByteGraph(nn.Module):
    """uint8 masks (N, H, W) to uint8 images (N, H, W, 3)."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, mask: Tensor) -> Tensor:
        """Cast ahead of any arithmetic (TensorRT neither compares nor subtracts uint8), then back to bytes."""
        x = mask.unsqueeze(1).to(_float_type(self)) * (2 / 255) - 1
        y = self.unet(x)
        y = torch.clamp(torch.round((y + 1) * 127.5), 0, 255)
        if y.shape[1] == 1:
            y = torch.cat([y, y, y], 1)
        return y.permute(0, 2, 3, 1).to(torch.uint8)


def _float_type(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


@dataclass(frozen=True)
class Deployed:
    """The graph to ship, and the words for its manifest."""

    graph: ByteGraph
    norm_statistics: Literal["instance", "running", "none"]
    form: Form
    """How upsampling is written."""


def deploy(
    network: UnetGenerator,
    norm_statistics: NormStatistics = "instance",
    form: Literal["deconvolution", "sub-pixel"] = "sub-pixel",
) -> Deployed:
    """All steps in order. The network is left as it was.

    Args:
        network: as trained.
        norm_statistics: what a batch norm normalises by: each image's own statistics, as the original's test
            does unless it is told ``--eval``, or those collected in training. Networks without batch norm have
            only the former.
        form: how transposed convolutions are written; a network without any is in the form `resize` whatever is asked.

    Raises:
        CheckpointError: running statistics asked of a network that has none.
    """
    if norm_statistics == "running" and network.spec.norm != "batch":
        raise CheckpointError(
            f"has no running statistics (its norm is '{network.spec.norm}'); leave out --norm-statistics running"
        )
    unet = sum_mask_channels(flatten(network))
    unet = fold_running_statistics(unet) if norm_statistics == "running" else use_instance_statistics(unet)
    statistics: Final = "none" if network.spec.norm == "none" else norm_statistics
    unet = drop_dead_biases(unet)
    if network.spec.upsample == "resize":
        return Deployed(ByteGraph(unet).eval(), statistics, "resize")
    return Deployed(ByteGraph(use_sub_pixel(unet) if form == "sub-pixel" else unet).eval(), statistics, form)


def flatten(network: UnetGenerator) -> DeployUnet:
    """The same layers, copied, without the nesting; dropout is left out, as in evaluation."""
    blocks = copy.deepcopy(network).eval().blocks()
    return DeployUnet(
        [Stage(b.down, _keep(b.down_norm)) for b in blocks],
        [Stage(b.up, _keep(b.up_norm)) for b in blocks],
    )


def _keep(norm: nn.Module | None) -> nn.Module | None:
    return None if isinstance(norm, nn.Identity) else norm


def sum_mask_channels(unet: DeployUnet) -> DeployUnet:
    """For an input of one channel instead of several equal ones: the first weights summed over them."""
    unet = copy.deepcopy(unet)
    first = unet.downs[0].layer
    assert isinstance(first, nn.Conv2d)  # noqa: S101 - flatten put it there
    first.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))
    first.in_channels = 1
    return unet


def use_instance_statistics(unet: DeployUnet) -> DeployUnet:
    """Batch norms normalising by a batch of one are instance norms with the same scale and shift."""
    unet = copy.deepcopy(unet)
    for stage in _stages(unet):
        norm = stage.norm
        if isinstance(norm, nn.BatchNorm2d):
            instance = nn.InstanceNorm2d(norm.num_features, eps=norm.eps, affine=True).to(norm.weight)
            instance.load_state_dict({"weight": norm.weight.detach(), "bias": norm.bias.detach()})
            stage.norm = instance
    return unet


def fold_running_statistics(unet: DeployUnet) -> DeployUnet:
    """Batch norms normalising by running statistics are a scale and a shift, which the layer ahead takes in."""
    unet = copy.deepcopy(unet)
    for stage in _stages(unet):
        norm, layer = stage.norm, stage.layer
        if isinstance(norm, nn.BatchNorm2d) and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert norm.running_mean is not None  # noqa: S101 - the checkpoint importer saw to it
            assert norm.running_var is not None  # noqa: S101
            scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
            mean = norm.running_mean if layer.bias is None else norm.running_mean - layer.bias.detach()
            per_output = (1, -1, 1, 1) if isinstance(layer, nn.ConvTranspose2d) else (-1, 1, 1, 1)
            layer.weight = nn.Parameter(layer.weight.detach() * scale.view(per_output))
            layer.bias = nn.Parameter(norm.bias.detach() - mean * scale)
            stage.norm = None
    return unet


def drop_dead_biases(unet: DeployUnet) -> DeployUnet:
    """Layers ahead of an instance norm without their bias: it would be subtracted again with the mean."""
    unet = copy.deepcopy(unet)
    for stage in _stages(unet):
        if isinstance(stage.norm, nn.InstanceNorm2d):
            stage.layer.register_parameter("bias", None)
    return unet


class SubPixelConv2d(nn.Module):
    """A transposed convolution (kernel 4, stride 2, padding 1) without one: (B, C, H, W) to (B, C', 2H, 2W).

    An output pixel 2p + s - 1 (s 0 or 1) is made by the inputs p - 1 and p through the taps s + 2 and s. So one
    2x2 convolution over the input padded by 1 makes all four kinds of output pixels as channels, depth-to-space puts
    them in place, and the frame of 1 is cut off. From Shi et al., "Is the deconvolution layer the same as a
    convolutional layer?", 2016 (arXiv:1609.07009). It takes (H + 1)(W + 1) / HW times the multiplications.
    """

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        weight = layer.weight.detach()
        inputs, outputs = weight.shape[:2]
        taps = weight.new_empty(outputs, 2, 2, inputs, 2, 2)  # output, its row and column; input, tap's row and column
        for s, t in itertools.product(range(2), repeat=2):
            for u, v in itertools.product(range(2), repeat=2):
                taps[:, s, t, :, u, v] = weight[:, :, s + 2 * (1 - u), t + 2 * (1 - v)].T
        self.conv = nn.Conv2d(inputs, 4 * outputs, 2, 1, 1, bias=layer.bias is not None).to(weight)
        self.conv.weight = nn.Parameter(taps.reshape(4 * outputs, inputs, 2, 2))
        if layer.bias is not None:
            self.conv.bias = nn.Parameter(layer.bias.detach().repeat_interleave(4))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.pixel_shuffle(self.conv(x), 2)[:, :, 1:-1, 1:-1]


def use_sub_pixel(unet: DeployUnet) -> DeployUnet:
    """Transposed convolutions as convolutions and depth-to-space: engines have better kernels for those.

    On two cores, onnxruntime took 75.4 against 82.9 ms an image at ngf 64 (medians of 9 by turns), and the same time at
    ngf 16.
    """
    unet = copy.deepcopy(unet)
    for stage in _stages(unet):
        if isinstance(stage.layer, nn.ConvTranspose2d):
            stage.layer = SubPixelConv2d(stage.layer)
    return unet


def _stages(unet: DeployUnet) -> list[Stage]:
    return [stage for stage in (*unet.downs, *unet.ups) if isinstance(stage, Stage)]
