"""Find lesions in images with a small U-Net, and read and write that network.

The network is a U-Net (Ronneberger, Fischer, Brox, MICCAI 2015) with batch norm, made small: `levels` times two 3x3
convolutions and a halving, two more at the bottom, and on the way up one 3x3 convolution on the skip beside the
doubled, halved-in-channels picture from below. The file is one of tensors, numbers and strings (``weights_only``).
Kernels may be stored in half precision; they are widened when they are read.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.reading import reader_errors
from m2l_runtime._utils.text import printable, shown
from m2l_runtime.conditioning.random import normal
from m2l_runtime.errors import InputError
from m2l_runtime.types import Images
from m2l_train.device import torch_threads
from m2l_train.evaluate.sets import in_threads
from m2l_train.evaluate.shipped import SHIPPED_SEGMENTER
from m2l_train.tensorfile import read_tensors

FORMAT: Final = "m2l-segmenter"
VERSION: Final = 1
_MAX_WIDTH: Final = 256
_MAX_DEPTH: Final = 6
_MAX_SIDE: Final = 1024
_BATCH: Final = 16

Probabilities = npt.NDArray[np.float32]
"""float32 (N, H, W), 0..1: how sure the network is that a pixel belongs to the lesion."""

Features = npt.NDArray[np.float32]
"""float32 (N, D): one row for each image."""


@dataclass(frozen=True)
class SegmenterSpec:
    """Describe the layout of the network."""

    width: int = 16
    """Channels of the first level; each level below has twice as many, at most eight times."""
    levels: int = 4
    """Halvings."""
    side: int = 128
    """Pixels of the square that images are brought to."""

    def __post_init__(self) -> None:
        for name, most in (("width", _MAX_WIDTH), ("levels", _MAX_DEPTH), ("side", _MAX_SIDE)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise InputError(f"a segmenter's {name} must be a whole number between 1 and {most}, got {value!r}")
        if self.side % 2**self.levels:
            raise InputError(f"a segmenter's side must be a multiple of {2**self.levels}, got {self.side}")

    @property
    def channels(self) -> list[int]:
        """Of each level from the top, the bottom last."""
        return [self.width * min(2**level, 8) for level in range(self.levels + 1)]

    @property
    def feature_count(self) -> int:
        """Length of a row of features: the channels of all levels."""
        return sum(self.channels)


@dataclass(frozen=True)
class SegmenterFacts:
    """Describe where a segmenter comes from."""

    val_dice: float
    """Mean over validation images of 128 (`SegmenterSpec.side`) pixels square, after training."""
    train_count: int
    val_count: int
    epochs: int
    """That were planned."""
    steps: int
    """That were done; fewer than planned if the time was up."""
    batch_size: int
    learning_rate: float
    seed: int
    threads: int
    device: str
    data_fingerprint: str
    """SHA-256 of the names and pixels of the training pairs at the network's size."""
    versions: dict[str, str]


def _block(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU())


