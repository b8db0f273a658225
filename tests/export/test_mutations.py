"""Parity with the original is a test that fails: every sabotage must be noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutations import SABOTAGES, Made, Sabotage, make
from support import REFERENCE, TINY, assert_equals_original

ORACLES = [
    pytest.param(TINY / "tiny_net_G.pth", TINY / "masks", TINY / "images_eval", id="tiny"),
    pytest.param(
        REFERENCE / "latest_net_G.pth",
        REFERENCE / "raw_masks",
        REFERENCE / "images_raw_eval",
        id="trained",
        marks=pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference images are not here"),
    ),
]


def assert_parity(made: list[Made]) -> None:
    """Rounded bytes are the original's or one more; truncated ones are the original's, but for 1 in 10,000."""
    assert made
    for one in made:
        assert_equals_original(one.image, one.original)
        assert one.truncated_off <= 1e-4


@pytest.mark.parametrize(("checkpoint", "masks", "images"), ORACLES)
def test_mutations__untouched(checkpoint: Path, masks: Path, images: Path) -> None:
    assert_parity(make(checkpoint, masks, images))


@pytest.mark.parametrize(("checkpoint", "masks", "images"), ORACLES)
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda s: s.name.replace(" ", "-"))
def test_mutations__sabotaged(checkpoint: Path, masks: Path, images: Path, sabotage: Sabotage) -> None:
    made = make(checkpoint, masks, images, sabotage)
    with pytest.raises(AssertionError):
        assert_parity(made)


def test_mutations__truncation_is_not_parity() -> None:
    """Rounding down as the original does would hide an offset of half a level."""
    for one in make(TINY / "tiny_net_G.pth", TINY / "masks", TINY / "images_eval"):
        with pytest.raises(AssertionError):
            assert_equals_original(one.truncated, one.original)
