"""Numbers that training follows are those that the runtime measures, and their gradients lead to what is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from m2l_runtime.conditioning.numbers import measure_numbers
from m2l_train.models.measured import DIFFERENTIABLE_NAMES, hair_difference, measure_differentiably, tile_sharpness


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


def striped(depth: float, count: int = 3) -> Tensor:
    """Skin with curved dark lines, (1, 3, 96, 96)."""
    x = np.arange(8, 88)
    levels = np.full((96, 96), 170.0) + np.random.default_rng(0).normal(0, 1.5, (96, 96))
    for place in range(count):
        y = np.rint(20 + 25 * place + 6 * np.sin(x / 12)).astype(int)
        levels[y, x] -= depth
    return torch.from_numpy(levels).float().expand(1, 3, 96, 96).clone()


def hair_of(images: Tensor) -> float:
    image = images[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    return float(measure_numbers(image, np.zeros((96, 96), np.uint8), ("hair",))[0])


@pytest.mark.parametrize(("depth", "asked", "is_less"), [(60.0, 0.0, True), (16.0, 2.5, False)])
def test_hair_difference__steps_along_the_gradient_lead_to_what_is_asked_for(
    depth: float, asked: float, is_less: bool
) -> None:
    images, masks = striped(depth), torch.zeros(1, 1, 96, 96, dtype=torch.bool)
    before = hair_of(images)
    for _ in range(20):
        images.requires_grad_()
        loss = hair_difference(images, masks, torch.tensor([asked]), torch.tensor(0.5))
        if not loss.requires_grad:
            break
        (gradient,) = torch.autograd.grad(loss, images)
        images = (images - 2 * gradient / gradient.abs().max().clamp_min(1e-12)).detach()
    after = hair_of(images)
    assert (after < before - 0.5) if is_less else (after > before + 0.5)


def test_hair_difference__nothing_where_it_is_met_or_nothing_can_be_done() -> None:
    masks, one = torch.zeros(1, 1, 96, 96, dtype=torch.bool), torch.tensor(0.5)
    met = striped(60.0)
    assert float(hair_difference(met, masks, torch.tensor([hair_of(met)]), one)) == 0
    even = torch.full((1, 3, 96, 96), 150.0, requires_grad=True)
    assert float(hair_difference(even, masks, torch.tensor([2.0]), one)) == 0
    everywhere = torch.ones(1, 1, 96, 96, dtype=torch.bool)
    assert float(hair_difference(met, everywhere, torch.tensor([hair_of(met)]), one)) == 0, "no skin: it is all skin"


def test_tile_sharpness__is_the_power_of_detail_tile_by_tile() -> None:
    """The same power, all over the image or in one of its 16 tiles, which a mean of logarithms tells apart."""
    noise = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    corner = torch.zeros_like(noise)
    corner[..., :32, :32] = 4 * noise[..., :32, :32]
    everywhere, one, nothing = (tile_sharpness(level + 128)[0, 0] for level in (noise, corner, 0 * noise))
    power = (9 * noise.mean(1)).var() * 8 / 9  # of white noise less its mean over nine pixels
    torch.testing.assert_close(everywhere, torch.log10(1 + power).expand(4, 4), rtol=0, atol=0.1)
    assert float(one[0, 0]) == pytest.approx(float(torch.log10(1 + 16 * power)), abs=0.1)
    assert torch.equal(nothing, torch.zeros(4, 4))
    assert one.mean() < 0.15 * everywhere.mean()
