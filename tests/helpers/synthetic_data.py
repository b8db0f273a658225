"""Drawn photographs and masks for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support import Array, disc


def photograph(mask: Array, seed: int) -> Array:
    """Skin with a darker lesion where the mask is, and some noise: (H, W, 3)."""
    generator = np.random.default_rng(seed)
    colors = np.where(mask[:, :, None] > 127, (120, 72, 60), (220, 180, 160))
    slope = np.linspace(-15, 15, mask.shape[1])[None, :, None]
    return np.clip(colors + slope + generator.normal(0, 6, (*mask.shape, 1)), 0, 255).astype(np.uint8)


def write_pair(folder: Path, name: str, seed: int = 0, side: int = 160, suffix: str = ".jpg", **options: Any) -> None:
    """NAME.jpg and NAME_segmentation.png."""
    mask = disc(side, side * (0.15 + 0.02 * (seed % 10)), side * (0.4 + 0.02 * (seed % 7)), side * 0.5)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(mask, seed)).save(folder / f"{name}{suffix}", **options)
    Image.fromarray(mask).save(folder / f"{name}_segmentation.png")


def data_folder(root: Path, count: int = 6, val: int = 2, side: int = 143) -> Path:
    """train/ and val/ with images and masks of one size."""
    for split, numbers in (("train", range(count)), ("val", range(100, 100 + val))):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            mask = disc(side, 20 + 4 * (number % 9), 60 + number % 20, 70)
            name = f"p{number:03}.png"
            Image.fromarray(photograph(mask, number)).save(root / split / "images" / name)
            Image.fromarray(mask).save(root / split / "masks" / name)
    return root
