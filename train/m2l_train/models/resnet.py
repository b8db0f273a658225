"""Build the ResNet generator, the original's other choice beside the U-Net.

The layout, hence every state_dict key, is that of pytorch-CycleGAN-and-pix2pix at commit 0442670
(``--netG resnet_6blocks|resnet_9blocks``), so that checkpoints load in both directions. The architecture is from
Johnson, Alahi and Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016
(arXiv:1603.08155).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from m2l_runtime.literals import Norm
from m2l_runtime.types import NAMES
from m2l_train.models.networks import initialize, norm_layer

HALVINGS: Final = 2
"""How often the side is halved, and doubled again."""
EDGE: Final = 3
"""Pixels of reflection around the image, for the 7x7 convolutions at both ends."""
MIN_SIDE: Final = 8
"""Shortest side in pixels: at a quarter of it there is a pixel to reflect."""

_FIRST_BLOCK: Final = 10
"""Place of the first block: after a reflection, and three times a convolution, a norm and a ReLU."""


@dataclass(frozen=True)
class ResnetSpec:
    """Describe the layout of a ResNet generator, in the original's terms.

    Example:
        >>> ResnetSpec(blocks=9, ngf=64, input_nc=3, output_nc=3, norm="instance").widths
        (64, 128, 256)
    """

    blocks: int
    """Residual blocks at a quarter of the image's side: 6 in resnet_6blocks, 9 in resnet_9blocks."""
    ngf: int
    """Channels at the image's side; they double at half of it, and again at a quarter."""
    input_nc: int
    """Channels of the mask as it enters."""
    output_nc: int
    """Channels of the image: 3, or 1 for grey."""
    norm: Norm
    """instance (no parameters), batch (affine, with running statistics) or none."""
    dropout: bool = True
    """Dropout 0.5 within each block."""

    @property
    def levels(self) -> int:
        """How often the side is halved."""
        return HALVINGS

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at the image's side, at half of it and at a quarter."""
        return tuple(self.ngf << level for level in range(HALVINGS + 1))

    @property
    def has_bias(self) -> bool:
        """Whether layers that a norm may follow have a bias: only beside InstanceNorm."""
        return self.norm == "instance"

    @property
    def appearance_rows(self) -> int:
        """0: it takes no appearance."""
        return 0

    @property
    def numbers(self) -> int:
        """How many numbers an appearance has in networks that take one."""
        return len(NAMES)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of these numbers."""
        return NAMES


class ResnetBlock(nn.Module):
    """Add what two convolutions make of features to these: (B, C, H, W) to the same."""

    def __init__(self, spec: ResnetSpec) -> None:
        super().__init__()
        channels = spec.widths[-1]

        def convolve() -> list[nn.Module]:
            layer = nn.Conv2d(channels, channels, 3, bias=spec.has_bias)
            return [nn.ReflectionPad2d(1), layer, norm_layer(spec.norm, channels)]

        between: list[nn.Module] = [nn.ReLU(), nn.Dropout(0.5)] if spec.dropout else [nn.ReLU()]
        self.conv_block = nn.Sequential(*convolve(), *between, *convolve())

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = x + self.conv_block(x)
        return y


class ResnetGenerator(nn.Module):
    """Synthesize images (B, output_nc, H, W) in [-1, 1] from masks (B, input_nc, H, W) in [-1, 1].

    H and W are multiples of 4, and at least 8. Weights are drawn as those of
    :class:`m2l_train.models.networks.UnetGenerator` are.

    Example:
        >>> import torch
        >>> network = ResnetGenerator(ResnetSpec(blocks=2, ngf=2, input_nc=3, output_nc=3, norm="instance"))
        >>> network(torch.zeros(1, 3, 16, 24)).shape
        torch.Size([1, 3, 16, 24])
    """

    def __init__(self, spec: ResnetSpec) -> None:
        super().__init__()
        if spec.blocks < 1:
            raise ValueError(f"a ResNet generator has at least one block, got {spec.blocks}")
        self.spec = spec
        widths, bias = spec.widths, spec.has_bias
        layers: list[nn.Module] = [nn.ReflectionPad2d(EDGE)]

        def add(layer: nn.Module, channels: int) -> None:
            layers.extend([layer, norm_layer(spec.norm, channels), nn.ReLU()])

        add(nn.Conv2d(spec.input_nc, spec.ngf, 2 * EDGE + 1, bias=bias), spec.ngf)
        for taken, given in itertools.pairwise(widths):
            add(nn.Conv2d(taken, given, 3, 2, 1, bias=bias), given)
        layers += [ResnetBlock(spec) for _ in range(spec.blocks)]
        for taken, given in itertools.pairwise(widths[::-1]):
            add(nn.ConvTranspose2d(taken, given, 3, 2, 1, 1, bias=bias), given)
        last = nn.Conv2d(spec.ngf, spec.output_nc, 2 * EDGE + 1)
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(EDGE), last, nn.Tanh())
        self.apply(initialize)

    @property
    def appearance(self) -> None:
        """None: it takes no appearance."""
        return

    def forward(self, x: Tensor, appearance: Tensor | None = None) -> Tensor:
        """See the class."""
        y: Tensor = self.model(x)
        return y


def is_resnet(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state_dict is like that of a ResNet generator: whether it has a block of one.

    Example:
        >>> is_resnet(ResnetGenerator(ResnetSpec(1, 1, 1, 1, "none")).state_dict())
        True
        >>> is_resnet({})
        False
    """
    return any(key.startswith("model.") and ".conv_block." in key for key in state)


def infer_resnet_spec(state: Mapping[str, Tensor], norm: Norm) -> ResnetSpec:
    """Infer blocks, width, channels and dropout from keys and shapes.

    Example:
        >>> spec = ResnetSpec(blocks=2, ngf=3, input_nc=1, output_nc=3, norm="batch", dropout=False)
        >>> infer_resnet_spec(ResnetGenerator(spec).state_dict(), "batch") == spec
        True

    Args:
        state: for which `is_resnet` is True.
        norm: of its layers.

    Raises:
        KeyError: a layer is missing, by whose shape something is told.
        IndexError: such a layer is a single number.
    """
    places = {key.split(".")[1] for key in state if key.startswith("model.") and ".conv_block." in key}
    blocks = len(places)
    first, last = state["model.1.weight"], state[f"model.{_FIRST_BLOCK + blocks + 3 * HALVINGS + 1}.weight"]
    return ResnetSpec(
        blocks=blocks,
        ngf=first.shape[0],
        input_nc=first.shape[1],
        output_nc=last.shape[0],
        norm=norm,
        dropout=any(key.endswith(".conv_block.6.weight") and value.ndim == 4 for key, value in state.items()),
    )
