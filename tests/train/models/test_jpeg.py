"""JPEG in training: against the files that Pillow (libjpeg) writes and reads."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from m2l_train.models.jpeg import compress, quantization_tables

QUALITIES = [50, 75, 90]


def textured(height: int = 64, width: int = 96) -> npt.NDArray[np.uint8]:
    """(H, W, 3): colored slopes, an edge and noise of luma and chroma."""
    random = np.random.default_rng(2)
    y, x = np.mgrid[:height, :width] / 16.0
    levels = np.stack([130 + 40 * np.sin(x + y), 110 + 30 * np.cos(y), 90 + 25 * np.sin(x - y)], -1)
    levels += random.normal(0, 12, (height, width, 1)) + random.normal(0, 4, (height, width, 3))
    levels[:, width // 2 :] += 30
    return levels.clip(0, 255).astype(np.uint8)


def by_pillow(image: npt.NDArray[np.uint8], quality: int) -> tuple[npt.NDArray[np.uint8], dict[int, list[int]]]:
    """What is read of the file that is written, and its tables."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB")), picture.quantization  # type: ignore[attr-defined]


def to_network(image: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("quality", [1, 10, 49, *QUALITIES, 100])
def test_quantization_tables__are_those_that_pillow_writes(quality: int) -> None:
    expected = by_pillow(textured(16, 16), quality)[1]
    for place, table in enumerate(quantization_tables(quality)):
        assert table.flatten().tolist() == list(expected[place])


@pytest.mark.parametrize("quality", QUALITIES)
def test_compress__gives_what_pillow_reads_of_its_file(quality: int) -> None:
    image = textured()
    expected = by_pillow(image, quality)[0].astype(float)
    found = (compress(to_network(image), quality)[0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.abs(found - expected).mean() < 0.5
    assert np.abs(found - found.round()).max() < 1e-3, "whole levels"
    assert np.abs(image - expected).mean() > 2.5, "there is something to lose"
    assert np.abs(found.mean((0, 1)) - expected.mean((0, 1))).max() < 0.1


def test_compress__of_several_images_is_that_of_each() -> None:
    images = torch.cat([to_network(textured()), to_network(textured()[::-1].copy())])
    both = compress(images)
    for image, expected in zip(images, both, strict=True):
        torch.testing.assert_close(compress(image[None])[0], expected)


def test_compress__its_gradient_is_that_of_the_images() -> None:
    images = (torch.rand(2, 3, 16, 32) * 3 - 1.5).requires_grad_()  # beyond [-1, 1], too
    weights = torch.randn(2, 3, 16, 32)
    (compress(images) * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(images.grad, weights)  # type: ignore[arg-type]
    assert compress(images).abs().max() <= 1 + 1e-6


@pytest.mark.parametrize(("shape", "message"), [((1, 3, 24, 32), "multiples of 16"), ((1, 3, 32, 24), "multiples")])
def test_compress__of_other_sides(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compress(torch.zeros(shape))


@pytest.mark.parametrize("quality", [0, 101])
def test_compress__of_other_qualities(quality: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 100, got {quality}"):
        compress(torch.zeros(1, 3, 16, 16), quality)
