"""Bundles against images that the original code made."""

from __future__ import annotations

import numpy as np
import pytest
from support import REFERENCE, TINY, assert_equals_original, oracle

from m2l_runtime import Synthesizer


def test_the_tiny_bundle_equals_the_original(tiny_synth: Synthesizer) -> None:
    triples = list(oracle(TINY / "masks", TINY / "images_eval"))
    assert [name for name, _, _ in triples] == ["mask_00000", "mask_00001", "raw_400x300"]
    for _, mask, original in triples:
        assert_equals_original(tiny_synth(mask[None])[0], original)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference images are not here")
@pytest.mark.parametrize(
    ("masks", "images", "count"), [("masks", "images_eval", 24), ("raw_masks", "images_raw_eval", 6)]
)
def test_the_embedded_model_equals_the_original(masks: str, images: str, count: int) -> None:
    triples = list(oracle(REFERENCE / masks, REFERENCE / images))
    assert len(triples) == count
    with Synthesizer.open() as synth:
        made = synth(np.stack([mask for _, mask, _ in triples]))
    for image, (_, _, original) in zip(made, triples, strict=True):
        assert_equals_original(image, original)


def test_the_comparison_can_fail() -> None:
    original = np.random.default_rng(0).integers(1, 254, (64, 64, 3), dtype=np.uint8)
    up = np.random.default_rng(1).integers(0, 2, original.shape, dtype=np.uint8)
    assert_equals_original(original + up, original)
    for wrong in (original, original + 1, original - up, original + 2 * up, (original + up)[:, ::-1]):
        with pytest.raises(AssertionError):
            assert_equals_original(wrong, original)