class SegmenterNetwork(nn.Module):
    """Compute logits (B, 1, S, S) of images (B, 3, S, S) in [-1, 1]."""

    def __init__(self, spec: SegmenterSpec) -> None:
        super().__init__()
        channels = spec.channels
        self.down = nn.ModuleList(
            nn.Sequential(_block(inner, outer), _block(outer, outer))
            for inner, outer in zip([3, *channels[:-1]], channels, strict=True)
        )
        self.narrow = nn.ModuleList(nn.Conv2d(below, above, 1) for above, below in itertools.pairwise(channels))
        self.up = nn.ModuleList(_block(2 * above, above) for above in channels[:-1])
        self.last = nn.Conv2d(channels[0], 1, 1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the features of each level, the bottom last."""
        features: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            features.append(x)
        return features

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return logits (B, 1, S, S) of the features of :meth:`encode`."""
        x = features[-1]
        for level in reversed(range(len(self.up))):
            x = F.interpolate(self.narrow[level](x), scale_factor=2, mode="nearest")
            x = self.up[level](torch.cat([features[level], x], 1))
        logits: Tensor = self.last(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 1, S, S)."""
        return self.decode(self.encode(x))


def new_network(spec: SegmenterSpec, seed: int) -> SegmenterNetwork:
    """Make a network with the weights of He et al., ICCV 2015: N(0, 2 / fan-in); biases 0."""
    network = SegmenterNetwork(spec)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 4:
            fan_in = parameter.shape[1] * parameter.shape[2] * parameter.shape[3]
            values = normal(parameter.numel(), seed, "segmenter", "weights", name) * (2 / fan_in) ** 0.5
            parameter.data = torch.from_numpy(values.astype(np.float32)).reshape(parameter.shape)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def to_input(images: Images, side: int) -> Tensor:
    """Convert uint8 (B, H, W, 3) to float (B, 3, side, side) in [-1, 1], antialiased where it gets smaller."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if x.shape[2:] != (side, side):
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


class Segmenter:
    """Find lesions with a trained network. May be called from several threads.

    Example:
        >>> spec, facts = SegmenterSpec(width=1, levels=1, side=32), None
        >>> segmenter = Segmenter(spec, new_network(spec, seed=0), facts, sha256="")
        >>> probabilities, features = segmenter(np.zeros((2, 64, 64, 3), np.uint8))
        >>> probabilities.shape, features.shape
        ((2, 64, 64), (2, 3))
    """

    def __init__(self, spec: SegmenterSpec, network: SegmenterNetwork, facts: SegmenterFacts, sha256: str) -> None:
        self.spec: Final = spec
        self.facts: Final = facts
        self.sha256: Final = sha256
        """Of its file."""
        self.network: Final[SegmenterNetwork] = network.eval().to(  # type: ignore[call-overload]
            memory_format=torch.channels_last
        )
        """In float32, from images (B, 3, side, side) in [-1, 1] to logits (B, 1, side, side); may be trained on."""

    def __call__(
        self, images: Images, *, workers: int = 1, on_image: Callable[[int], None] = lambda count: None
    ) -> tuple[Probabilities, Features]:
        """Return where the lesions are, and features.

        Args:
            images: uint8 (N, H, W, 3).
            workers: threads, each of which does batches of its own; nothing depends on it.
            on_image: called with the number of images of each batch.

        Returns:
            (probabilities (N, H, W), brought from the network's size to the images' bilinearly; features (N, D): every
            channel on the way down, level by level, averaged over its area).
        """
        lesions = np.empty(images.shape[:3], np.float32)
        features = np.empty((len(images), self.spec.feature_count), np.float32)
        starts = range(0, len(images), _BATCH)
        with torch_threads(1):
            made = in_threads(lambda start: self._run(images[start : start + _BATCH]), starts, workers)
            for start, (found, row) in zip(starts, made, strict=True):
                lesions[start : start + _BATCH], features[start : start + _BATCH] = found, row
                on_image(len(row))
        return lesions, features

    @torch.no_grad()
    def _run(self, images: Images) -> tuple[Probabilities, Features]:
        features = self.network.encode(to_input(images, self.spec.side))
        at_size = torch.sigmoid(self.network.decode(features))
        at_size = F.interpolate(at_size, images.shape[1:3], mode="bilinear", align_corners=False)
        return at_size[:, 0].numpy(), torch.cat([level.mean((2, 3)) for level in features], 1).numpy()


def save_segmenter(
    path: Path, spec: SegmenterSpec, network: SegmenterNetwork, facts: SegmenterFacts, *, is_half: bool = False
) -> str:
    """Write a network to `path`, whole or not at all; return the SHA-256 of the file.

    Args:
        path: the file.
        spec: layout of the network.
        network: whose weights are written.
        facts: where it comes from.
        is_half: whether kernels are rounded to float16; norms and biases, of which there are few, stay as they are.

    Raises:
        OutputError: it cannot be written.
    """
    buffer = io.BytesIO()
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if is_half:
        weights = {name: value.half() if value.dim() == 4 else value for name, value in weights.items()}
    torch.save(
        {"format": FORMAT, "version": VERSION, "spec": asdict(spec), "facts": asdict(facts), "weights": weights}, buffer
    )
    atomic.write_file(path, buffer.getvalue(), durable=True)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


@check_types()
def load_segmenter(path: str | os.PathLike[str] = SHIPPED_SEGMENTER) -> Segmenter:
    """Open the file of a segmenter, or the one inside the package. No code in the file is run.

    Example:
        >>> segmenter = load_segmenter()  # or a file of m2l evaluate segmenter
        >>> probabilities, features = segmenter(np.zeros((1, 256, 256, 3), np.uint8))
        >>> probabilities.shape, features.shape
        ((1, 256, 256), (1, 368))

    Raises:
        InputError: it cannot be read, is no segmenter, is damaged, or was written by a newer m2l.
    """
    name, expected = printable(path), "a file that m2l evaluate segmenter has written"
    file = read_tensors(path, expected)
    content = file.value
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{name} is no segmenter; expected {expected}")
    if content.get("version") != VERSION:
        raise InputError(
            f"{name} is of version {shown(content.get('version'))}, this m2l reads {VERSION}; install a newer m2l"
        )
    with reader_errors(InputError, path, "is a damaged segmenter"):
        try:
            spec = SegmenterSpec(**content["spec"])
        except InputError as error:
            raise ValueError(*error.args) from None
        facts = SegmenterFacts(**content["facts"])
        network = SegmenterNetwork(spec)
        network.load_state_dict(content["weights"])
        if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
            raise ValueError("weights that are not finite")
    return Segmenter(spec, network, facts, file.sha256)
