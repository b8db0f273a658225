"""Prepare photographs and masks, train on them, export the network and synthesize with it: all of m2l, in miniature.

    python examples/train_small.py [FOLDER [STEPS]]

The photographs are painted here, and the network is tiny: some seconds, and images that are no beauty. For your own,
leave the painting out; `m2l prepare`, `m2l train`, `m2l export` and `m2l synth` do the same in a shell.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from m2l_export import export_checkpoint
from m2l_runtime import Shapes, Synthesizer, open_source, synthesize_folder
from m2l_train import PrepareOptions, TrainConfig, prepare, train


def paint(folder: Path, count: int) -> None:
    """Write NAME.jpg, brown shapes on light skin, and their masks NAME_segmentation.png."""
    folder.mkdir(parents=True)
    shapes, random = Shapes(seed=5, size=160), np.random.default_rng(5)
    for number in range(count):
        mask = shapes.draw(number)
        share = mask[..., None] / 255
        pixels = (1 - share) * (220, 180, 160) + share * (120, 72, 60) + random.normal(0, 6, (*mask.shape, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.jpg")
        Image.fromarray(mask).save(folder / f"{number:03}_segmentation.png")


def main(folder: str = "example-training", steps: str = "60") -> None:
    """Do everything inside `folder`, which must not be there yet."""
    root = Path(folder)
    if root.exists():
        sys.exit(f"{root} is there already; remove it, or give another folder: {sys.argv[0]} FOLDER")
    paint(root / "photographs", 12)

    report = prepare(root / "photographs", root / "photographs", root / "data", PrepareOptions(size=143))
    print(f"{report.pairs} pairs")

    config = TrainConfig(image_size=128, ngf=8, ndf=8, n_epochs=20, n_epochs_decay=0)
    done = train(root / "data", root / "run", config, device="cpu", max_steps=int(steps), tensorboard=False)
    print(f"{done.step} steps, {done.images_per_s:.3g} images/s")

    export_checkpoint(root / "run", root / "bundle")
    with Synthesizer.open(root / "bundle") as synthesizer:
        summary = synthesize_folder(open_source("shapes:4", size=128), root / "lesions", synthesizer)
    print(f"{summary.image_count} images in {root / 'lesions'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
