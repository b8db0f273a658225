"""Turn a generator trained with pytorch-CycleGAN-and-pix2pix into a bundle, and check the bundle.

    python examples/own_checkpoint.py [BUNDLE [CHECKPOINT]]

CHECKPOINT is a *_net_G.pth; without it a tiny one of the tests is taken, whose weights are random.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from m2l_export import ExportOptions, export_checkpoint
from m2l_runtime import Shapes, Synthesizer, open_bundle

TINY = Path(__file__).resolve().parent.parent / "tests" / "data" / "tiny" / "tiny_net_G.pth"


def main(bundle: str = "example-bundle", checkpoint: str = str(TINY)) -> None:
    """Export, replay the golden images on every engine here, and synthesize one image."""
    # Depth, width, channels and norm are read from the file. Nothing is written unless the images agree with PyTorch's.
    report = export_checkpoint(checkpoint, bundle, ExportOptions(overwrite=True))
    print(f"at most {report.parity.max_level_difference} of 255 levels from PyTorch")
    for warning in report.warnings:
        print("warning:", warning)

    # The same in a shell, on any machine that the bundle is copied to: m2l verify BUNDLE
    m2l = Path(sys.executable).with_name("m2l")
    subprocess.run([m2l, "verify", bundle], check=True)

    manifest = open_bundle(bundle).manifest
    print(f"{manifest.name}: {manifest.image_size[0]}x{manifest.image_size[1]} pixels")
    with Synthesizer.open(bundle, device="cpu") as synthesizer:
        masks = Shapes(seed=3, size=manifest.image_size[0]).draw(0)[None]
        images = synthesizer(masks)
    print("one image:", images.shape, images.dtype)


if __name__ == "__main__":
    main(*sys.argv[1:])
