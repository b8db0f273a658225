"""Write the page as static files, with the bundle's model and onnxruntime-web: it needs no server of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.reading import decode_line, read_input, reader_errors
from m2l_runtime._utils.text import printable
from m2l_runtime._version import __version__
from m2l_runtime.bundle import onnx_file
from m2l_runtime.bundle.io import Bundle, open_bundle
from m2l_runtime.bundle.schema import ModelFile
from m2l_runtime.conditioning import skin_tone
from m2l_runtime.conditioning.conditions import sampled_appearances
from m2l_runtime.errors import BundleDamaged, BundleError, OutputError
from m2l_runtime.page.config import page_config
from m2l_runtime.page.files import page_files
from m2l_runtime.page.onnxruntime_web import (
    VERSION,
    WASM_FILES,
    WEBGPU_FILES,
    OnnxRuntimeWeb,
    fetch_package,
    read_package,
)

SCHEMA: Final = "m2l-page"
MANIFEST_NAME: Final = "site.json"
"""Lists every other file of a site with its size and SHA-256."""

SMALL_BYTES: Final = 15_000_000
"""A site has no more than that without onnxruntime-web's files, or a note says so."""

WEBGPU_BUFFERS: Final = 8
"""Buffers that a shader has on every device (maxStorageBuffersPerShaderStage of WebGPU); wider nodes run on the CPU."""

_ENGINE: Final = "onnxruntime"
_MAX_MANIFEST_BYTES: Final = 1 << 20


@check_types()
@dataclass(frozen=True)
class SiteOptions:
    """Choose what a site holds.

    Example:
        >>> SiteOptions().webgpu
        True
    """

    onnxruntime_web: Path | None = None
    """Folder of the unpacked npm package; None: the pinned version, from m2l's cache folder or the npm registry."""
    webgpu: bool = True
    """Whether browsers with WebGPU use it. Its file, 27 MB, is loaded by those alone."""
    overwrite: bool = False
    """Replace a site that is there already."""


@dataclass(frozen=True)
class SiteReport:
    """Tell what was written.

    Example:
        >>> SiteReport(Path("site"), 40, 6_000_000, 14_000_000, "1.30.0", ()).page_bytes
        6000000
    """

    path: Path
    file_count: int
    page_bytes: int
    """Of the page and the model."""
    engine_bytes: int
    """Of onnxruntime-web."""
    engine_version: str
    notes: tuple[str, ...]
    """What a person should know."""


@check_types()
def write_site(bundle: str | os.PathLike[str], out: str | os.PathLike[str], options: SiteOptions) -> SiteReport:
    """Write the page for a browser alone: files for any static host, under any path.

    The folder appears whole or not at all. The bundle's model is the one of fp32 precision for onnxruntime, the
    smallest if there are several. Weights may be stored in half precision.

    Example:
        >>> from m2l_runtime.bundle.embedded import BUNDLE
        >>> write_site(BUNDLE, "no/such/site", SiteOptions(onnxruntime_web=Path("no-such-package")))
        Traceback (most recent call last):
        m2l_runtime.errors.InputError: cannot read no-such-package: No such file or directory; ...

    Args:
        bundle: the bundle's folder. What is used of it is checked against its hashes.
        out: folder to make.
        options: where onnxruntime-web comes from, and whether `out` may be replaced.

    Raises:
        BundleError: it is no bundle, is damaged, or has no model for onnxruntime.
        InputError: onnxruntime-web cannot be got.
        OutputError: `out` exists and may not be replaced, or cannot be written.
    """
    opened, target = open_bundle(bundle), Path(out)
    if os.path.lexists(target):
        if not options.overwrite:
            raise OutputError(f"{printable(target)} exists already; choose another name or give --overwrite")
        _require_site(target)
    atomic.check_new_folder(target)
    model = _choose_model(opened)
    names = (*WASM_FILES, *(WEBGPU_FILES if options.webgpu else ()))
    given = options.onnxruntime_web
    engine = fetch_package(names) if given is None else read_package(given, names)
    files = {**_page(opened, model, engine), **{f"ort/{name}": content for name, content in engine.files.items()}}
    about = _manifest(opened, engine, files)
    with atomic.staged_folder(target, may_replace=_require_site if options.overwrite else None) as staging:
        for name, content in {**files, MANIFEST_NAME: _json(about)}.items():
            atomic.create_file(staging / name, content)
    engine_bytes = sum(map(len, engine.files.values()))
    page_bytes = sum(map(len, files.values())) - engine_bytes
    return SiteReport(
        target, len(files) + 1, page_bytes, engine_bytes, engine.version, tuple(_notes(engine, page_bytes))
    )


