"""Bundles against images that the original code made."""

from __future__ import annotations

import numpy as np
import pytest
from support import TINY, assert_equals_original, oracle

from m2l_runtime import Synthesizer


def test_parity__the_tiny_bundle_equals_the_original(tiny_synth: Synthesizer) -> None:
    triples = list(oracle(TINY / "masks", TINY / "images_eval"))
    assert [name for name, _, _ in triples] == ["mask_00000", "mask_00001", "raw_400x300"]
    for _, mask, original in triples:
        assert_equals_original(tiny_synth(mask[None])[0], original)


def test_parity__the_comparison_can_fail() -> None:
    original = np.random.default_rng(0).integers(1, 254, (64, 64, 3), dtype=np.uint8)
    up = np.random.default_rng(1).integers(0, 2, original.shape, dtype=np.uint8)
    assert_equals_original(original + up, original)
    for wrong in (original, original + 1, original - up, original + 2 * up, (original + up)[:, ::-1]):
        with pytest.raises(AssertionError):
            assert_equals_original(wrong, original)
