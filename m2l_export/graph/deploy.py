"""Turn a trained generator into the graph that is shipped: bytes in, bytes out.

Both compute the same images. Each step is exact in real arithmetic, and a test checks it alone in float64:

1. `flatten`: the nested blocks become two lists of stages, outermost first. The modulation by appearances is beside
   them.
2. `sum_mask_channels`: the mask is grey, so its equal channels become one channel through summed weights.
3. `use_instance_statistics` or `fold_running_statistics`: a batch norm becomes an instance norm, or part of the layer.
4. `drop_dead_biases`: a bias before an instance norm is dropped, because the norm subtracts it with the mean. The first
   layer of a ResNet generator gets another (`center_on_black`), which loses least to rounding.
5. `use_resizing`, or `use_transposed_convolution` and perhaps `use_sub_pixel`: layers that double the side are written
   as asked for. A transposed convolution is a 2x2 convolution to four times the channels, and a pixel shuffle.
6. `ByteGraph`: scaling, channel layout, rounding and the unpacking of dropout bits become part of the graph, so that no
   runtime can differ from training.

A ResNet generator (:mod:`m2l_export.graph.resnet`) takes the same steps; its transposed convolutions of 3x3 are 2x2
convolutions, too. A modulated generator takes step 6 alone, around :mod:`m2l_export.graph.modulated`.

Another way to write an upsampling layer is another module in `Stage.layer`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2l_export.graph.modulated import DeployModulated
from m2l_export.graph.resnet import DeployResnet, flatten_resnet
from m2l_export.graph.stage import Stage
from m2l_runtime.bundle.schema import MAX_DROPOUT_BYTES
from m2l_runtime.errors import CheckpointError
from m2l_train.models import networks
from m2l_train.models.modulated import ModulatedGenerator
from m2l_train.models.networks import Appearance, ResizeConv2d, UnetBlock, UnetGenerator, UnetSpec
from m2l_train.models.resnet import ResnetGenerator, ResnetSpec

NormStatistics = Literal["instance", "running"]
Upsampling = Literal["pixel-shuffle", "transposed", "resize"]
"""How layers that double the side are written."""
Form = Literal["deconvolution", "sub-pixel", "resize"]

STORED_FORMS: Final[Mapping[Upsampling, Form]] = {
    "pixel-shuffle": "sub-pixel",
    "transposed": "deconvolution",
    "resize": "resize",
}
"""The manifest's word for each way of upsampling."""


