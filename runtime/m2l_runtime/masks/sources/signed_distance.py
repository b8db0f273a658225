"""Compute signed distance maps of masks, whose outlines bend and mix smoothly."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from m2l_runtime.masks.sources.lesions import LESION_FROM, Pose
from m2l_runtime.types import Mask

Distances = npt.NDArray[np.float32]
"""float32 (H, W): distance to the outline, below 0 inside the lesion."""


def signed_distances(mask: Mask) -> Distances:
    """Compute the Euclidean distance of each pixel's center to the outline, in pixels; below 0 inside.

    The outline runs half a pixel from the centers on either side of it. A mask must have both lesion and background.
    """
    inside = mask >= LESION_FROM
    outwards, inwards = ndimage.distance_transform_edt(~inside), ndimage.distance_transform_edt(inside)
    signed: Distances = np.where(inside, 0.5 - inwards, outwards - 0.5).astype(np.float32)
    return signed


def aligned_distances(
    mask: Mask, pose: Pose, side: int, box_radii: float, near_radii: float, angle: float = 0.0
) -> Distances:
    """Compute signed distances in radii on a grid around the lesion, to compare lesions of any place and size.

    Args:
        mask: uint8 (H, W). Beyond the frame there is background, so a lesion that touches it is cut off there.
        pose: place and size of its lesion.
        side: points along each side of the grid.
        box_radii: how many radii the grid reaches from the center, in y and x.
        near_radii: where distances are cut off: what is far from an outline says more of the frame than of the lesion.
        angle: in radians, clockwise as seen; the grid's x axis points that way.

    Returns:
        (side, side), from -`near_radii` to `near_radii`.
    """
    beyond = math.ceil(near_radii * pose.radius) + 2
    distances = signed_distances(np.pad(mask, beyond)) / pose.radius
    reach = ((np.arange(side) + 0.5) / side * 2 - 1) * box_radii * pose.radius
    v, u = np.meshgrid(reach, reach, indexing="ij")
    at = (
        beyond + pose.y - 0.5 + np.sin(angle) * u + np.cos(angle) * v,
        beyond + pose.x - 0.5 + np.cos(angle) * u - np.sin(angle) * v,
    )
    sampled: Distances = ndimage.map_coordinates(
        np.clip(distances, -near_radii, near_radii), at, np.float32, order=1, mode="nearest"
    )
    return sampled
