"""Mistakes that people make with this network, and how far each is from the original.

    python tests/helpers/mutations.py CHECKPOINT MASKS IMAGES

prints the table of docs/parity.md for a checkpoint and the images that the original code made of masks.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from support import Array

from m2l_export.checkpoint import load_checkpoint
from m2l_export.graph.deploy import deploy
from m2l_runtime.masks import mask_file
from m2l_train.models import networks


def nearest(gray: Array, image_size: tuple[int, int]) -> Array:
    height, width = image_size
    return np.array(Image.fromarray(gray).resize((width, height), Image.Resampling.NEAREST))


def same(array: Array) -> Array:
    return array


@dataclass(frozen=True)
class Sabotage:
    name: str
    change_mask: Callable[[Array], Array] = same
    change_image: Callable[[Array], Array] = same
    module: object = None
    attribute: str = ""
    value: object = None


UNTOUCHED = Sabotage("nothing")
SABOTAGES = (
    Sabotage("mask flipped top to bottom", change_mask=lambda m: m[::-1]),
    Sabotage("mask flipped left to right", change_mask=lambda m: m[:, ::-1]),
    Sabotage("mask shifted down by 1 pixel", change_mask=lambda m: np.roll(m, 1, 0)),
    Sabotage("mask shifted right by 1 pixel", change_mask=lambda m: np.roll(m, 1, 1)),
    Sabotage("BGR", change_image=lambda i: i[..., ::-1]),
    Sabotage("LeakyReLU slope 0.1", module=networks, attribute="LEAKY_RELU_SLOPE", value=0.1),
    Sabotage("InstanceNorm eps 1e-3", module=networks, attribute="NORM_EPS", value=1e-3),
    Sabotage("nearest-neighbour resize", module=mask_file, attribute="resize", value=nearest),
)


@dataclass(frozen=True)
class Made:
    """What our code makes of one mask file: bytes, and those it would make if it truncated as the original."""

    name: str
    image: Array
    truncated: Array
    original: Array

    @property
    def bytes_off(self) -> float:
        """Share of bytes that are neither the original's nor one more."""
        difference = self.image.astype(np.int16) - self.original
        return float(((difference != 0) & (difference != 1)).mean())

    @property
    def truncated_off(self) -> float:
        """Share of truncated bytes that are not the original's."""
        return float((self.truncated != self.original).mean())


def make(checkpoint: Path, masks: Path, images: Path, sabotage: Sabotage = UNTOUCHED) -> list[Made]:
    """All that happens between a checkpoint, mask files and images, with one mistake in it."""
    found = []
    with contextlib.ExitStack() as stack:
        if sabotage.attribute:
            stack.enter_context(patch.object(sabotage.module, sabotage.attribute, sabotage.value))
        graph = deploy(load_checkpoint(checkpoint).network).graph
        for path in sorted(images.glob("*.png")):
            mask = sabotage.change_mask(mask_file.read_mask(masks / path.name, (256, 256)).mask)
            batch = torch.from_numpy(np.ascontiguousarray(mask))[None]
            with torch.inference_mode():
                image = graph(batch)[0].numpy()
                pixels = graph.unet(batch[:, None].float() * (2 / 255) - 1)[0].permute(1, 2, 0).numpy()
            truncated = ((pixels + 1) / 2.0 * 255.0).astype(np.uint8)
            with Image.open(path) as picture:
                original = np.array(picture.convert("RGB"))
            change = sabotage.change_image
            found.append(Made(path.stem, change(image), change(truncated), original))
    return found


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    checkpoint, masks, images = map(Path, sys.argv[1:])
    print("| mistake | bytes off, worst image | truncated bytes off, worst image |\n|---|---|---|")
    for sabotage in (UNTOUCHED, *SABOTAGES):
        made = make(checkpoint, masks, images, sabotage)
        worst = (max(m.bytes_off for m in made), max(m.truncated_off for m in made))
        print(f"| {sabotage.name} | {worst[0]:.3%} | {worst[1]:.4%} |")


if __name__ == "__main__":
    main()
