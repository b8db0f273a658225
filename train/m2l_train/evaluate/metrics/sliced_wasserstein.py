"""Measure how far apart the textures of two sets are: sliced Wasserstein distances of Laplacian pyramids.

From Karras, Aila, Laine, Lehtinen, "Progressive Growing of GANs", ICLR 2018, section 5 and the published code: a
Laplacian pyramid of each image (Burt and Adelson 1983) down to 16 pixels; at each level 128 patches of 7x7x3 at random
places; each set's patches are normalised by the mean and the standard deviation of each channel; the patches are
projected on 512 random directions, and the distance is the mean difference of the sorted projections, times 1000.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from m2l_runtime._utils.sides import both_sides
from m2l_runtime.conditioning.random import normal, random_below, random_uint64
from m2l_runtime.types import Image, Images
from m2l_train.device import torch_threads
from m2l_train.evaluate.sets import in_threads

PATCHES: Final = 128
"""Of each image and level."""
PATCH_SIDE: Final = 7
DIRECTIONS: Final = 512
MIN_SIDE: Final = 16
SCALE: Final = 1e3
_KERNEL: Final = (1 / 16, 4 / 16, 6 / 16)  # and back
_DIRECTIONS_AT_ONCE: Final = 64

Patches = npt.NDArray[np.float32]
"""float32 (N * PATCHES, 3, 7, 7)."""


def pyramid_sides(size: int | tuple[int, int]) -> list[int]:
    """Return the shorter sides of the levels of an image's pyramid: halved while both are even and at least 16 remain.

    Args:
        size: side in pixels, or (height, width).
    """
    shorter, longer = sorted(both_sides(size))
    sides = [shorter]
    while sides[-1] % 2 == 0 and longer % 2 == 0 and sides[-1] // 2 >= MIN_SIDE:
        sides.append(sides[-1] // 2)
        longer //= 2
    return sides


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """Split (B, 3, H, W) into its levels, finest first: what halving takes away, and the smallest picture."""
    levels = [images]
    for _ in pyramid_sides((images.shape[2], images.shape[3]))[1:]:
        smaller = _blurred(levels[-1])[:, :, ::2, ::2]
        levels[-1] = levels[-1] - _doubled(smaller)
        levels.append(smaller)
    return levels


def _blurred(x: Tensor) -> Tensor:
    """Blur by the kernel of Burt and Adelson, mirrored at the borders without repeating the last row."""
    height, width = x.shape[2:]
    edge, side, middle = _KERNEL
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    x = (
        edge * (x[..., :width] + x[..., 4:])
        + side * (x[..., 1 : width + 1] + x[..., 3 : width + 3])
        + middle * x[..., 2 : width + 2]
    )
    return (
        edge * (x[:, :, :height] + x[:, :, 4:])
        + side * (x[:, :, 1 : height + 1] + x[:, :, 3 : height + 3])
        + middle * x[:, :, 2 : height + 2]
    )


def _doubled(x: Tensor) -> Tensor:
    wide = torch.zeros((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]), dtype=x.dtype)
    wide[:, :, ::2, ::2] = 4 * x
    return _blurred(wide)


def describe(
    images: Images, seed: int, *, workers: int = 1, on_image: Callable[[int], None] = lambda count: None
) -> list[Patches]:
    """Cut patches from each level of images (N, H, W, 3), not yet normalised.

    Where they are cut out depends on the seed, the level and the image's place in the set, so equal sets give equal
    patches.
    """
    levels: list[list[Patches]] = [[] for _ in pyramid_sides((images.shape[1], images.shape[2]))]
    with torch_threads(1):
        for cut in in_threads(lambda place: _cut(images[place], place, seed), range(len(images)), workers):
            for level, patches in zip(levels, cut, strict=True):
                level.append(patches)
            on_image(1)
    return [np.concatenate(level) for level in levels]


def _cut(image: Image, place: int, seed: int) -> list[Patches]:
    half = PATCH_SIDE // 2
    window = torch.arange(-half, half + 1)
    levels = []
    pyramid = laplacian_pyramid(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float())
    for level, picture in enumerate(pyramid):
        numbers = random_uint64(2 * PATCHES, seed, "evaluate", "patches", level, place)
        rows, columns = (
            torch.from_numpy(half + random_below(side - 2 * half, some))[:, None] + window
            for side, some in zip(picture.shape[2:], numbers.reshape(2, PATCHES), strict=True)
        )
        levels.append(picture[0][:, rows[:, :, None], columns[:, None, :]].transpose(0, 1).numpy())
    return levels


def distances(sets: Sequence[Patches], base: Patches, seed: int) -> list[float]:
    """Return the sliced Wasserstein distance of each of some sets of patches from one of equally many, times 1000."""
    rows = [_normalized(patches) for patches in (*sets, base)]
    length = rows[0].shape[1]
    directions = normal(DIRECTIONS * length, seed, "evaluate", "directions").reshape(DIRECTIONS, length)
    along = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    total = np.zeros(len(sets))
    for start in range(0, DIRECTIONS, _DIRECTIONS_AT_ONCE):
        some = along[start : start + _DIRECTIONS_AT_ONCE]
        *ours, theirs = (np.sort(some @ patches.T, axis=1) for patches in rows)
        total += [float(np.abs(projected - theirs).mean(1, dtype=np.float64).sum()) for projected in ours]
    return [float(value) for value in SCALE * total / DIRECTIONS]


def _normalized(patches: Patches) -> npt.NDArray[np.float32]:
    """Normalize to (M, 147) by the mean and standard deviation of each channel; one without spread is 0."""
    mean = patches.mean((0, 2, 3), keepdims=True, dtype=np.float64)
    spread = patches.std((0, 2, 3), keepdims=True, dtype=np.float64)
    scaled = (patches - mean) / np.where(spread > 0, spread, 1)
    rows: npt.NDArray[np.float32] = scaled.astype(np.float32).reshape(len(patches), -1)
    return rows
