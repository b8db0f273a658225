"""Discriminators on features and on pixels: what they see, and what of them is trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from m2l_train.models.projected import PATCH_CHANNELS, MaskHead, PatchHead, ProjectedHeads

CHANNELS, NUMBERS = (4, 6, 8), 5


@pytest.fixture
def heads() -> ProjectedHeads:
    torch.manual_seed(0)
    return ProjectedHeads(CHANNELS, NUMBERS)


def features(batch: int = 2) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, count, 16 >> depth, 16 >> depth) for depth, count in enumerate(CHANNELS)]


def test_projected_heads__a_map_for_each_depth(heads: ProjectedHeads) -> None:
    found = heads(features(), torch.zeros(2, 1, 64, 64), torch.randn(2, NUMBERS))
    assert [tuple(one.shape) for one in found] == [(2, 1, 8, 8), (2, 1, 4, 4), (2, 1, 4, 4)]
    with torch.autocast("cpu", torch.bfloat16):
        assert {one.dtype for one in heads(features(), torch.zeros(2, 1, 64, 64), torch.randn(2, NUMBERS))} == {
            torch.float32
        }


def test_projected_heads__see_features_mask_and_appearance(heads: ProjectedHeads) -> None:
    heads.eval()  # the power iteration of spectral norms stands still
    given = (features(), torch.zeros(2, 1, 64, 64), torch.randn(2, NUMBERS))
    before = heads(*given)
    mask = given[1].clone()
    mask[:, :, :32, :32] = 1
    for changed in (
        ([one + 1 for one in given[0]], *given[1:]),
        (given[0], mask, given[2]),
        (*given[:2], given[2] + 1),
    ):
        for one, other in zip(heads(*changed), before, strict=True):
            assert (one - other).abs().mean() > 1e-3
    far = [one - other for one, other in zip(heads(given[0], mask, given[2]), before, strict=True)]
    assert far[0][:, :, -2:, -2:].abs().max() == 0, "the mask counts where it is"


def test_projected_heads__the_mixing_is_never_trained(heads: ProjectedHeads) -> None:
    before = [parameter.clone() for parameter in heads.mix.parameters()]
    optimizer = torch.optim.Adam([p for p in heads.parameters() if p.requires_grad], 0.1)
    outputs = heads(features(), torch.zeros(2, 1, 64, 64), torch.randn(2, NUMBERS))
    torch.stack([one.mean() for one in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert len(before) == len(CHANNELS)
    for old, new in zip(before, heads.mix.parameters(), strict=True):
        assert new.grad is None
        assert torch.equal(old, new)
    assert all(p.grad is not None for part in (heads.heads, heads.out, heads.emb) for p in part.parameters())


def largest_singular_values(network: nn.Module) -> dict[str, float]:
    return {
        name: float(torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not name.startswith("mix.")
    }


def test_projected_heads__all_that_is_trained_has_a_spectral_norm_of_one(heads: ProjectedHeads) -> None:
    for _ in range(40):
        heads(features(), torch.zeros(2, 1, 64, 64), torch.randn(2, NUMBERS))
    heads.eval()
    values = largest_singular_values(heads)
    assert len(values) == 4 * len(CHANNELS)
    assert all(value == pytest.approx(1, abs=0.05) for value in values.values()), values


def test_patch_head__shape_mask_and_appearance() -> None:
    torch.manual_seed(0)
    head = PatchHead(NUMBERS)
    seen, row = torch.randn(2, PATCH_CHANNELS, 32, 48), torch.randn(2, NUMBERS)
    for _ in range(40):
        head(seen, row)
    head.eval()
    assert all(value == pytest.approx(1, abs=0.05) for value in largest_singular_values(head).values())
    before = head(seen, row)
    assert before.shape == (2, 1, 4, 6)
    for channel in range(PATCH_CHANNELS):
        changed = seen.clone()
        changed[:, channel] += 1
        assert (head(changed, row) - before).abs().mean() > 1e-3
    assert (head(seen, row + 1) - before).abs().mean() > 1e-3


def test_patch_head__judges_patches_of_38_pixels() -> None:
    torch.manual_seed(0)
    seen = torch.randn(1, PATCH_CHANNELS, 96, 96, requires_grad=True)
    PatchHead(NUMBERS).eval()(seen, torch.zeros(1, NUMBERS))[0, 0, 6, 6].backward()
    rows = torch.nonzero(seen.grad.abs().sum((0, 1, 3))).flatten()  # type: ignore[union-attr]
    assert int(rows[-1] - rows[0]) + 1 == len(rows) == 38


def test_mask_head__finds_what_one_depth_shows_and_ignores_the_rest() -> None:
    """Discs shown by one channel of the coarsest depth, among noise, are learned in 60 steps, and found in others."""
    torch.manual_seed(0)
    head = MaskHead(CHANNELS)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")

    def drawn() -> tuple[list[Tensor], Tensor]:
        centers = torch.rand(8, 2, 1, 1) * 8 + 4
        discs = ((y - centers[:, 0]) ** 2 + (x - centers[:, 1]) ** 2 < 16)[:, None].float()
        maps = [torch.randn(8, count, 16 >> depth, 16 >> depth) for depth, count in enumerate(CHANNELS)]
        maps[2][:, 3:4] = 4 * nn.functional.avg_pool2d(discs, 4)
        return maps, discs

    for _ in range(60):
        maps, discs = drawn()
        loss = nn.functional.binary_cross_entropy_with_logits(head(maps), discs)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    maps, discs = drawn()
    assert ((head(maps) > 0) == (discs > 0.5)).float().mean() > 0.9, discs.mean()
    with torch.autocast("cpu", torch.bfloat16):
        assert head(maps).dtype == torch.float32
