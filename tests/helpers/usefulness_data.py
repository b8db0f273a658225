"""Make pairs for tests of the usefulness experiment: dark discs on skin with a texture of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from steered_bundle import steered_bundle
from support import Array, disc

SIDE = 32
TRAIN, TEST = 40, 6
QUICK: dict[str, Any] = {"steps": 3, "width": 1, "side": SIDE, "threads": 1, "workers": 1}
"""Options of an experiment that learns nothing, in no time."""


def pair(number: int, side: int = SIDE) -> tuple[Array, Array]:
    """(image, mask) of a number."""
    random = np.random.default_rng(number)
    mask = disc(side, side * random.uniform(0.15, 0.3), *(side * random.uniform(0.35, 0.65, 2)))
    texture = Image.fromarray(random.integers(0, 256, (5, 5, 3)).astype(np.uint8)).resize((side, side), 2)
    image = np.where(mask[:, :, None] > 127, 60, 190) + (np.asarray(texture, float) - 128) * 0.45
    return np.clip(image, 0, 255).astype(np.uint8), mask


def write_pairs(root: Path, train: int = TRAIN, test: int = TEST) -> Path:
    for split, first, count in (("train", 0, train), ("val", 1000, test)):
        for number in range(first, first + count):
            for kind, array in zip(("images", "masks"), pair(number), strict=True):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / split / kind / f"p{number:04}.png")
    return root


def write_bundle_of_fakes(folder: Path) -> Path:
    """A bundle for the fake backend, at twice the side."""
    steered_bundle(folder, side=2 * SIDE)
    return folder
