"""Make masks, photographs and data folders for the tests of evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from support import Array, disc
from synthetic_data import photograph

SIDE = 64


def masks(count: int, side: int = SIDE, first: int = 0) -> Array:
    """Discs of several sizes at several places."""
    return np.stack(
        [
            disc(side, side * (0.15 + 0.02 * (n % 8)), side * (0.35 + 0.03 * (n % 9)), side * (0.4 + 0.02 * (n % 11)))
            for n in range(first, first + count)
        ]
    )


def photographs(count: int, side: int = SIDE, first: int = 0) -> Array:
    """A photograph for each of `masks`, of its own light."""
    found = [photograph(mask, n) for n, mask in enumerate(masks(count, side, first), first)]
    light = [(37 * n) % 41 - 20 for n in range(first, first + count)]
    return np.stack(
        [np.clip(image.astype(int) + shift, 0, 240).astype(np.uint8) for image, shift in zip(found, light, strict=True)]
    )


def write(folder: Path, images: Array, first: int = 0, suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n, image in enumerate(images, first):
        Image.fromarray(image).save(folder / f"p{n:03}{suffix}.png")
    return folder


def write_data(root: Path, train: int = 12, val: int = 8, side: int = SIDE) -> Path:
    """train/ and val/."""
    for split, first, count in (("train", 0, train), ("val", 100, val)):
        if count:
            write(root / split / "images", photographs(count, side, first), first)
            write(root / split / "masks", masks(count, side, first), first)
    return root
