"""Numbers that training follows are those that the runtime measures, and their gradients lead to what is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from m2l_runtime.conditioning.numbers import measure_numbers
from m2l_train.models.measured import DIFFERENTIABLE_NAMES, measure_differentiably


def drawn(seed: int, side: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A blurred and a noisy disc on skin, dark towards the corners."""
    random = np.random.default_rng(seed)
    y, x = np.ogrid[:side, :side]
    far = np.hypot(y - side / 2, x - side / 2)
    mask = (far < random.uniform(10, 35)).astype(np.uint8) * 255
    levels = np.where(mask[..., None] > 0, (110, 70, 60), (200, 150, 140)) + random.normal(0, 6, (side, side, 3))
    levels = levels - seed * 8 * (far[..., None] / side) ** 2
    return levels.clip(0, 255).astype(np.uint8), mask


def tensors(image: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float(), torch.from_numpy(mask > 0)[None, None]


@pytest.mark.parametrize("seed", range(6))
def test_measure_differentiably__as_the_runtime(seed: int) -> None:
    image, mask = drawn(seed)
    expected = measure_numbers(image, mask, DIFFERENTIABLE_NAMES)
    found = measure_differentiably(*tensors(image, mask))[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3, atol=2e-3)


def test_measure_differentiably__of_each_image_by_itself_and_of_the_whole_where_a_region_is_missing() -> None:
    (first, mask), (second, _) = drawn(1), drawn(2)
    nothing = np.zeros_like(mask)
    alone = [measure_differentiably(*tensors(image, given)) for image, given in ((first, mask), (second, nothing))]
    pairs = [tensors(first, mask), tensors(second, nothing)]
    both = measure_differentiably(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))
    torch.testing.assert_close(both, torch.cat(alone))
    expected = measure_numbers(second, nothing, DIFFERENTIABLE_NAMES)
    np.testing.assert_allclose(both[1].numpy(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", DIFFERENTIABLE_NAMES)
def test_measure_differentiably__a_step_along_the_gradient_raises_the_number(name: str) -> None:
    images, masks = tensors(*drawn(4))
    images = images.clamp(20, 235).requires_grad_()
    place = DIFFERENTIABLE_NAMES.index(name)
    before = measure_differentiably(images, masks)[0, place]
    (gradient,) = torch.autograd.grad(before, images)
    after = measure_differentiably(images + 2 * gradient / gradient.square().mean().sqrt(), masks)[0, place]
    assert after > before


def test_measure_differentiably__even_images_have_finite_gradients() -> None:
    images = torch.full((2, 3, 64, 64), 128.0, requires_grad=True)
    masks = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    masks[0, :, 8:40, 8:40] = True
    measure_differentiably(images, masks).sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
