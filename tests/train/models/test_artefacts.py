"""What generators add to every image costs what it comes to, and nothing where photographs have it as well."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from m2l_train.models.artefacts import (
    GRID_PERIODS,
    SharedPattern,
    fine_detail,
    grid_power,
    phase_difference,
    texture,
)

SIDE = 64


def test_shared_pattern__costs_what_its_square_is() -> None:
    random = torch.Generator().manual_seed(0)
    mark = torch.zeros(1, 1, SIDE, SIDE)
    mark[:, :, 10] = 8.0
    even = mark - F.avg_pool2d(mark, 9, 1, 4, count_include_pad=False)
    expected = float(even.square().mean())

    def noise() -> Tensor:
        return torch.randn(8, 3, SIDE, SIDE, generator=random)

    shared, alike = SharedPattern(fine_detail), SharedPattern(fine_detail)
    for _ in range(300):
        images = (noise() + mark).requires_grad_()
        found = shared(images, noise())
        same = alike(noise() + mark, noise() + mark)
    assert float(found.detach()) == pytest.approx(expected, rel=0.1)
    assert float(same) == pytest.approx(0, abs=0.02 * expected)
    found.backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    along = images.grad.mean((0, 1, 3))
    assert along.argmax() == 10
    assert along[10] > 5 * along[20:].abs().max()


def test_texture__one_strength_for_all_and_nothing_coarse() -> None:
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3, SIDE, SIDE, generator=random)
    slope = torch.linspace(-50, 50, SIDE).expand(2, 3, SIDE, SIDE)
    found = texture(noise * torch.tensor([1.0, 9.0]).reshape(2, 1, 1, 1))
    torch.testing.assert_close(found.square().mean((1, 2, 3)), torch.ones(2))
    inner = (slice(None), slice(None), slice(16, -16), slice(16, -16))  # the slope ends at the border
    correlation = torch.corrcoef(torch.stack([texture(noise + slope)[inner].flatten(), noise[inner].flatten()]))[0, 1]
    assert correlation > 0.95


def test_texture__makes_what_is_common_weaker_not_the_rest_stronger() -> None:
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (texture(images).square().mean() / 2).backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert (images.grad * images.detach()).sum() > 0.5, "a scale with a gradient would have none along the image"


@pytest.mark.parametrize("strength", [0.0, 1.0, 30.0])
def test_grid_power__is_the_share_of_the_spectrum_at_multiples_of_the_frequency(strength: float) -> None:
    """A mean over tiles keeps just those frequencies: of N tiles, N times their share of the power."""
    images = torch.randn(3, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    images[:, :, ::4, ::8] += strength
    gray = images.double().mean(1)
    edges = F.pad(gray[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    detail = gray - sum(edges[:, y : y + 64, x : x + 128] for y in range(3) for x in range(3)) / 9
    power = torch.fft.fft2(detail).abs().square()
    expected = []
    for one in power:
        tiles = {period: 64 * 128 // period**2 for period in GRID_PERIODS}
        at = {period: one[:: 64 // period, :: 128 // period].sum() for period in GRID_PERIODS}
        expected.append(sum(max(float(tiles[p] * at[p] / one.sum()) - 1, 0.0) for p in GRID_PERIODS))
    assert float(grid_power(images)) == pytest.approx(sum(expected) / 3, rel=1e-4)
    assert (sum(expected) / 3 > 100) == (strength == 30.0)


def test_grid_power__does_not_depend_on_the_strength_of_detail() -> None:
    images = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grid_power(images * 0.01), grid_power(images), rtol=1e-3, atol=1e-4)
    assert torch.isfinite(grid_power(torch.zeros(2, 3, SIDE, SIDE)))


def test_phase_difference__is_the_power_of_a_checkerboard() -> None:
    slope = torch.linspace(-1, 1, 32)[None, None, :, None].expand(2, 1, 32, 32)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    checkerboard = ((y + x) % 2 * 2 - 1)[None, None].expand(2, 1, 32, 32) * 0.1
    rest = float(phase_difference(slope))
    assert rest < 2e-3, "a slope is hardly one"
    assert float(phase_difference(checkerboard)) == pytest.approx(0.01, abs=1e-6)
    assert float(phase_difference(checkerboard.repeat_interleave(2, 2).repeat_interleave(2, 3))) < 1e-9