class Modulation(nn.Module):
    """Compute scales and shifts from appearances, for each upsampling stage from the second on.

    Maps (B, 12) to pairs (scale, shift), each (B, C, 1, 1). It is
    :class:`m2l_train.models.networks.Appearance` without its table. The bias holds the 1 added to each scale.
    """

    def __init__(self, source: Appearance, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", source.mean.clone())
        self.register_buffer("std", source.std.clone())
        self.mean: Tensor
        self.std: Tensor
        self.hidden, self.out = copy.deepcopy(source.hidden), copy.deepcopy(source.out)
        self.sizes = [n for count in channels for n in (count, count)]
        """Channels of each scale and shift, in the order of `out`."""
        ones = [float(i % 2 == 0) for i, n in enumerate(self.sizes) for _ in range(n)]
        self.out.bias = nn.Parameter(self.out.bias.detach() + self.out.bias.new_tensor(ones))

    @torch.no_grad()
    def divide(self, level: int, by: Tensor) -> None:
        """Divide the scales and shifts of the upsampling stage `level`, from 1, by `by` (C,)."""
        begin = sum(self.sizes[: 2 * (level - 1)])
        rows = slice(begin, begin + 2 * len(by))
        self.out.weight[rows] /= by.repeat(2)[:, None]
        self.out.bias[rows] /= by.repeat(2)

    def forward(self, appearance: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See the class."""
        factors = self.out(self.hidden((appearance - self.mean) / self.std))[:, :, None, None]
        parts = factors.split(self.sizes, 1)
        return list(zip(parts[::2], parts[1::2], strict=True))


class DeployUnet(nn.Module):
    """Run the generator as two lists of stages: (B, C, H, W) in [-1, 1] to (B, C', H, W) in [-1, 1]."""

    def __init__(self, downs: list[Stage], ups: list[Stage], modulation: Modulation | None = None) -> None:
        super().__init__()
        self.downs = nn.ModuleList(downs)
        self.ups = nn.ModuleList(ups)
        self.modulation = modulation

    def forward(self, x: Tensor, appearance: Tensor | None = None, factors: Tensor | None = None) -> Tensor:
        """See the class.

        Args:
            x: masks.
            appearance: (B, 12), where the network was trained with them.
            factors: (B, n): 0 or 2 for each value that dropout acts on, stage by stage from the bottleneck outwards,
                each in C order. None: dropout is off.
        """
        by_stage = [] if self.modulation is None else [None, *self.modulation(appearance)]
        skips: list[Tensor] = []
        for level, down in enumerate(self.downs):
            if level:
                skips.append(x)
                x = F.leaky_relu(x, networks.LEAKY_RELU_SLOPE)
            x = down(x)
        used = 0
        for level, up in reversed(list(enumerate(self.ups))):
            x = up(F.relu(x))
            if by_stage and level:
                scale, shift = by_stage[level]
                x = x * scale.to(x.dtype) + shift.to(x.dtype)  # the modulation is always in single precision
            if factors is not None and cast(Stage, up).drops:
                begin, used = used, used + x.shape[1] * x.shape[2] * x.shape[3]
                x = x * factors[:, begin:used].reshape(-1, *x.shape[1:])
            if skips:
                x = torch.cat([skips.pop(), x], 1)
        return torch.tanh(x)


_Core = TypeVar("_Core", DeployUnet, DeployResnet)
"""What the rewrites below take and give: the graph of a U-Net or of a ResNet generator."""


class ByteGraph(nn.Module):
    """Map uint8 masks (N, H, W), and what else the network takes, to uint8 images (N, H, W, 3)."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def convolution_weight(self) -> Tensor:
        """Return the weight of a convolution, whose type is that of all; without convolutions, any parameter."""
        convolutions = (module.weight for module in self.modules() if isinstance(module, nn.Conv2d))
        return next(convolutions, next(self.parameters()))

    def forward(
        self,
        mask: Tensor,
        appearance: Tensor | None = None,
        dropout_bits: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Cast before all else, because TensorRT neither reshapes nor subtracts uint8, and back to bytes in the end.

        Args:
            mask: uint8 (N, H, W).
            appearance: float32 (N, numbers).
            dropout_bits: uint8 (N, n), see :func:`dropout_factors`.
            noise: uint8 (N, n), of a modulated generator alone.
        """
        x = mask.to(self.convolution_weight().dtype).unsqueeze(1) * (2 / 255) - 1
        if noise is not None:
            y = self.unet(x, appearance, noise.to(x.dtype))
        elif appearance is None and dropout_bits is None:
            y = self.unet(x)
        else:
            y = self.unet(x, appearance, None if dropout_bits is None else dropout_factors(dropout_bits.to(x.dtype)))
        y = y.float() if y.dtype is torch.float16 else y
        y = torch.clamp(torch.round((y + 1) * 127.5), 0, 255)
        if y.shape[1] == 1:
            y = torch.cat([y, y, y], 1)
        return y.permute(0, 2, 3, 1).to(torch.uint8)


def dropout_factors(packed: Tensor) -> Tensor:
    """Unpack bytes as floats (B, n) to (B, 8n): 2 for a bit that is one, else 0, each byte's lowest bit first.

    Bit k of b is ``floor(b / 2**k) - 2 floor(b / 2**(k + 1))``, because TensorRT has no operators on bits.
    """
    scales = packed.new_tensor([2.0**-k for k in range(9)])
    shifted = torch.floor(packed.unsqueeze(2) * scales)
    return (shifted[:, :, :8] * 2 - shifted[:, :, 1:] * 4).flatten(1)


def dropout_shapes(spec: UnetSpec | ResnetSpec, image_size: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
    """List the (channels, rows, columns) that dropout acts on, in the order in which its layers run.

    Args:
        spec: the network.
        image_size: (height, width).
    """
    height, width = image_size
    if isinstance(spec, ResnetSpec):
        shape = (spec.widths[-1], height >> spec.levels, width >> spec.levels)
        return (shape,) * (spec.blocks if spec.dropout else 0)
    levels = [level for level in reversed(range(spec.levels - 1)) if level >= 4] if spec.dropout else []
    return tuple((spec.widths[level - 1], height >> level, width >> level) for level in levels)


def dropout_byte_count(spec: UnetSpec | ResnetSpec, image_size: tuple[int, int]) -> int:
    """Count the bytes of an image's dropout bits: one bit for each value. No stage's bits end within a byte.

    Raises:
        CheckpointError: the last byte would not be full, or there would be more than a bundle may have.
    """
    bits = sum(channels * rows * columns for channels, rows, columns in dropout_shapes(spec, image_size))
    height, width = image_size
    if bits % 8:
        raise CheckpointError(
            f"drops {bits:,} values of an image of {width}x{height}, which fill no whole bytes; choose a height or "
            "width that is a multiple of 8, or leave out --stochastic"
        )
    if bits // 8 > MAX_DROPOUT_BYTES:
        raise CheckpointError(
            f"drops {bits:,} values of an image of {width}x{height}; expected at most {8 * MAX_DROPOUT_BYTES:,}; leave "
            "out --stochastic"
        )
    return bits // 8


@dataclass(frozen=True)
class Deployed:
    """Hold the graph to ship, and how it is written."""

    graph: ByteGraph
    norm_statistics: Literal["instance", "running", "none"]
    upsampling: Upsampling


def deploy(
    network: UnetGenerator | ModulatedGenerator | ResnetGenerator,
    norm_statistics: NormStatistics = "instance",
    upsampling: Upsampling = "pixel-shuffle",
    stochastic: bool = False,
) -> Deployed:
    """Make the graph to ship, by all steps in order. The network is left as it was.

    Args:
        network: as trained.
        norm_statistics: what a batch norm normalizes by: each image's own statistics, as the original's test
            does unless it gets ``--eval``, or those collected in training. Networks without batch norm have only the
            former.
        upsampling: how layers that double the side are written: as convolutions and a pixel shuffle, as transposed
            convolutions, or, for a network that was trained so, as repeated pixels and a convolution. The images are
            the same. A modulated generator's are always repeated pixels.
        stochastic: make an input of what dropout keeps; otherwise dropout is off.

    Raises:
        CheckpointError: the network has no running statistics, no dropout, or cannot be written as asked for.
    """
    if isinstance(network, ModulatedGenerator):
        require_modulated_options(norm_statistics, upsampling, stochastic)
        return Deployed(ByteGraph(DeployModulated(network)).eval(), "none", "resize")
    if norm_statistics == "running" and network.spec.norm != "batch":
        raise CheckpointError(
            f"has no running statistics (its norm is '{network.spec.norm}'); leave out --norm-statistics running"
        )
    if stochastic:
        require_dropout(network)
    if upsampling == "resize" and (isinstance(network, ResnetGenerator) or network.spec.upsample != "resize"):
        raise CheckpointError(
            "has transposed convolutions, which cannot be written as repeated pixels; "
            "choose --upsampling pixel-shuffle or --upsampling transposed"
        )
    statistics: Final = "none" if network.spec.norm == "none" else norm_statistics
    graph: ByteGraph
    if isinstance(network, ResnetGenerator):
        graph = ByteGraph(_rewrite(flatten_resnet(network, stochastic), norm_statistics, upsampling))
    else:
        graph = ByteGraph(_rewrite(flatten(network, stochastic), norm_statistics, upsampling))
    return Deployed(graph.eval(), statistics, upsampling)


def _rewrite(unet: _Core, norm_statistics: NormStatistics, upsampling: Upsampling) -> _Core:
    """Take the steps after flattening, in order."""
    unet = sum_mask_channels(unet)
    unet = fold_running_statistics(unet) if norm_statistics == "running" else use_instance_statistics(unet)
    unet = center_on_black(drop_dead_biases(unet))
    unet = use_resizing(unet) if upsampling == "resize" else use_transposed_convolution(unet)
    return use_sub_pixel(unet) if upsampling == "pixel-shuffle" else unet


def require_modulated_options(norm_statistics: NormStatistics, upsampling: Upsampling, stochastic: bool) -> None:
    """Check that a modulated generator can be deployed so: see `deploy`.

    Raises:
        CheckpointError: it has not what is asked for.
    """
    if norm_statistics == "running":
        raise CheckpointError(
            "holds a modulated generator, which has no norms, hence no running statistics; leave out --norm-statistics"
        )
    if stochastic:
        raise CheckpointError(
            "holds a modulated generator, which has no dropout: noise makes its images differ, and is always an input; "
            "leave out --stochastic"
        )
    if upsampling == "transposed":
        raise CheckpointError(
            "holds a modulated generator, which repeats pixels and has no transposed convolutions; leave out "
            "--upsampling"
        )


def require_dropout(network: UnetGenerator | ResnetGenerator) -> None:
    """Check that a network has dropout.

    Raises:
        CheckpointError: it has no dropout.
    """
    if isinstance(network, ResnetGenerator):
        if not network.spec.dropout:
            raise CheckpointError("was trained without dropout; leave out --stochastic")
        return
    if not any(_drops(block) for block in network.blocks()):
        raise CheckpointError(
            f"has no dropout to let in (it stands in the levels after the fourth but the last, and this network has "
            f"{network.spec.levels}); leave out --stochastic"
            if network.spec.dropout
            else "was trained without dropout; leave out --stochastic"
        )


def flatten(network: UnetGenerator, stochastic: bool = False) -> DeployUnet:
    """Copy the layers without the nesting.

    Dropout is left out, as in evaluation mode. If `stochastic`, it stays, and its factors are an input.
    """
    copied = copy.deepcopy(network).eval()
    blocks = copied.blocks()
    return DeployUnet(
        [Stage(b.down, _keep(b.down_norm)) for b in blocks],
        [Stage(b.up, _keep(b.up_norm), stochastic and _drops(b)) for b in blocks],
        None if copied.appearance is None else Modulation(copied.appearance, network.spec.widths[:-1]),
    )


def _drops(block: UnetBlock) -> bool:
    return isinstance(block.model[-1], nn.Dropout)


def _keep(norm: nn.Module | None) -> nn.Module | None:
    return None if isinstance(norm, nn.Identity) else norm


def sum_mask_channels(unet: _Core) -> _Core:
    """Take one channel in place of several equal ones, by summing the first weights over them."""
    unet = copy.deepcopy(unet)
    first = cast(Stage, unet.downs[0]).layer
    assert isinstance(first, nn.Conv2d)  # noqa: S101 - flatten put it there
    first.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))
    first.in_channels = 1
    return unet


def use_instance_statistics(unet: _Core) -> _Core:
    """Replace batch norms, which normalize by a batch of one, by instance norms with the same scale and shift."""
    unet = copy.deepcopy(unet)
    for stage in _stages(unet):
        norm = stage.norm
        if isinstance(norm, nn.BatchNorm2d):
            instance = nn.InstanceNorm2d(norm.num_features, eps=norm.eps, affine=True).to(norm.weight)
            instance.load_state_dict({"weight": norm.weight.detach(), "bias": norm.bias.detach()})
            stage.norm = instance
    return unet


def fold_running_statistics(unet: _Core) -> _Core:
    """Fold batch norms that normalize by running statistics into the layer before: they scale and shift."""
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


def drop_dead_biases(unet: _Core) -> _Core:
    """Drop biases before an instance norm, which subtracts them with the mean."""
    unet = copy.deepcopy(unet)
    for stage in _stages(unet):
        if isinstance(stage.norm, nn.InstanceNorm2d):
            stage.layer.register_parameter("bias", None)
    return unet


def center_on_black(unet: _Core) -> _Core:
    """Give a first layer before an instance norm the bias by which black pixels become 0. The norm subtracts it again.

    Where a lesion is of few pixels, what varies is far smaller than what a black mask gives, which an engine's sums
    over a plane would round to. Measured on OpenVINO, a lesion of 4 pixels of 65,536: 0.05 levels off on average, and
    0.0008 with it. A U-Net has no norm there, and stays as it is.
    """
    unet = copy.deepcopy(unet)
    first = cast(Stage, unet.downs[0])
    if isinstance(first.norm, nn.InstanceNorm2d):
        weight = cast(nn.Conv2d, first.layer).weight.detach()
        first.layer.bias = nn.Parameter(weight.sum((1, 2, 3)))  # black is -1
    return unet


class RepeatedConv2d(nn.Conv2d):
    """Double the side by repeating pixels, then apply a 3x3 convolution: (B, C, H, W) to (B, C', 2H, 2W)."""

    def __init__(self, layer: ResizeConv2d) -> None:
        super().__init__(layer.in_channels, layer.out_channels, 3, 1, 1, bias=layer.bias is not None)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in the base class
        """See the class."""
        return super().forward(F.interpolate(input, scale_factor=2.0, mode="nearest"))


def use_resizing(unet: _Core) -> _Core:
    """Write layers trained as repeated pixels and a convolution that way."""
    unet = copy.deepcopy(unet)
    for stage in _stages(unet):
        if isinstance(stage.layer, ResizeConv2d):
            stage.layer = RepeatedConv2d(stage.layer)
    return unet


def use_transposed_convolution(unet: _Core) -> _Core:
    """Write layers trained as repeated pixels and a convolution as the transposed convolutions that they equal."""
    unet = copy.deepcopy(unet)
    for stage in _stages(unet):
        layer = stage.layer
        if isinstance(layer, ResizeConv2d):
            transposed = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 4, 2, 1, bias=layer.bias is not None)
            transposed.weight, transposed.bias = nn.Parameter(layer.transposed_weight().detach()), layer.bias
            stage.layer = transposed
    return unet


class SubPixelConv2d(nn.Module):
    """Compute a transposed convolution (kernel 4, stride 2, padding 1) by a convolution and a pixel shuffle.

    Maps (B, C, H, W) to (B, C', 2H, 2W).

    An output pixel 2p + s - 1 (s 0 or 1) is made by the inputs p - 1 and p through the taps s + 2 and s. So one
    2x2 convolution over the input padded by 1 makes all four kinds of output pixels as channels, a pixel shuffle puts
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


class SubPixelConv3x3(nn.Module):
    """Compute a transposed convolution (kernel 3, stride 2, padding 1, output padding 1) as `SubPixelConv2d` does.

    Maps (B, C, H, W) to (B, C', 2H, 2W). An even output pixel 2p is made by the input p through the tap 1, an odd one
    2p + 1 by the inputs p and p + 1 through the taps 2 and 0. So a 2x2 convolution over the input with a row and a
    column of zeros after it makes all four kinds, with zeros where a kind has no tap; nothing is cut off.
    """

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        weight = layer.weight.detach()
        inputs, outputs = weight.shape[:2]
        taps = weight.new_zeros(outputs, 2, 2, inputs, 2, 2)  # as in `SubPixelConv2d`
        of_kind: Final = {(0, 0): 1, (1, 0): 2, (1, 1): 0}  # the tap, by the output's place and the input's
        for (s, u), row in of_kind.items():
            for (t, v), column in of_kind.items():
                taps[:, s, t, :, u, v] = weight[:, :, row, column].T
        self.conv = nn.Conv2d(inputs, 4 * outputs, 2, bias=layer.bias is not None).to(weight)
        self.conv.weight = nn.Parameter(taps.reshape(4 * outputs, inputs, 2, 2))
        if layer.bias is not None:
            self.conv.bias = nn.Parameter(layer.bias.detach().repeat_interleave(4))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.pixel_shuffle(self.conv(F.pad(x, (0, 1, 0, 1))), 2)


def use_sub_pixel(unet: _Core) -> _Core:
    """Write transposed convolutions as convolutions and a pixel shuffle, for which engines have better kernels.

    Measured layer by layer and in whole networks (docs/measurements.md): at ngf 64 in bf16 3 times the images/s, in
    fp32 4 to 6 % more, in int8 the only way that engines have integer kernels for. Where a layer alone is faster
    transposed, a network with it so is no faster, so all are written alike.
    """
    unet = copy.deepcopy(unet)
    for stage in _stages(unet):
        if isinstance(stage.layer, nn.ConvTranspose2d):
            is_even = stage.layer.kernel_size == (4, 4)
            stage.layer = SubPixelConv2d(stage.layer) if is_even else SubPixelConv3x3(stage.layer)
    return unet


def _stages(unet: DeployUnet | DeployResnet) -> list[Stage]:
    return [module for module in unet.modules() if isinstance(module, Stage)]
