"""Draw a bundle's images in fp32, in lower precisions, and eight times the difference.

.venv/bin/python scripts/sheet_of_precisions.py sheet.jpg --masks MASKS --bundle BUNDLE
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from m2l_export.parity.metrics import fidelity
from m2l_runtime import Synthesizer
from m2l_runtime._utils import atomic
from m2l_runtime._utils.text import stem
from m2l_runtime.bundle import embedded
from m2l_runtime.errors import InputError, M2LError
from m2l_runtime.masks.mask_folder import find_masks
from m2l_runtime.output.contact_sheet import Cell, Row, draw_rows
from m2l_runtime.types import Images, Masks

COLUMNS = 8
AMPLIFIED = 8


def main(
    out: Path,
    masks: Annotated[Path, typer.Option(help="Folder of masks.")] = embedded.EXAMPLE_MASKS,
    bundle: Annotated[Path, typer.Option(help="Bundle of the generator.")] = embedded.BUNDLE,
) -> None:
    """Draw the sheet."""
    atomic.check_new_file(out, overwrite=True)
    mask_folder = find_masks(masks)
    if not mask_folder.names:
        raise InputError(f"there are no masks in {masks}; give a folder of some")
    names = [mask_folder.names[place] for place in np.linspace(0, len(mask_folder.names) - 1, COLUMNS).astype(int)]
    with Synthesizer.open(bundle, backend="onnxruntime", precision="fp32") as synth:
        drawn: Masks = np.stack([mask_folder.read(name, synth.image_size).mask for name in names])
        exact = synth(drawn)
        manifest = synth.bundle.manifest
    labels = [stem(name)[-22:] for name in names]
    rows = [
        Row(
            "masks, and below each its image in fp32 on onnxruntime",
            [Cell([m, i], label) for m, label, i in zip(drawn, labels, exact, strict=True)],
        ),
    ]
    for model in manifest.models:
        if model.precision == "fp32":
            continue
        with Synthesizer.open(bundle, backend=model.engines[0], precision=model.precision) as synth:
            images = synth(drawn)
        how = fidelity(exact, images)
        title = (
            f"{model.precision}, {model.engines[0]}: {how.mean_psnr_db:.1f} dB, worst {how.worst_psnr_db:.1f}; below "
            f"each, {AMPLIFIED} times its difference from fp32, grey where there is none"
        )
        pairs = zip(images, _amplified(images, exact), strict=True)
        rows.append(Row(title, [Cell([image, difference]) for image, difference in pairs]))
    draw_rows(rows, f"{manifest.name}. Synthetic images: they show no patient and are not for diagnosis.").save(out)


def _amplified(images: Images, exact: Images) -> Images:
    """Amplify differences; 128 is no difference."""
    return np.clip(128 + AMPLIFIED * (images.astype(int) - exact), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    try:
        typer.run(main)
    except M2LError as error:
        raise SystemExit(f"error: {error}") from None
