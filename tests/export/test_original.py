"""An exported checkpoint against images that the original code made with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import REFERENCE, assert_equals_original, oracle

from m2l_export import export_checkpoint
from m2l_runtime import Synthesizer

pytestmark = [
    pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference images are not here"),
    pytest.mark.usefixtures("only_onnxruntime"),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "bundle"
    export_checkpoint(REFERENCE / "latest_net_G.pth", path)
    return path


@pytest.mark.parametrize(
    ("masks", "images", "count"), [("masks", "images_eval", 24), ("raw_masks", "images_raw_eval", 6)]
)
def test_original__a_trained_checkpoint_equals_the_original(bundle: Path, masks: str, images: str, count: int) -> None:
    triples = list(oracle(REFERENCE / masks, REFERENCE / images))
    assert len(triples) == count
    with Synthesizer.open(bundle) as synth:
        made = synth(np.stack([mask for _, mask, _ in triples]))
    for image, (_, _, original) in zip(made, triples, strict=True):
        assert_equals_original(image, original)
