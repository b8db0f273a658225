"""Parity with the original is a test that fails: each of these sabotages must be noticed.

Each one is a mistake that people have made with this network; each passes many a unit test.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import REFERENCE, TINY, Array, assert_equals_original, assert_truncates_to_original

from m2l_export.checkpoint import load_checkpoint
from m2l_export.deploy import ByteGraph, deploy
from m2l_runtime import maskfile
from m2l_train import networks

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


def compare(
    checkpoint: Path,
    masks: Path,
    images: Path,
    change_mask: Callable[[Array], Array] = lambda m: m,
    change_image: Callable[[Array], Array] = lambda i: i,
) -> None:
    """All that happens between a checkpoint, a mask file and an image, and then the comparisons."""
    graph: ByteGraph = deploy(load_checkpoint(checkpoint).network).graph
    for path in sorted(images.glob("*.png")):
        mask = change_mask(maskfile.read_mask(masks / path.name, (256, 256)).mask)
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(mask))[None]
            image = graph(batch)[0].numpy()
            pixels = graph.unet(batch[:, None].float() * (2 / 255) - 1)[0].permute(1, 2, 0).numpy()
        with Image.open(path) as picture:
            original = np.array(picture.convert("RGB"))
        assert_equals_original(change_image(image), original)
        assert_truncates_to_original(pixels, original)


@pytest.mark.parametrize(("checkpoint", "masks", "images"), ORACLES)
class TestSabotage:
    def test_untouched(self, checkpoint: Path, masks: Path, images: Path) -> None:
        compare(checkpoint, masks, images)

    @pytest.mark.parametrize("axis", [0, 1])
    def test_flipped_mask(self, checkpoint: Path, masks: Path, images: Path, axis: int) -> None:
        with pytest.raises(AssertionError):
            compare(checkpoint, masks, images, change_mask=lambda m: np.flip(m, axis))

    @pytest.mark.parametrize("axis", [0, 1])
    def test_shift_by_one_pixel(self, checkpoint: Path, masks: Path, images: Path, axis: int) -> None:
        with pytest.raises(AssertionError):
            compare(checkpoint, masks, images, change_mask=lambda m: np.roll(m, 1, axis))

    def test_bgr(self, checkpoint: Path, masks: Path, images: Path) -> None:
        with pytest.raises(AssertionError):
            compare(checkpoint, masks, images, change_image=lambda i: i[..., ::-1])

    def test_leaky_relu_slope(
        self, checkpoint: Path, masks: Path, images: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(networks, "LEAKY_RELU_SLOPE", 0.1)
        with pytest.raises(AssertionError):
            compare(checkpoint, masks, images)

    def test_norm_eps(self, checkpoint: Path, masks: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(networks, "NORM_EPS", 1e-3)
        with pytest.raises(AssertionError):
            compare(checkpoint, masks, images)

    def test_nearest_resize(self, checkpoint: Path, masks: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def nearest(grey: Array, image_size: tuple[int, int]) -> Array:
            height, width = image_size
            return np.array(Image.fromarray(grey).resize((width, height), Image.Resampling.NEAREST))

        monkeypatch.setattr(maskfile, "resize", nearest)
        with pytest.raises(AssertionError):
            compare(checkpoint, masks, images)

    def test_truncation(self, checkpoint: Path, masks: Path, images: Path) -> None:
        """Rounding down as the original does is no parity either: it would hide an offset of half a level."""
        with pytest.raises(AssertionError):
            compare(checkpoint, masks, images, change_image=lambda i: i - (i > 0))
