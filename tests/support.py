"""What several tests share: where data lies, and what it means to equal the original."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from m2l_runtime.maskfile import read_mask

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "data" / "tiny"
TINY_BUNDLE = ROOT / "tests" / "data" / "tiny-bundle"
REFERENCE = ROOT.parent / "shared" / "reference"
"""Images of the original code for a trained network; tests on it are skipped where it is absent."""

Array = npt.NDArray[np.uint8]


def disc(side: int = 256, radius: float = 60.0, y: float = 120.0, x: float = 130.0) -> Array:
    rows, columns = np.ogrid[:side, :side]
    return np.where(np.hypot(rows - y, columns - x) < radius, np.uint8(255), np.uint8(0))


def save(path: Path, array: npt.NDArray[np.generic], **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def oracle(masks: Path, images: Path) -> Iterator[tuple[str, Array, Array]]:
    """(name, mask read as the runtime reads it, image of the original code)."""
    for image in sorted(images.glob("*.png")):
        with Image.open(image) as picture:
            yield image.stem, read_mask(masks / image.name, (256, 256)).mask, np.array(picture.convert("RGB"))


def assert_equals_original(images: Array, originals: Array) -> None:
    """The original truncates where we round: ours minus the original's is 0 or 1, 0.5 on average off the clipping.

    One byte in 10,000 may miss that by one level: float sums have another order on other processors.
    """
    difference = images.astype(np.int16) - originals
    off = (difference != 0) & (difference != 1)
    assert off.mean() <= 1e-4, f"{off.mean():.2%} of bytes are neither 0 nor 1 above the original's"
    assert difference.min() >= -1
    assert difference.max() <= 2
    inside = (originals > 0) & (originals < 255)
    assert 0.4 <= difference[inside].mean() <= 0.6
