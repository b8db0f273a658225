"""Data and a small segmenter that tests of evaluation share, so that each is made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import photograph
from PIL import Image
from support import Array, disc

from m2l_train.evaluate.training import train_segmenter

SIDE = 64


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("evaluate") / "data")


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other photographs of the masks of the val split."""
    images = np.stack([photograph(mask, 500 + n) for n, mask in enumerate(masks(8, first=100))])
    return write(tmp_path_factory.mktemp("evaluate") / "synthetic", images, 100)


@pytest.fixture(scope="session")
def segmenter(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter that has learnt that dark is lesion."""
    out = tmp_path_factory.mktemp("evaluate") / "segmenter.pt"
    train_segmenter(data, out, epochs=32, width=8, threads=1, workers=1)
    return out
