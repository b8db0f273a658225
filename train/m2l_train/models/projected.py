"""Build what judges images in training: by features of a network trained on photographs, by pixels, by the mask found.

From Sauer, Chitta, Mueller and Geiger, "Projected GANs Converge Faster", NeurIPS 2021 (arXiv:2111.01007): heads judge
features of several depths, mixed at random by convolutions that are never trained. Here heads judge patches, see the
mask, and are told the appearance by a projection (Miyato and Koyama, "cGANs with Projection Discriminator",
arXiv:1802.05637). All layers that are trained have a spectral norm (Miyato et al., arXiv:1802.05957).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from m2l_train.models.networks import LEAKY_RELU_SLOPE

MIXED: Final = 64
HEAD_WIDTH: Final = 96
PATCH_WIDTH: Final = 48
MASK_WIDTH: Final = 48
PATCH_CHANNELS: Final = 7
"""Red, green, blue; the finest detail (:func:`m2l_train.models.networks.detail`); the mask."""


class ProjectedHeads(nn.Module):
    """Judge features of several depths: one map of logits for each.

    Example:
        >>> heads = ProjectedHeads((24, 40), numbers=34)
        >>> features = [torch.zeros(2, 24, 32, 32), torch.zeros(2, 40, 16, 16)]
        >>> [tuple(map.shape) for map in heads(features, torch.zeros(2, 1, 128, 128), torch.zeros(2, 34))]
        [(2, 1, 16, 16), (2, 1, 16, 16)]
    """

    def __init__(self, channels: Sequence[int], numbers: int) -> None:
        super().__init__()
        last = len(channels) - 1
        self.mix = nn.ModuleList(nn.Conv2d(count, MIXED, 1, bias=False) for count in channels)
        for mix in self.mix:
            nn.init.kaiming_normal_(cast(nn.Conv2d, mix).weight)
            mix.requires_grad_(False)
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(MIXED + 1, HEAD_WIDTH, *((3, 1) if depth == last else (4, 2)), 1)),
                nn.LeakyReLU(LEAKY_RELU_SLOPE),
                spectral_norm(nn.Conv2d(HEAD_WIDTH, HEAD_WIDTH, 3, 1, 1)),
                nn.LeakyReLU(LEAKY_RELU_SLOPE),
            )
            for depth in range(len(channels))
        )
        self.out = nn.ModuleList(spectral_norm(nn.Conv2d(HEAD_WIDTH, 1, 1)) for _ in channels)
        self.emb = nn.ModuleList(spectral_norm(nn.Linear(numbers, HEAD_WIDTH)) for _ in channels)

    def forward(self, features: Sequence[Tensor], mask: Tensor, appearance: Tensor) -> list[Tensor]:
        """See the class.

        Args:
            features: (B, C, H, W) of each depth.
            mask: (B, 1, H', W') in [-1, 1].
            appearance: (B, numbers).
        """
        logits = []
        for one, mix, head, out, embed in zip(features, self.mix, self.heads, self.out, self.emb, strict=True):
            small = F.adaptive_avg_pool2d(mask, (one.shape[2], one.shape[3])).to(one.dtype)
            seen = head(torch.cat([mix(one), small], 1))
            logits.append((out(seen) + _projected(seen, embed(appearance))).float())
        return logits


class PatchHead(nn.Module):
    """Judge pixels, their amplified detail and the mask by patches of 38 pixels: (B, 7, H, W) to (B, 1, H/8, W/8).

    Example:
        >>> PatchHead(numbers=34)(torch.zeros(2, 7, 128, 128), torch.zeros(2, 34)).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = PATCH_CHANNELS
        for factor in (1, 2, 3):
            layers += [
                spectral_norm(nn.Conv2d(before, factor * PATCH_WIDTH, 4, 2, 1)),
                nn.LeakyReLU(LEAKY_RELU_SLOPE),
            ]
            before = factor * PATCH_WIDTH
        self.net = nn.Sequential(*layers)
        self.out = spectral_norm(nn.Conv2d(before, 1, 3, 1, 1))
        self.emb = spectral_norm(nn.Linear(numbers, before))

    def forward(self, seen: Tensor, appearance: Tensor) -> Tensor:
        """See the class; `appearance` is (B, numbers)."""
        features = self.net(seen)
        logits: Tensor = self.out(features) + _projected(features, self.emb(appearance))
        return logits.float()


class MaskHead(nn.Module):
    """Segment images by features of several depths, as feature pyramids do (Lin et al., arXiv:1612.03144).

    It is trained on real images alone, so a synthesized one whose lesion it does not find is not true to its mask.

    Example:
        >>> head = MaskHead((24, 40))
        >>> head([torch.zeros(2, 24, 32, 32), torch.zeros(2, 40, 16, 16)]).shape
        torch.Size([2, 1, 32, 32])
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, MASK_WIDTH, 1) for count in channels)
        self.smooth = nn.Conv2d(MASK_WIDTH, MASK_WIDTH, 3, 1, 1)
        self.out = nn.Conv2d(MASK_WIDTH, 1, 3, 1, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, 1, H, W) of features (B, C, H, W) from the finest depth on."""
        side = (features[0].shape[2], features[0].shape[3])
        maps = [lateral(one) for one, lateral in zip(features, self.lateral, strict=True)]
        together = maps[0]
        for one in maps[1:]:
            together = together + F.interpolate(one, size=side, mode="bilinear", align_corners=False)
        logits: Tensor = self.out(F.relu(self.smooth(F.relu(together))))
        return logits.float()


def _projected(features: Tensor, embedded: Tensor) -> Tensor:
    return (features * embedded[:, :, None, None]).mean(1, keepdim=True)