def _notes(engine: OnnxRuntimeWeb, page_bytes: int) -> list[str]:
    notes = []
    if engine.version != VERSION:
        notes.append(f"onnxruntime-web is {engine.version}; the page was tested with {VERSION}")
    if page_bytes > SMALL_BYTES:
        notes.append(
            f"page and model have {page_bytes / 1e6:.1f} MB, so the first visit takes a while; "
            "m2l export --weights fp16 makes smaller ones"
        )
    return notes


def _choose_model(bundle: Bundle) -> ModelFile:
    models = [model for model in bundle.manifest.models if model.precision == "fp32" and _ENGINE in model.engines]
    if not models:
        raise BundleError(
            f"{printable(bundle.path)} has no model of fp32 precision for {_ENGINE}, which onnxruntime-web runs; "
            "export its checkpoint again where onnxruntime is installed"
        )
    return min(models, key=lambda model: model.file.size_bytes)


def _page(bundle: Bundle, model: ModelFile, engine: OnnxRuntimeWeb) -> dict[str, bytes]:
    """Make all files of a site but the engine's and the manifest."""
    model_path = f"model/{Path(model.file.path).name}"
    content = bundle.read_model(model)
    with reader_errors(BundleDamaged, bundle.path / model.file.path, "is not an ONNX model"):
        wide = onnx_file.wide_nodes(content, WEBGPU_BUFFERS)
    files = {name: file.content for name, file in page_files().items()} | {model_path: content}
    golden, entries = _golden(bundle)
    files["model/golden.bin"] = golden
    browser: dict[str, Any] = {
        "model": {"path": model_path, "size_bytes": model.file.size_bytes, "sha256": model.file.sha256},
        "max_level_difference": model.parity.accepted_max_level_difference or model.parity.max_level_difference,
        "golden": {"path": "model/golden.bin", "arrays": entries},
        "engine": {
            "version": engine.version,
            "wasm": f"ort/{WASM_FILES[0]}",
            "webgpu": f"ort/{WEBGPU_FILES[0]}" if WEBGPU_FILES[0] in engine.files else None,
            "cpu_nodes": wide,
        },
        "appearances": None,
    }
    if bundle.manifest.input("appearance") is not None:
        browser["appearances"], table = _appearances(bundle)
        files["model/appearances.bin"] = table
    files["config.json"] = _json({**page_config(bundle, mode="browser"), "browser": browser})
    return files


def _golden(bundle: Bundle) -> tuple[bytes, list[dict[str, Any]]]:
    """Join the inputs and the image of the first golden pair, as the arrays listed, little-endian."""
    inputs, images = bundle.read_golden()
    parts = {name: array[0] for name, array in inputs.items()} | {bundle.manifest.outputs[0].name: images[0]}
    entries = [{"name": name, "dtype": str(part.dtype), "bytes": part.nbytes} for name, part in parts.items()]
    return b"".join(part.astype(part.dtype.newbyteorder("<")).tobytes() for part in parts.values()), entries


def _appearances(bundle: Bundle) -> tuple[dict[str, Any], bytes]:
    """Join the table of appearances, float32, and what sampling computes of it, so that browsers sample the same."""
    table = sampled_appearances(bundle)
    names = () if bundle.manifest.appearance is None else bundle.manifest.appearance.names
    deviation = table.std(0, np.float64)
    about: dict[str, Any] = {
        "path": "model/appearances.bin",
        "count": len(table),
        "deviations": np.where(deviation > 0, deviation, 1.0).tolist(),
        "angle_deviation": None,
    }
    content = table.astype("<f4").tobytes()
    if all(column in names for column in skin_tone.COLUMNS):
        angles = skin_tone.ita(*(table[:, names.index(column)] for column in skin_tone.COLUMNS))
        about["angle_deviation"] = float(angles.std() or 1.0)
        content += b"\0" * (-len(content) % 8) + angles.astype("<f8").tobytes()
    return about, content


def _manifest(bundle: Bundle, engine: OnnxRuntimeWeb, files: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "version": __version__,
        "bundle_sha256": bundle.sha256,
        "onnxruntime_web": engine.version,
        "files": [
            {"path": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in sorted(files.items())
        ],
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode() + b"\n"


def _require_site(path: Path) -> None:
    """Refuse to replace anything but a site.

    Raises:
        OutputError: `path` is not a folder with a manifest of a site in it.
    """
    head = None
    with contextlib.suppress(OSError):
        head = decode_line(read_input(path / MANIFEST_NAME, _MAX_MANIFEST_BYTES), dict[str, Any])
    if head is None or head.get("schema") != SCHEMA:
        raise OutputError(f"{printable(path)} is not a page of m2l web, so it is not overwritten; choose another name")
