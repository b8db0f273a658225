"""Fit a segmenter's network to arrays, one step at a time.

Loss: cross-entropy plus one minus the soft Dice coefficient of each image (Milletari, Navab, Ahmadi, 3DV 2016). Adam,
with a learning rate that rises over the first twentieth of the steps and falls along half a cosine to zero. Which
images a step sees is the caller's: epochs over a folder (:mod:`m2l_train.evaluate.training`), or pools mixed by a ratio
(:mod:`m2l_train.evaluate.usefulness.batches`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from m2l_runtime.conditioning.random import uniform
from m2l_runtime.errors import Diverged
from m2l_runtime.types import Image, Images, Mask, Masks
from m2l_train.evaluate.metrics.mask_fidelity import LESION_FROM, dice
from m2l_train.evaluate.segmenter import SegmenterNetwork, SegmenterSpec, new_network, to_input

BATCH_SIZE: Final = 16
LEARNING_RATE: Final = 4e-3
_RISE: Final = 0.05
_MAX_BRIGHTNESS_CHANGE: Final = 0.2
_MAX_COLOR_CHANGE: Final = 0.08

Lesions = npt.NDArray[np.bool_]
"""bool (N, S, S)."""


class Fitting:
    """Train a new network for a fixed number of steps.

    Example:
        >>> fitting = Fitting(SegmenterSpec(width=1, levels=1, side=32), seed=0, steps=2, device=torch.device("cpu"))
        >>> images, masks = np.zeros((4, 32, 32, 3), np.uint8), np.zeros((4, 32, 32), np.uint8)
        >>> losses = [fitting.train(images, masks) for _ in range(2)]
        >>> fitting.step, find_lesions(fitting.network, images, fitting.device).shape
        (2, (4, 32, 32))
    """

    def __init__(
        self, spec: SegmenterSpec, seed: int, steps: int, device: torch.device, *, is_bf16: bool = False
    ) -> None:
        """Make the network.

        Args:
            spec: its layout.
            seed: of its weights.
            steps: how many there will be: the learning rate is zero at their end.
            device: where it is trained.
            is_bf16: whether convolutions are computed in bfloat16; the loss and the weights stay in fp32.
        """
        self.is_bf16: Final = is_bf16
        self.network: Final = new_network(spec, seed).to(device).train()
        self.device: Final = device
        self.step = 0
        """Steps done."""
        self._side, self._steps = spec.side, steps
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE)

    def train(self, images: Images, masks: Masks) -> float:
        """Take a step on images (B, H, W, 3) and masks (B, S, S); return the loss.

        Raises:
            Diverged: the loss is not a finite number.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = LEARNING_RATE * schedule(self.step / self._steps)
        x = to_input(images, self._side).to(self.device)
        y = torch.from_numpy(masks).to(self.device).float() / 255
        with self.autocast():
            logits = self.network(x)[:, 0]
        value = loss(logits.float(), y)
        if not bool(torch.isfinite(value)):
            raise Diverged(f"the segmenter's loss is {value.item():g} at step {self.step + 1}; try another seed")
        self._optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.step += 1
        return value.item()

    def autocast(self) -> torch.autocast:
        """Compute the network in the precision it is trained in, within the block."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16)


def schedule(done: float) -> float:
    """Return the share of the full learning rate when `done` (0..1) of the steps are done."""
    return min(1.0, (done + 1e-3) / _RISE) * 0.5 * (1 + math.cos(math.pi * done))


def loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss of logits (B, H, W) and targets (B, H, W) in 0..1."""
    probability = torch.sigmoid(logits)
    both = (probability * target).sum((1, 2))
    dice = (2 * both + 1) / (probability.sum((1, 2)) + target.sum((1, 2)) + 1)
    return F.binary_cross_entropy_with_logits(logits, target) + (1 - dice).mean()


def augment(image: Image, mask: Mask, seed: int, epoch: int, place: int) -> tuple[Image, Mask]:
    """Rotate and mirror a pair (H, W, 3), (H, W) in one of eight ways, and change its light and color a little."""
    numbers = uniform(7, seed, "segmenter", "augment", epoch, place)
    quarter_turns, mirrored = int(numbers[0] * 4), numbers[1] < 0.5
    image, mask = np.rot90(image, quarter_turns), np.rot90(mask, quarter_turns)
    if mirrored:
        image, mask = image[:, ::-1], mask[:, ::-1]
    moves = 2 * numbers[2:] - 1
    contrast = 1 + _MAX_BRIGHTNESS_CHANGE * moves[0]
    light = 255 * _MAX_BRIGHTNESS_CHANGE / 2 * moves[1]
    gain = contrast * (1 + _MAX_COLOR_CHANGE * moves[2:5])
    offset = 128 * (1 - contrast) + light
    moved = image * gain.astype(np.float32) + np.float32(offset)
    return np.clip(np.rint(moved), 0, 255).astype(np.uint8), np.ascontiguousarray(mask)


def augment_batch(
    images: Images, masks: Masks, places: Sequence[int], seed: int, epochs: Sequence[int]
) -> tuple[Images, Masks]:
    """Return the pairs at `places` of images (N, H, W, 3) and masks (N, H, W), each augmented as of its epoch."""
    pairs = [augment(images[p], masks[p], seed, epoch, p) for p, epoch in zip(places, epochs, strict=True)]
    return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


@torch.no_grad()
def find_lesions(network: SegmenterNetwork, images: Images, device: torch.device) -> Lesions:
    """Find the lesions in images (N, S, S, 3) of the network's own side; the network is left in training mode."""
    network.eval()
    try:
        found = [
            (network(to_input(images[start : start + BATCH_SIZE], images.shape[1]).to(device))[:, 0] > 0).cpu().numpy()
            for start in range(0, len(images), BATCH_SIZE)
        ]
    finally:
        network.train()
    return np.concatenate(found)


def mean_dice(network: SegmenterNetwork, images: Images, masks: Masks, device: torch.device) -> float:
    """Return the mean Dice coefficient of images (N, S, S, 3) and masks (N, S, S) of the network's own side."""
    found = find_lesions(network, images, device)
    return float(np.mean([dice(ours, mask >= LESION_FROM) for ours, mask in zip(found, masks, strict=True)]))
