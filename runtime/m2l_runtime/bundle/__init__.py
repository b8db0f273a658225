"""Open, check and write bundles: folders that describe the generator in them.

``manifest.json`` describes the generator (image size, how masks are resampled, inputs with roles, outputs)
and lists every other file with its size and SHA-256. The SHA-256 of ``manifest.json`` itself therefore stands
for the whole bundle. Hashes tell whether files are as they were written; they do not tell who wrote them.
docs/bundle.md describes the format for readers in other languages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_runtime._utils.imports import lazy_attributes

if TYPE_CHECKING:
    from m2l_runtime.bundle.io import Bundle, open_bundle, write_bundle
    from m2l_runtime.bundle.schema import (
        AppearanceTable,
        FileEntry,
        Golden,
        Manifest,
        ModelFile,
        Network,
        Parity,
        PlanFile,
        Precision,
        Provenance,
        Resampling,
        TensorSpec,
        Training,
    )
    from m2l_runtime.bundle.validate import parse_manifest

_HOMES = {
    "AppearanceTable": "schema",
    "Bundle": "io",
    "FileEntry": "schema",
    "Golden": "schema",
    "Manifest": "schema",
    "ModelFile": "schema",
    "Network": "schema",
    "Parity": "schema",
    "PlanFile": "schema",
    "Precision": "schema",
    "Provenance": "schema",
    "Resampling": "schema",
    "TensorSpec": "schema",
    "Training": "schema",
    "open_bundle": "io",
    "parse_manifest": "validate",
    "write_bundle": "io",
}

__all__ = [
    "AppearanceTable",
    "Bundle",
    "FileEntry",
    "Golden",
    "Manifest",
    "ModelFile",
    "Network",
    "Parity",
    "PlanFile",
    "Precision",
    "Provenance",
    "Resampling",
    "TensorSpec",
    "Training",
    "open_bundle",
    "parse_manifest",
    "write_bundle",
]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = lazy_attributes(
        __name__,
        _HOMES,
        renamed={"Flavour": "schema.TensorRtVariant", "KNOWN_ROLES": "roles.ROLES"},
    )
