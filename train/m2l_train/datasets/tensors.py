"""Turn pairs of arrays into what a training loop takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m2l_runtime._utils.arguments import check_types
from m2l_runtime.types import Image, Mask

LESION_FROM = 128
"""Level of a mask from which on a pixel belongs to the lesion."""

PairTransform = Callable[..., Any]
"""Called as ``transform(image=image, mask=mask)`` with uint8 (H, W, 3) and uint8 (H, W) of 0..255, both its own.

So Albumentations is called. A mapping with the keys `image` and `mask` becomes a pair; all else is the item."""


@check_types()
def to_tensors(image: Image, mask: Mask) -> tuple[Tensor, Tensor]:
    """Turn a pair into tensors, as datasets do without a transform.

    Example:
        >>> image, mask = to_tensors(np.full((4, 6, 3), 255, np.uint8), np.full((4, 6), 255, np.uint8))
        >>> image.shape, float(image.max()), mask.shape, mask.dtype
        (torch.Size([3, 4, 6]), 1.0, torch.Size([1, 4, 6]), torch.float32)

    Args:
        image: uint8 (H, W, 3).
        mask: uint8 (H, W), lesion from 128 on.

    Returns:
        (image: float32 (3, H, W) of 0..1, mask: float32 (1, H, W) of 0 and 1).
    """
    return (
        torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255,
        torch.from_numpy(mask >= LESION_FROM)[None].float(),
    )


@check_types()
def to_dictionary(image: Image, mask: Mask) -> dict[str, Tensor]:
    """Turn a pair into a dictionary as MONAI's transforms take it; a `transform` of datasets.

    Example:
        >>> item = to_dictionary(image=np.zeros((4, 6, 3), np.uint8), mask=np.zeros((4, 6), np.uint8))
        >>> item["image"].shape, item["label"].shape
        (torch.Size([3, 4, 6]), torch.Size([1, 4, 6]))

    Args:
        image: uint8 (H, W, 3).
        mask: uint8 (H, W), lesion from 128 on.

    Returns:
        `image`: float32 (3, H, W) of 0..1, `label`: float32 (1, H, W) of 0 and 1.
    """
    picture, label = to_tensors(image, mask)
    return {"image": picture, "label": label}


def make_item(image: Image, mask: Mask, transform: PairTransform | None) -> Any:
    """Return what a dataset gives for a pair."""
    if transform is None:
        return to_tensors(image, mask)
    item = transform(image=image, mask=mask)
    if isinstance(item, Mapping) and "image" in item and "mask" in item:
        return item["image"], item["mask"]
    return item
