"""Extend a bundle whose checkpoint is not at hand to OpenVINO, and drop appearances of little contrast.

    .venv/bin/python scripts/extend_bundle.py BUNDLE OUT --min-contrast 15

OpenVINO's images, in fp32 and bf16, are compared with onnxruntime's of the same file, over drawn and example masks.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from m2l_export.parity.metrics import ParityLimits, fidelity
from m2l_export.precisions import Reference, evaluate, run_file, validate_variant
from m2l_export.quantize.calibration import read_calibration
from m2l_export.targets import OPENVINO, REFERENCE_ENGINE
from m2l_runtime.backends.base import ModelSource
from m2l_runtime.bundle.io import open_bundle, write_bundle
from m2l_runtime.bundle.schema import APPEARANCES_ARRAY, APPEARANCES_NAME, FileEntry, Parity, Precision
from m2l_runtime.conditioning.appearance import contrast


def main(
    bundle: Path,
    out: Path,
    min_contrast: Annotated[float, typer.Option(help="Delta E*ab of mean colors.")] = 0.0,
    masks: Annotated[str, typer.Option(help="Masks to compare over.")] = "shapes:300,seed=1",
) -> None:
    """Write the bundle."""
    opened = open_bundle(bundle)
    manifest = opened.manifest
    base = next(m for m in manifest.models if m.engines == (REFERENCE_ENGINE,) and m.precision == "fp32")
    content = opened.read_model(base)
    files = {entry.path: opened.read(entry) for entry in manifest.files}
    table = opened.read_appearances()
    kept = table[contrast(table) >= min_contrast]

    def source(precision: Precision) -> ModelSource:
        return ModelSource(base.file.path, content, precision, manifest.inputs, manifest.outputs)

    compared = Reference(source("fp32"), read_calibration(masks, manifest.inputs, kept, opened.read_golden()[0]))
    wanted = compared.evaluated.images
    run = run_file(source("fp32"), OPENVINO, compared.calibration.evaluation_inputs)
    measured = fidelity(wanted, run.images)
    if measured.max_levels > 1:
        raise SystemExit(
            f"openvino in fp32 is up to {measured.max_levels} levels from onnxruntime; nothing was written"
        )
    parity = Parity(
        reference=compared.label(is_calibrated=False),
        engine=f"{run.engine}, CPU",
        mask_count=len(wanted),
        batch_sizes=(1,),
        max_level_difference=measured.max_levels,
        mean_level_difference=round(measured.mean_levels, 6),
        psnr_db=round(measured.psnr_db, 2),
        accepted_max_level_difference=1,
    )
    fp32 = msgspec.structs.replace(base, engines=(OPENVINO,), parity=parity)
    evaluated = evaluate(source("fp32"), OPENVINO, "bf16", compared, lambda _: None)
    bf16 = validate_variant(base, source("bf16"), OPENVINO, "bf16", compared, ParityLimits(), evaluated).model
    models = (base, fp32, bf16)

    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{APPEARANCES_ARRAY: kept})
    files[APPEARANCES_NAME] = buffer.getvalue()
    card = files[manifest.model_card.path].decode()
    card = card.replace(f"`appearances.npz` has {len(table):,} of them", f"`appearances.npz` has {len(kept):,} of them")
    card += (
        f"\n## Since it was exported\nAppearances whose mean colors of lesion and skin are less than {min_contrast:g} "
        f"Delta E*ab apart were left out ({len(table) - len(kept):,} of {len(table):,}): there nobody sees where the "
        "mask is. OpenVINO was added, compared with onnxruntime on the same file: in fp32 at most "
        f"{measured.max_levels} level apart, in bf16 a PSNR of {bf16.parity.mean_psnr_db:.1f} dB, worst "
        f"{bf16.parity.worst_psnr_db:.1f}, over {len(wanted)} masks.\n"
    )
    files[manifest.model_card.path] = card.encode()
    assert manifest.appearance is not None  # noqa: S101 - its table was read
    write_bundle(
        out,
        msgspec.structs.replace(
            manifest,
            models=models,
            model_card=FileEntry.from_content(manifest.model_card.path, files[manifest.model_card.path]),
            appearance=msgspec.structs.replace(
                manifest.appearance,
                file=FileEntry.from_content(APPEARANCES_NAME, files[APPEARANCES_NAME]),
                count=len(kept),
                min_contrast=min_contrast,
            ),
        ),
        files,
        overwrite=True,
    )


if __name__ == "__main__":
    typer.run(main)
