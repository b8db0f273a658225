"""A bundle for every engine, with TensorRT plans that hold no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from m2l_runtime import open_bundle
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.bundle.schema import FileEntry, PlanFile

A_PLAN: Final[dict[str, Any]] = {
    "compute_capability": "8.9",
    "card": None,
    "precision": "fp32",
    "batch_sizes": (1, 16, 64),
    "convolutions": {"fp32": 16},
    "types_read_from": "network",
    "parity": "not measured",
}
"""What is said of a plan where a test says nothing else; its files and what they are of are added."""


def with_plans(folder: Path, *changes: dict[str, Any]) -> Bundle:
    """The bundle of a folder with models for every engine, and a plan for each of `changes`; the folder is altered."""
    opened = open_bundle(folder)
    model = opened.manifest.models[0]
    plans = []
    for number, change in enumerate(changes):
        entries = [FileEntry.from_content(f"{number}.{end}", f"{number} {end}".encode()) for end in ("plan", "log")]
        for entry in entries:
            (folder / entry.path).write_bytes(entry.path.replace(".", " ").encode())
        fields: dict[str, Any] = {
            "file": entries[0],
            "log": entries[1],
            "flavour": "tensorrt",
            "version": "10.13.3",
            "onnx_sha256": model.file.sha256,
        }
        plans.append(PlanFile(**(A_PLAN | fields | change)))
    half = msgspec.structs.replace(model, engines=("onnxruntime",), precision="fp16")
    models = [
        model,
        msgspec.structs.replace(model, engines=("tensorrt",)),
        half,
        msgspec.structs.replace(half, engines=("tensorrt",)),
        msgspec.structs.replace(model, engines=("openvino",)),
        msgspec.structs.replace(model, engines=("openvino",), precision="bf16"),
        msgspec.structs.replace(model, engines=("openvino",), precision="int8", weights="int8"),
    ]
    given = {(one.engines, one.precision) for one in opened.manifest.models}
    models = [*opened.manifest.models, *(one for one in models if (one.engines, one.precision) not in given)]
    manifest = msgspec.structs.replace(opened.manifest, models=tuple(models), plans=tuple(plans))
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest.fields()))
    return open_bundle(folder)
